//! One request of somebody who was let in, as pages see it.

use hyper::Method;
use hyper::header::COOKIE;
use hyper::http::request::Parts;
use hyper::http::uri::PathAndQuery;
use jiff::Timestamp;

use super::auth::{Identity, Role};
use super::guard::own_referer;
use crate::OpsError;
use crate::commands::Accountable;

/// Names and values of a query or a form.
#[derive(Debug, Default)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads `a=b&c=d`.
    pub fn parse(raw: &[u8]) -> Self {
        Self(
            form_urlencoded::parse(raw)
                // The database takes no zero byte.
                .map(|(name, value)| (name.into_owned(), value.replace('\0', "")))
                .collect(),
        )
    }

    /// The value of a name, trimmed; empty counts as not given.
    pub fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(given, _)| given == name);
        value
            .map(|(_, value)| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// Whether a box was ticked.
    pub fn ticked(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// A request.
pub struct Visit {
    /// Who asks.
    pub who: Identity,
    /// Whether nothing may be changed.
    pub read_only: bool,
    /// The colours that the browser asked for: `auto`, `light` or `dark`.
    pub theme: &'static str,
    /// Whether it is a form.
    pub is_change: bool,
    /// The path.
    pub path: String,
    /// Path and query; of the page that sent it, where it is a form.
    pub here: String,
    /// The query.
    pub query: Fields,
    /// The form of a change.
    pub form: Fields,
    /// When it came.
    pub now: Timestamp,
}

/// The cookie that keeps the colours.
pub const THEME_COOKIE: &str = "theme";
/// The longest reason.
const MAX_REASON: usize = 1_000;

impl Visit {
    /// A request without its body.
    pub fn new(who: Identity, read_only: bool, head: &Parts) -> Self {
        let uri = &head.uri;
        let here = match head.method {
            // Nobody can go back to where a form was sent.
            Method::POST => own_referer(&head.headers).map_or("/", own_path),
            _ => uri.path_and_query().map_or("/", PathAndQuery::as_str),
        }
        .to_owned();
        Self {
            who,
            read_only,
            theme: theme_of(head),
            is_change: head.method == Method::POST,
            path: uri.path().to_owned(),
            here,
            query: Fields::parse(uri.query().unwrap_or_default().as_bytes()),
            form: Fields::default(),
            now: Timestamp::now(),
        }
    }

    /// Whether changes are for this visitor at all.
    pub fn may(&self, role: Role) -> bool {
        !self.read_only && self.who.role >= role
    }

    /// Refuses who may not.
    pub fn must(&self, role: Role) -> Result<(), OpsError> {
        if self.read_only {
            let text = "this console is read-only: nothing was changed";
            return Err(OpsError::NotPermitted(text.to_owned()));
        }
        if self.who.role < role {
            let (needed, is) = (role.as_str(), self.who.role.as_str());
            let text = format!("this needs the role {needed}, and yours is {is}");
            return Err(OpsError::NotPermitted(text));
        }
        Ok(())
    }

    /// Who does it, and why.
    pub fn accountable(&self) -> Result<Accountable, OpsError> {
        Ok(Accountable {
            reason: self.reason()?.to_owned(),
            actor: self.who.name.clone(),
        })
    }

    /// The reason that the form gives.
    pub fn reason(&self) -> Result<&str, OpsError> {
        match self.form.get("reason") {
            Some(reason) if reason.chars().count() <= MAX_REASON => Ok(reason),
            Some(_) => Err(OpsError::Usage("the reason is too long".to_owned())),
            None => Err(OpsError::Usage("a reason must be given".to_owned())),
        }
    }
}

/// The colours of a word.
pub fn theme(word: &str) -> &'static str {
    match word {
        "light" => "light",
        "dark" => "dark",
        _ => "auto",
    }
}

fn theme_of(head: &Parts) -> &'static str {
    let cookies = head.headers.get_all(COOKIE).iter();
    let mut pairs = cookies
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(name, _)| *name == THEME_COOKIE)
        .map_or("auto", |(_, value)| theme(value))
}

/// A path of this console, to go back to; anything else is `/`.
pub fn own_path(raw: &str) -> &str {
    let own = raw.starts_with('/')
        && !raw.starts_with("//")
        // Browsers drop tabs: `/\t/elsewhere` would be another host.
        && !raw.contains(|c: char| c == '\\' || c.is_control())
        && raw.is_ascii();
    if own { raw } else { "/" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_paths_are_gone_back_to() {
        for (raw, own) in [
            ("/events?filter=a", "/events?filter=a"),
            ("//evil.example", "/"),
            ("/\\evil.example", "/"),
            ("https://evil.example", "/"),
            ("/a\r\nx: y", "/"),
            ("/\t/evil.example", "/"),
            ("", "/"),
        ] {
            assert_eq!(own_path(raw), own, "{raw}");
        }
    }
}
