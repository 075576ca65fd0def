//! Where a load is sent, and how it is signed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use shared::signature::SigningKey;

use crate::stripe::SECRET;

/// Gateways to choose from, as a load balancer does, and how to sign.
#[derive(Clone, Default)]
pub struct Targets(Arc<Mutex<Signing>>);

struct Signing {
    gateways: Vec<SocketAddr>,
    secret: String,
    /// The sender's clock may be off by so many seconds either way.
    skew_s: i64,
}

impl Default for Signing {
    fn default() -> Self {
        Self {
            gateways: Vec::new(),
            secret: SECRET.to_owned(),
            skew_s: 0,
        }
    }
}

impl Targets {
    /// Sends to these from now on.
    pub fn set(&self, addresses: Vec<SocketAddr>) {
        self.0.lock().unwrap().gateways = addresses;
    }

    /// Signs with another secret from now on.
    pub fn sign_with(&self, secret: &str) {
        secret.clone_into(&mut self.0.lock().unwrap().secret);
    }

    /// Lets the sender's clock be off.
    pub fn skew(&self, seconds: i64) {
        self.0.lock().unwrap().skew_s = seconds;
    }

    pub(super) fn choose(&self, body: &str) -> Option<(SocketAddr, String)> {
        let signing = self.0.lock().unwrap();
        let index = rand::random_range(0..signing.gateways.len().max(1));
        let gateway = signing.gateways.get(index).copied()?;
        let skew_s = rand::random_range(-signing.skew_s..=signing.skew_s);
        let now = Timestamp::now().as_second() + skew_s;
        let header = SigningKey::new(&signing.secret).sign(now, body.as_bytes());
        Some((gateway, header))
    }
}
