//! Which requests are taken at all: those for this host, and changes only from this console's own pages. Pure.

use hyper::HeaderMap;
use hyper::header::{HOST, ORIGIN, REFERER};

/// Which names the Host header may bear. A page of another site whose name suddenly points here (DNS rebinding) bears
/// its own.
pub struct Hosts {
    /// Whether every name is taken.
    any: bool,
    named: Vec<String>,
}

const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

impl Hosts {
    /// On loopback its names and `named`; elsewhere `named`, or any where none is named.
    pub fn new(on_loopback: bool, named: Vec<String>) -> Self {
        let any = !on_loopback && named.is_empty();
        Self { any, named }
    }

    /// Whether a request is for this host.
    pub fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(host) = header(headers, HOST.as_str()) else {
            return false;
        };
        let name = without_port(host).to_lowercase();
        self.any || LOOPBACK.contains(&name.as_str()) || self.named.contains(&name)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a change comes from a page of this console: `Sec-Fetch-Site` says so, or where a browser does not send it,
/// `Origin` is this host's. A request with neither is refused.
pub fn is_same_origin(headers: &HeaderMap) -> bool {
    if headers.contains_key("sec-fetch-site") {
        return header(headers, "sec-fetch-site") == Some("same-origin");
    }
    header(headers, ORIGIN.as_str()).is_some_and(|origin| own_part(headers, origin) == Some(""))
}

/// The path and query of the page of this console that a request comes from.
pub fn own_referer(headers: &HeaderMap) -> Option<&str> {
    own_part(headers, header(headers, REFERER.as_str())?).filter(|path| path.starts_with('/'))
}

/// What stands behind this host in a URL of it.
fn own_part<'a>(headers: &HeaderMap, url: &'a str) -> Option<&'a str> {
    let host = header(headers, HOST.as_str())?;
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"))?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    authority.eq_ignore_ascii_case(host).then_some(path)
}

/// Headers that proxies add.
const FORWARDED: [&str; 5] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
];

/// Whether a proxy brought this request.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    FORWARDED.iter().any(|name| headers.contains_key(*name))
}

/// A header that is there once.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn loopback_takes_its_own_names_and_those_that_are_named() {
        let allow = |hosts: &Hosts, host: &str| hosts.allow(&headers(&[("host", host)]));
        let loopback = Hosts::new(true, vec!["ops.example.com".to_owned()]);
        for host in [
            "localhost:9090",
            "127.0.0.1:1",
            "[::1]:9090",
            "127.0.0.1",
            "ops.example.com",
            "OPS.example.com:443",
        ] {
            assert!(allow(&loopback, host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9090",
            "",
        ] {
            assert!(!allow(&loopback, host), "{host}");
        }
        assert!(!loopback.allow(&HeaderMap::new()));
        assert!(allow(&Hosts::new(false, Vec::new()), "10.0.0.1:9090"));
        let named = Hosts::new(false, vec!["ops.example.com".to_owned()]);
        assert!(!allow(&named, "10.0.0.1:9090"));
    }

    #[test]
    fn changes_come_from_the_same_origin() {
        for (pairs, same) in [
            (vec![("sec-fetch-site", "same-origin")], true),
            (vec![("sec-fetch-site", "same-site")], false),
            (vec![("sec-fetch-site", "cross-site")], false),
            (vec![("sec-fetch-site", "none")], false),
            (
                vec![
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "http://h:1"),
                    ("host", "h:1"),
                ],
                false,
            ),
            (vec![("origin", "http://h:1"), ("host", "h:1")], true),
            (vec![("origin", "https://H:1"), ("host", "h:1")], true),
            (vec![("origin", "http://h:2"), ("host", "h:1")], false),
            (vec![("origin", "http://h:1.evil"), ("host", "h:1")], false),
            (vec![("origin", "null"), ("host", "h:1")], false),
            (vec![("host", "h:1")], false),
            (vec![], false),
        ] {
            assert_eq!(is_same_origin(&headers(&pairs)), same, "{pairs:?}");
        }
    }

    #[test]
    fn a_form_comes_from_a_page_of_this_host() {
        let referer = |url: &str| {
            own_referer(&headers(&[("host", "h:1"), ("referer", url)])).map(str::to_owned)
        };
        assert_eq!(
            referer("https://h:1/events/a?b=c"),
            Some("/events/a?b=c".to_owned())
        );
        for other in ["http://h:1", "http://h:2/a", "http://h:1.evil/a", "/a", ""] {
            assert_eq!(referer(other), None, "{other}");
        }
        assert!(is_forwarded(&headers(&[("x-forwarded-for", "1.2.3.4")])));
        assert!(!is_forwarded(&headers(&[("host", "h:1")])));
    }
}
