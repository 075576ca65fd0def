//! The users of a file, and their passwords. A password that was right is remembered for a while, so that its slow hash
//! is computed once and not with every picture of a page.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::sync::Semaphore;
use tracing::error;

use super::auth::{Identity, Refused, Role};

/// Passwords of one name that are looked at per client and minute; those that are remembered do not count.
const TRIES_PER_MINUTE: u32 = 10;
/// The same of all names: behind a proxy everybody is the same client.
const TRIES_OF_ALL_PER_MINUTE: u32 = 60;
/// How long a right password is remembered after it was used last.
const REMEMBERED: Duration = Duration::from_secs(300);
const MOST_REMEMBERED: usize = 1_000;
/// Hashes at a time: each takes 19 MiB.
const MOST_AT_ONCE: usize = 2;
/// Clients remembered before those that have calmed down are forgotten.
const MOST_CLIENTS: usize = 10_000;
/// For a user that there is not: the answer takes as long.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5$8Wb9cX0dUzD4eQ1oGJ0mWmYvG6i3Rr0Ck1x6dP0w2tI";

/// A user of the file.
#[derive(Clone)]
pub struct User {
    role: Role,
    hash: String,
}

type Users = HashMap<String, User>;

/// Reads a file of users.
pub fn read(file: &Path) -> Result<Users, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("cannot be read: {error}"))?;
    let users = parse(&text)?;
    if users.is_empty() {
        return Err("names no user".to_owned());
    }
    Ok(users)
}

fn parse(text: &str) -> Result<Users, String> {
    let mut users = Users::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let user = parse_line(line).ok_or_else(|| {
            format!("line {number} is not `name:viewer|operator|admin:hash` with a hash of `ops console hash-password`")
        })?;
        if users.insert(user.0.clone(), user.1).is_some() {
            return Err(format!("names `{}` twice", user.0));
        }
    }
    Ok(users)
}

fn parse_line(line: &str) -> Option<(String, User)> {
    let mut parts = line.splitn(3, ':');
    let (name, role, hash) = (parts.next()?, parts.next()?, parts.next()?);
    let role = Role::parse(role)?;
    PasswordHash::new(hash).ok()?;
    let hash = hash.to_owned();
    (!name.is_empty()).then(|| (name.to_owned(), User { role, hash }))
}

/// The hash of a password, as the file takes it.
pub fn hash(password: &str) -> Result<String, String> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    Ok(hash.map_err(|error| error.to_string())?.to_string())
}

fn is_right(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| {
        Argon2::default()
            .verify_password(password.as_bytes(), &hash)
            .is_ok()
    })
}

struct Loaded {
    modified: Option<SystemTime>,
    users: Arc<Users>,
    /// By a keyed digest of name and password: neither is kept.
    remembered: HashMap<[u8; 32], (Identity, Instant)>,
}

/// Checks names and passwords against the file, as it is now.
pub struct Passwords {
    file: PathBuf,
    key: [u8; 32],
    loaded: Mutex<Loaded>,
    /// By client and digest of the name.
    tries: DefaultKeyedRateLimiter<(IpAddr, [u8; 32])>,
    tries_of_all: DefaultKeyedRateLimiter<IpAddr>,
    clock: DefaultClock,
    at_once: Arc<Semaphore>,
}

impl Passwords {
    /// Passwords of a file.
    pub fn new(file: PathBuf) -> Self {
        let loaded = Loaded {
            modified: None,
            users: Arc::default(),
            remembered: HashMap::new(),
        };
        let per_minute =
            |tries: u32| Quota::per_minute(NonZeroU32::new(tries).unwrap_or(NonZeroU32::MIN));
        Self {
            file,
            key: rand::random(),
            loaded: Mutex::new(loaded),
            tries: RateLimiter::keyed(per_minute(TRIES_PER_MINUTE)),
            tries_of_all: RateLimiter::keyed(per_minute(TRIES_OF_ALL_PER_MINUTE)),
            clock: DefaultClock::default(),
            at_once: Arc::new(Semaphore::new(MOST_AT_ONCE)),
        }
    }

    /// Who that is.
    pub async fn identify(
        &self,
        client: IpAddr,
        name: &str,
        password: &str,
    ) -> Result<Identity, Refused> {
        let users = self.users();
        let digest = self.digest(name, password);
        if let Some(identity) = self.remembered(&digest) {
            return Ok(identity);
        }
        self.count_try(client, self.digest(name, ""))?;
        let user = users.get(name).cloned();
        let (hash, password) = (
            user.as_ref().map_or(NOBODY, |user| &user.hash).to_owned(),
            password.to_owned(),
        );
        let permit = self.at_once.clone().acquire_owned().await;
        let right = tokio::task::spawn_blocking(move || {
            // Kept here: who asks may leave meanwhile, and the hash goes on.
            let _permit = permit;
            is_right(&password, &hash)
        })
        .await;
        match user {
            Some(user) if right.unwrap_or(false) => {
                let identity = Identity {
                    name: name.to_owned(),
                    role: user.role,
                };
                self.remember(digest, &identity);
                Ok(identity)
            }
            user => Err(Refused::Wrong(user.map(|_| name.to_owned()))),
        }
    }

    /// The users as the file has them; a change of the file ends what is remembered. A file that is broken lets nobody in.
    fn users(&self) -> Arc<Users> {
        let modified = std::fs::metadata(&self.file)
            .and_then(|file| file.modified())
            .ok();
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if modified.is_none() || loaded.modified != modified {
            loaded.users = Arc::new(read(&self.file).unwrap_or_else(|problem| {
                error!(%problem, "CONSOLE_USERS_FILE: nobody can sign in");
                Users::new()
            }));
            loaded.remembered.clear();
            loaded.modified = modified;
        }
        loaded.users.clone()
    }

    fn digest(&self, name: &str, password: &str) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key)
            .unwrap_or_else(|_| unreachable!("any length is a key"));
        mac.update(&(name.len() as u64).to_be_bytes());
        mac.update(name.as_bytes());
        mac.update(password.as_bytes());
        mac.finalize().into_bytes().into()
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<Identity> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let (identity, used) = loaded.remembered.get_mut(digest)?;
        if used.elapsed() >= REMEMBERED {
            return None;
        }
        *used = Instant::now();
        Some(identity.clone())
    }

    fn remember(&self, digest: [u8; 32], identity: &Identity) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.remembered.len() >= MOST_REMEMBERED {
            loaded.remembered.clear();
        }
        loaded
            .remembered
            .insert(digest, (identity.clone(), Instant::now()));
    }

    fn count_try(&self, client: IpAddr, name: [u8; 32]) -> Result<(), Refused> {
        if self.tries.len() > MOST_CLIENTS {
            self.tries.retain_recent();
        }
        if self.tries_of_all.len() > MOST_CLIENTS {
            self.tries_of_all.retain_recent();
        }
        self.tries_of_all
            .check_key(&client)
            .and_then(|()| self.tries.check_key(&(client, name)))
            .map_err(|until| Refused::TooMany(until.wait_time_from(self.clock.now())))
    }
}

/// How many users there are of each role, for people.
pub fn summary(users: &Users) -> String {
    let count = |role: Role| users.values().filter(|user| user.role == role).count();
    [Role::Admin, Role::Operator, Role::Viewer]
        .map(|role| format!("{} {}", count(role), role.as_str()))
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_fits_its_password_and_no_other() {
        let hash = hash("correct horse").unwrap();
        assert!(is_right("correct horse", &hash));
        assert!(!is_right("correct horsf", &hash));
        assert!(!is_right("", &hash) && !is_right("correct horse", "x"));
        assert!(PasswordHash::new(NOBODY).is_ok(), "it must take as long");
    }

    #[tokio::test]
    async fn guessing_at_one_name_keeps_nobody_else_behind_the_same_proxy_out() {
        let folder = std::env::temp_dir().join(format!("users-{:x}", rand::random::<u64>()));
        let hash = hash("right").unwrap();
        std::fs::write(&folder, format!("ann:admin:{hash}\nbob:viewer:{hash}\n")).unwrap();
        let passwords = Passwords::new(folder.clone());
        let proxy: IpAddr = [10, 0, 0, 1].into();
        for _ in 0..TRIES_PER_MINUTE {
            let guess = passwords.identify(proxy, "ann", "wrong").await;
            assert!(matches!(guess, Err(Refused::Wrong(Some(name))) if name == "ann"));
        }
        let more = passwords.identify(proxy, "ann", "right").await;
        assert!(matches!(more, Err(Refused::TooMany(_))));
        let bob = passwords.identify(proxy, "bob", "right").await.unwrap();
        assert_eq!((bob.name.as_str(), bob.role), ("bob", Role::Viewer));
        std::fs::remove_file(folder).unwrap();
    }

    #[test]
    fn lines_are_name_role_and_hash() {
        let hash = hash("x").unwrap();
        let users = parse(&format!("# team\n\nann:admin:{hash}\nbob:viewer:{hash}\n")).unwrap();
        assert_eq!((users.len(), users["ann"].role), (2, Role::Admin));
        for bad in [
            format!("ann:root:{hash}"),
            format!(":admin:{hash}"),
            "ann:admin:secret".to_owned(),
            format!("ann:admin:{hash}\nann:viewer:{hash}"),
        ] {
            let problem = parse(&bad).err().unwrap();
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
