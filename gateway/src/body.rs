//! Reads a request's body within bounds: of each body, and of what all large ones together may take of the memory.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::refusal::Rejection;

/// Up to here a body needs no share: nearly all of Stripe's are smaller.
const SMALL_BYTES: usize = 64 * 1024;
/// What all larger bodies share, in kibibytes.
const SHARED_KIB: usize = 256 * 1024;
/// What is read of a body that is too large, so that its sender comes to read the answer.
const DISCARDED_BYTES: usize = 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// Reads bodies; clones share the memory.
#[derive(Clone)]
pub struct Bodies {
    most_bytes: usize,
    shared: Arc<Semaphore>,
}

/// A whole body.
pub struct Whole {
    /// Its exact bytes.
    pub bytes: Bytes,
    /// Its share of the memory, if it is a large one, until this is dropped.
    pub share: Option<OwnedSemaphorePermit>,
}

impl Bodies {
    /// Reads bodies of `most_bytes` at the most.
    pub fn new(most_bytes: usize) -> Self {
        Self {
            most_bytes,
            shared: Arc::new(Semaphore::new(SHARED_KIB)),
        }
    }

    /// Reads a body. It may have to wait for its share of the memory.
    pub async fn read(&self, mut body: Incoming) -> Result<Whole, Rejection> {
        if body.size_hint().lower() > self.most_bytes as u64 {
            discard(body).await;
            return Err(Rejection::PayloadTooLarge);
        }
        let mut whole = Whole {
            bytes: Bytes::new(),
            share: None,
        };
        // What came in one piece is not copied. Of several none is kept: each may hold a whole read buffer, however few of
        // its bytes are the body's.
        let mut first = Bytes::new();
        let mut several: Vec<u8> = Vec::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Rejection::BrokenBody)?;
            let Ok(part) = frame.into_data() else {
                continue;
            };
            length += part.len();
            if length > self.most_bytes {
                discard(body).await;
                return Err(Rejection::PayloadTooLarge);
            }
            if length > SMALL_BYTES && whole.share.is_none() {
                whole.share = self.share().await;
            }
            if length == part.len() {
                first = part;
            } else {
                several.extend_from_slice(&std::mem::take(&mut first));
                several.extend_from_slice(&part);
            }
        }
        whole.bytes = match several.is_empty() {
            true => first,
            false => several.into(),
        };
        Ok(whole)
    }

    /// As much as the largest body may take: how large this one becomes is not known yet.
    async fn share(&self) -> Option<OwnedSemaphorePermit> {
        let kib = self.most_bytes.div_ceil(1024).min(SHARED_KIB);
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        self.shared.clone().acquire_many_owned(kib).await.ok()
    }
}

/// Throws away some of what is still to come: where a connection is closed with bytes unread, the system may tell the
/// sender of a reset before it has read the answer.
async fn discard(mut body: Incoming) {
    let some = async {
        let mut left = DISCARDED_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(left) => left,
                None => return,
            };
        }
    };
    let _ = timeout(DISCARD_TIMEOUT, some).await;
}
