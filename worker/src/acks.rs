//! Tells the broker what is dealt with: one acknowledgement for all that were handed over up to a message, where none
//! before it is open, and one by one where an earlier message takes longer.

use std::collections::BTreeSet;
use std::time::Duration;

use lapin::Channel;
use lapin::options::BasicAckOptions;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::debug;

/// Rest after a round: what is dealt with meanwhile shares the next one. A lone message waits for nothing.
const REST: Duration = Duration::from_millis(5);
/// Messages told in one round.
const MOST: usize = 256;

/// A message of the channel that is dealt with, by its delivery tag.
#[derive(Debug, Clone, Copy)]
pub enum Settled {
    /// What came of it is committed: the broker may forget it.
    Done(u64),
    /// The broker has it back already.
    Rejected(u64),
}

/// Acknowledges until every sender is gone. What does not reach the broker comes again, to no effect.
pub async fn acknowledge(channel: Channel, mut settled: mpsc::Receiver<Settled>) {
    let (mut window, mut tags) = (Window::default(), Vec::new());
    loop {
        let received = settled.recv_many(&mut tags, MOST);
        // What waits behind an open message has waited for a round, whether another message is settled or not.
        let received = match window.fresh.is_empty() {
            true => received.await,
            false => timeout(REST, received).await.unwrap_or(MOST),
        };
        let round = window.close(tags.drain(..));
        let all = round.up_to.map(|tag| (tag, true));
        let single = round.single.into_iter().map(|tag| (tag, false));
        for (tag, multiple) in all.into_iter().chain(single) {
            if let Err(error) = channel.basic_ack(tag, BasicAckOptions { multiple }).await {
                return debug!(%error, "the messages will come again");
            }
        }
        if received == 0 {
            return;
        }
        sleep(REST).await;
    }
}

/// What is settled of a channel's messages, whose tags count from one.
#[derive(Default)]
struct Window {
    /// Every tag up to this one is settled and told.
    told_up_to: u64,
    /// Settled beyond it since the last round: an earlier message may be about to end.
    fresh: BTreeSet<u64>,
    /// Settled beyond it and told one by one, or rejected.
    told: BTreeSet<u64>,
}

/// What to tell the broker.
#[derive(Debug, PartialEq, Eq)]
struct Round {
    up_to: Option<u64>,
    single: Vec<u64>,
}

impl Window {
    /// What waited for a whole round behind an open message is told by itself: else that one would keep the broker from
    /// handing over more. No message is told twice: the broker would close the channel.
    fn close(&mut self, settled: impl Iterator<Item = Settled>) -> Round {
        let waited = std::mem::take(&mut self.fresh);
        for message in settled {
            match message {
                Settled::Done(tag) => self.fresh.insert(tag),
                Settled::Rejected(tag) => self.told.insert(tag),
            };
        }
        let mut up_to = None;
        loop {
            let next = self.told_up_to + 1;
            if self.fresh.remove(&next) || waited.contains(&next) {
                up_to = Some(next);
            } else if !self.told.remove(&next) {
                break;
            }
            self.told_up_to = next;
        }
        let single: Vec<u64> = waited
            .into_iter()
            .filter(|tag| *tag > self.told_up_to)
            .collect();
        self.told.extend(&single);
        Round { up_to, single }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(window: &mut Window, settled: &[u64]) -> (Option<u64>, Vec<u64>) {
        let round = window.close(settled.iter().copied().map(Settled::Done));
        (round.up_to, round.single)
    }

    #[test]
    fn what_is_settled_without_a_gap_is_told_at_once() {
        let mut window = Window::default();
        assert_eq!(round(&mut window, &[2, 1, 3]), (Some(3), vec![]));
        assert_eq!(round(&mut window, &[4]), (Some(4), vec![]));
    }

    #[test]
    fn what_waits_behind_an_open_message_is_told_by_itself_after_a_round() {
        let mut window = Window::default();
        assert_eq!(round(&mut window, &[1, 3]), (Some(1), vec![]));
        assert_eq!(round(&mut window, &[4]), (None, vec![3]));
        assert_eq!(round(&mut window, &[2]), (Some(4), vec![]));
        assert_eq!(round(&mut window, &[5]), (Some(5), vec![]));
    }

    #[test]
    fn what_was_told_by_itself_does_not_end_a_round() {
        let mut window = Window::default();
        assert_eq!(round(&mut window, &[2]), (None, vec![]));
        assert_eq!(round(&mut window, &[]), (None, vec![2]));
        assert_eq!(round(&mut window, &[1]), (Some(1), vec![]));
        assert_eq!(round(&mut window, &[3]), (Some(3), vec![]));
    }

    /// A broker that has handed over so many messages, and closes the channel when it is told of one that it does not
    /// wait for.
    struct Broker(BTreeSet<u64>);

    impl Broker {
        fn hear(&mut self, round: Round, settled: &BTreeSet<u64>) {
            if let Some(up_to) = round.up_to {
                assert!(self.0.contains(&up_to), "unknown delivery tag {up_to}");
                let later = self.0.split_off(&(up_to + 1));
                assert!(self.0.is_subset(settled), "{:?} of {settled:?}", self.0);
                self.0 = later;
            }
            for tag in round.single {
                assert!(settled.contains(&tag), "{tag} is open");
                assert!(self.0.remove(&tag), "unknown delivery tag {tag}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_message_is_told_once_and_not_before_it_is_settled(
            order in Just((1..=40).collect::<Vec<u64>>()).prop_shuffle(), size in 1_usize..10, rejected in 0_u64..20
        ) {
            let mut broker = Broker((1..=40).collect());
            let (mut window, mut settled) = (Window::default(), BTreeSet::new());
            let idle: [&[u64]; 2] = [&[], &[]];
            for batch in order.chunks(size).chain(idle) {
                settled.extend(batch);
                let dealt_with: Vec<Settled> = batch.iter().map(|tag| match tag % 20 == rejected {
                    true => Settled::Rejected(*tag),
                    false => Settled::Done(*tag),
                }).collect();
                broker.0.retain(|tag| !(batch.contains(tag) && tag % 20 == rejected));
                broker.hear(window.close(dealt_with.into_iter()), &settled);
            }
            prop_assert!(broker.0.is_empty(), "{:?} were not told", broker.0);
        }
    }
}
