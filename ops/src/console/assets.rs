//! Styles, scripts and pictures, embedded. Their names hold a hash of their content, so that browsers keep them for good.

use std::sync::LazyLock;

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, HeaderValue};
use sha2::{Digest, Sha256};

use super::reply::{self, Reply};

struct Asset {
    name: &'static str,
    content: &'static [u8],
    path: String,
}

macro_rules! assets {
    ($($file:literal),* $(,)?) => {
        [$(($file, include_bytes!(concat!("../../assets/", $file)).as_slice())),*]
    };
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let files = assets![
        "console.css",
        "console.js",
        "charts.js",
        "icon.svg",
        "vendor/htmx.min.js",
        "vendor/htmx-ext-sse.min.js",
        "vendor/uPlot.iife.min.js",
        "vendor/uPlot.min.css",
    ];
    files.into_iter().map(asset).collect()
});

fn asset((name, content): (&'static str, &'static [u8])) -> Asset {
    let hash = hex::encode(&Sha256::digest(content)[..8]);
    let file = name.rsplit('/').next().unwrap_or(name);
    let (stem, extension) = file.rsplit_once('.').unwrap_or((file, ""));
    let path = format!("/assets/{stem}.{hash}.{extension}");
    Asset {
        name,
        content,
        path,
    }
}

/// The path of a file; templates name it.
pub fn path(name: &str) -> &'static str {
    ASSETS
        .iter()
        .find(|asset| asset.name == name)
        .map_or("", |asset| &asset.path)
}

/// The file of a path.
pub fn find(path: &str) -> Option<Reply> {
    let asset = ASSETS.iter().find(|asset| asset.path == path)?;
    let content_type = match asset.name.rsplit('.').next() {
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        _ => "image/svg+xml",
    };
    let mut reply = reply::whole(StatusCode::OK, content_type, asset.content);
    let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
    reply.headers_mut().insert(CACHE_CONTROL, forever);
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each line of the table names a file, and its content is what was taken from the package.
    #[test]
    fn vendored_files_are_those_of_vendor_md() {
        let table = include_str!("../../assets/vendor/VENDOR.md");
        let mut seen = 0;
        for asset in ASSETS
            .iter()
            .filter(|asset| asset.name.starts_with("vendor/"))
        {
            let file = asset.name.trim_start_matches("vendor/");
            let row = table
                .lines()
                .find(|line| line.contains(&format!("`{file}`")));
            let hash = hex::encode(Sha256::digest(asset.content));
            assert!(row.unwrap().contains(&hash), "{file} is {hash}");
            seen += 1;
        }
        assert_eq!(seen, 4);
    }

    #[test]
    fn names_hold_their_hash_and_nothing_else_is_served() {
        let path = path("console.css");
        assert!(path.starts_with("/assets/console.") && path.ends_with(".css"));
        assert!(find(path).is_some());
        for other in ["/assets/console.css", "/assets/../Cargo.toml", "/assets/"] {
            assert!(find(other).is_none(), "{other}");
        }
    }
}
