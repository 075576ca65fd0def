//! The places that a listener has for connections. Where none is left, a connection that asks for nothing makes room: first
//! one that never asked for anything, the oldest of them. So whoever opens many and sends nothing keeps nobody out.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// How long to wait for the connection that shall make room, or for any other, before one more is asked.
const PATIENCE: Duration = Duration::from_millis(50);

/// A listener's places.
pub struct Places(Arc<Inner>);

struct Inner {
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// By age.
    connections: BTreeMap<u64, Arc<Connection>>,
    next: u64,
}

#[derive(Default)]
struct Connection {
    /// A request is under way.
    busy: AtomicBool,
    /// A request was answered.
    served: AtomicBool,
    given_up: Notify,
}

impl Places {
    /// As many places.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Inner {
            free: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            taken: Mutex::default(),
        }))
    }

    /// Takes a place, for which an idle connection may have to go.
    pub async fn take(&self) -> Place {
        let free = || self.0.free.clone();
        let mut permit = free().try_acquire_owned().ok();
        loop {
            if let Some(permit) = permit {
                return self.place(permit);
            }
            self.0.make_room();
            let freed = tokio::time::timeout(PATIENCE, free().acquire_owned()).await;
            permit = freed.ok().and_then(Result::ok);
        }
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        let connection = Arc::new(Connection::default());
        let mut taken = self.0.taken();
        let number = taken.next;
        taken.next += 1;
        taken.connections.insert(number, connection.clone());
        drop(taken);
        Place {
            number,
            connection,
            inner: self.0.clone(),
            _permit: permit,
        }
    }
}

impl Inner {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn make_room(&self) {
        let taken = self.taken();
        let idle = || {
            let all = taken.connections.values();
            all.filter(|connection| !connection.busy.load(Ordering::Relaxed))
        };
        let silent = idle().find(|connection| !connection.served.load(Ordering::Relaxed));
        if let Some(connection) = silent.or_else(|| idle().next()) {
            connection.given_up.notify_one();
        }
    }
}

/// A connection's place, until this is dropped.
pub struct Place {
    number: u64,
    connection: Arc<Connection>,
    inner: Arc<Inner>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Notes the connection's requests.
    pub fn requests(&self) -> Requests {
        Requests(self.connection.clone())
    }

    /// Returns when the connection shall make room and has nothing under way.
    pub async fn given_up(&self) {
        loop {
            self.connection.given_up.notified().await;
            if !self.connection.busy.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.taken().connections.remove(&self.number);
    }
}

/// Notes a connection's requests.
#[derive(Clone)]
pub struct Requests(Arc<Connection>);

impl Requests {
    /// A request's head is there.
    pub fn begin(&self) -> UnderWay {
        self.0.busy.store(true, Ordering::Relaxed);
        UnderWay(self.0.clone())
    }
}

/// A request that is not answered yet.
pub struct UnderWay(Arc<Connection>);

impl UnderWay {
    /// It is answered.
    pub fn end(self) {
        self.0.served.store(true, Ordering::Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.busy.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_given_up(place: &Place) -> bool {
        let limit = Duration::from_millis(1);
        tokio::time::timeout(limit, place.given_up()).await.is_ok()
    }

    #[tokio::test]
    async fn who_never_asked_for_anything_makes_room_first_and_who_is_served_never() {
        let places = Places::new(4);
        let (busy, served) = (places.take().await, places.take().await);
        let (old, young) = (places.take().await, places.take().await);
        let _under_way = busy.requests().begin();
        served.requests().begin().end();
        places.0.make_room();
        assert!(is_given_up(&old).await);
        drop(old);
        places.0.make_room();
        assert!(is_given_up(&young).await);
        drop(young);
        places.0.make_room();
        assert!(is_given_up(&served).await);
        drop(served);
        places.0.make_room();
        assert!(!is_given_up(&busy).await);
    }

    #[tokio::test]
    async fn whoever_comes_when_all_is_taken_gets_the_place_of_an_idle_one() {
        let places = Places::new(1);
        let idle = places.take().await;
        let leaves = async {
            idle.given_up().await;
            drop(idle);
        };
        tokio::join!(places.take(), leaves);
    }
}
