//! Who asks, and what they may do.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::config::{Entry, Proxy};
use super::guard::is_forwarded;
use super::passwords::Passwords;

/// What somebody may do; each may what those before may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look, with personal data covered.
    Viewer,
    /// Retry, replay, sort dead letters, and uncover a payload with a reason.
    Operator,
    /// Go beyond the caps of replays.
    Admin,
}

impl Role {
    /// The role of a word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == word)
    }

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// Somebody who was let in.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The name that the audit log bears.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

/// Why somebody was not let in.
#[derive(Debug)]
pub enum Refused {
    /// Name and password are missing.
    SignIn,
    /// Name or password are wrong: of whom, if there is such a user.
    Wrong(Option<String>),
    /// Too many passwords were tried.
    TooMany(Duration),
    /// The request did not come through the trusted proxy.
    NotThroughProxy,
    /// A proxy brought it, and nobody is asked who they are.
    ThroughUnknownProxy,
}

/// The header in which a trusted proxy proves itself.
pub(super) const SECRET_HEADER: &str = "x-console-proxy-secret";
/// The longest name that a proxy may tell.
const MAX_NAME: usize = 200;

/// Tells who asks.
pub enum Authenticator {
    /// Everybody is this operator.
    Local(Identity),
    /// By HTTP Basic.
    Users(Box<Passwords>),
    /// By a trusted proxy's headers.
    Proxy(Proxy),
}

impl Authenticator {
    /// Lets in whom the settings name.
    pub fn new(entry: Entry, local_name: String) -> Self {
        match entry {
            Entry::Local => Self::Local(Identity {
                name: local_name,
                role: Role::Operator,
            }),
            Entry::Users(file) => Self::Users(Box::new(Passwords::new(file))),
            Entry::Proxy(proxy) => Self::Proxy(proxy),
        }
    }

    /// Whether anybody is asked who they are.
    pub fn asks(&self) -> bool {
        !matches!(self, Self::Local(_))
    }

    /// Who sent this request.
    pub async fn identify(&self, client: IpAddr, headers: &HeaderMap) -> Result<Identity, Refused> {
        match self {
            // A proxy on this machine makes a loopback address reachable from elsewhere.
            Self::Local(_) if is_forwarded(headers) => Err(Refused::ThroughUnknownProxy),
            Self::Local(identity) => Ok(identity.clone()),
            Self::Users(passwords) => {
                let (name, password) = basic(headers).ok_or(Refused::SignIn)?;
                passwords.identify(client, &name, &password).await
            }
            Self::Proxy(proxy) => proxied(proxy, headers).ok_or(Refused::NotThroughProxy),
        }
    }
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some((name.to_owned(), password.to_owned()))
}

fn proxied(proxy: &Proxy, headers: &HeaderMap) -> Option<Identity> {
    let secret = single(headers, SECRET_HEADER)?;
    // Digests have one length: nothing is told by the time that this takes.
    let right = Sha256::digest(secret).ct_eq(&Sha256::digest(&proxy.secret));
    if !bool::from(right) {
        return None;
    }
    let name = single(headers, &proxy.user_header)?.trim();
    let proper =
        !name.is_empty() && name.len() <= MAX_NAME && !name.contains(|c: char| c.is_control());
    let role = single(headers, &proxy.role_header)
        .and_then(|word| Role::parse(word.trim()))
        .unwrap_or(Role::Viewer);
    proper.then(|| Identity {
        name: name.to_owned(),
        role,
    })
}

/// A header that is there once: of two, one may be the client's.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
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
    fn basic_credentials_are_read_to_the_first_colon() {
        let read = |value: &str| basic(&headers(&[("authorization", value)]));
        let encoded = BASE64_STANDARD.encode("ann:pass:word");
        let ann = Some(("ann".to_owned(), "pass:word".to_owned()));
        assert_eq!(read(&format!("Basic {encoded}")), ann);
        assert_eq!(read(&format!("basic {encoded}")), ann);
        assert_eq!(read(&format!("Bearer {encoded}")), None);
        assert_eq!(read("Basic ???"), None);
        assert_eq!(basic(&HeaderMap::new()), None);
    }

    #[test]
    fn a_proxy_is_believed_with_its_secret_only() {
        let proxy = Proxy {
            user_header: "x-user".to_owned(),
            role_header: "x-role".to_owned(),
            secret: "0123456789abcdef".to_owned(),
        };
        let secret = (SECRET_HEADER, "0123456789abcdef");
        let who = |pairs: &[(&'static str, &str)]| {
            proxied(&proxy, &headers(pairs)).map(|identity| (identity.name, identity.role))
        };
        let ann = |role| Some(("ann".to_owned(), role));
        assert_eq!(
            who(&[secret, ("x-user", "ann"), ("x-role", "admin")]),
            ann(Role::Admin)
        );
        assert_eq!(who(&[secret, ("x-user", "ann")]), ann(Role::Viewer));
        assert_eq!(
            who(&[secret, ("x-user", "ann"), ("x-role", "root")]),
            ann(Role::Viewer)
        );
        assert_eq!(who(&[("x-user", "ann"), ("x-role", "admin")]), None);
        assert_eq!(
            who(&[(SECRET_HEADER, "0123456789abcdeX"), ("x-user", "ann")]),
            None
        );
        assert_eq!(who(&[secret]), None);
        assert_eq!(
            who(&[secret, ("x-user", "ann"), ("x-user", "mallory")]),
            None
        );
    }
}
