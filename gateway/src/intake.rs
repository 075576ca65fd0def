//! A bounded queue that several tasks empty in batches. A batch forms by itself: whatever waits when a task is free. A
//! lone item waits for nothing.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

/// The queue; clones share it.
pub struct Intake<T> {
    sender: mpsc::Sender<T>,
    receiver: Arc<Mutex<mpsc::Receiver<T>>>,
    closing: CancellationToken,
}

impl<T> Clone for Intake<T> {
    fn clone(&self) -> Self {
        let (sender, receiver) = (self.sender.clone(), self.receiver.clone());
        Self {
            sender,
            receiver,
            closing: self.closing.clone(),
        }
    }
}

impl<T> Intake<T> {
    /// A queue of `size` items at the most.
    pub fn new(size: usize) -> Self {
        let (sender, receiver) = mpsc::channel(size);
        Self {
            sender,
            receiver: Arc::new(Mutex::new(receiver)),
            closing: CancellationToken::new(),
        }
    }

    /// Adds an item; false when the queue is full or closed.
    pub fn offer(&self, item: T) -> bool {
        self.sender.try_send(item).is_ok()
    }

    /// Waits for an item, and takes it with up to `most` in all that are there already. Nothing once the queue is closed
    /// and empty.
    pub async fn take(&self, most: usize) -> Vec<T> {
        let mut batch = Vec::new();
        let mut receiver = self.receiver.lock().await;
        if !receiver.is_closed() {
            tokio::select! {
                biased;
                _ = receiver.recv_many(&mut batch, most) => return batch,
                () = self.closing.cancelled() => receiver.close(),
            }
        }
        receiver.recv_many(&mut batch, most).await;
        batch
    }

    /// Takes no more items; what is there can still be taken.
    pub fn close(&self) {
        self.closing.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_is_taken_in_one_batch_of_bounded_size() {
        let intake = Intake::new(5);
        assert!((0..5).all(|item| intake.offer(item)));
        assert!(!intake.offer(5), "the queue is full");
        assert_eq!(intake.take(3).await, [0, 1, 2]);
        assert_eq!(intake.take(3).await, [3, 4]);
    }

    #[tokio::test]
    async fn a_closed_queue_is_emptied_and_then_ends() {
        let intake = Intake::new(5);
        let waiting = tokio::spawn({
            let intake = intake.clone();
            async move { intake.take(1).await }
        });
        assert!(intake.offer(1));
        assert_eq!(waiting.await.unwrap(), [1]);
        assert!(intake.offer(2));
        intake.close();
        assert_eq!(intake.take(1).await, [2]);
        assert!(intake.take(1).await.is_empty());
        assert!(!intake.offer(3), "it is closed");
    }
}
