//! Tells the broker what is dealt with: one acknowledgement for all that were handed over up to a message, where none
//! before it is open, and one by one where an earlier message takes longer.

use std::collections::BTreeSet;
use std::time::Duration;

use lapin::Channel;
use lapin::options::BasicAckOptions;
use tokio::sync::mpsc;
use tracing::debug;

/// Rest after a round: what is dealt with meanwhile shares the next one. A lone message waits for nothing.
const REST: Duration = Duration::from_millis(5);
/// Messages told in one round.
const MOST: usize = 256;

/// A message of the channel that the broker may forget: its delivery tag. It is sent after the commit of what came of the
/// message, or after its rejection.
pub type Settled = u64;

/// Acknowledges until every sender is gone. What does not reach the broker comes again, to no effect.
pub async fn acknowledge(channel: Channel, mut settled: mpsc::Receiver<Settled>) {
    let (mut window, mut tags) = (Window::default(), Vec::new());
    while settled.recv_many(&mut tags, MOST).await > 0 {
        let round = window.close(tags.drain(..));
        let all = round.up_to.map(|tag| (tag, true));
        let single = round.single.into_iter().map(|tag| (tag, false));
        for (tag, multiple) in all.into_iter().chain(single) {
            if let Err(error) = channel.basic_ack(tag, BasicAckOptions { multiple }).await {
                return debug!(%error, "the messages will come again");
            }
        }
        tokio::time::sleep(REST).await;
    }
}

/// What is settled of a channel's messages, whose tags count from one.
#[derive(Default)]
struct Window {
    /// Every tag up to this one is settled and told.
    told_up_to: u64,
    /// Settled beyond it since the last round: an earlier message may be about to end.
    fresh: BTreeSet<u64>,
    /// Settled beyond it and told one by one.
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
    /// handing over more.
    fn close(&mut self, settled: impl Iterator<Item = u64>) -> Round {
        let waited = std::mem::take(&mut self.fresh);
        self.fresh.extend(settled);
        let mut is_settled =
            |tag| self.fresh.remove(&tag) | self.told.remove(&tag) | waited.contains(&tag);
        let before = self.told_up_to;
        while is_settled(self.told_up_to + 1) {
            self.told_up_to += 1;
        }
        let single: Vec<u64> = waited
            .into_iter()
            .filter(|tag| *tag > self.told_up_to)
            .collect();
        self.told.extend(&single);
        Round {
            up_to: (self.told_up_to > before).then_some(self.told_up_to),
            single,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(window: &mut Window, settled: &[u64]) -> (Option<u64>, Vec<u64>) {
        let round = window.close(settled.iter().copied());
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

    proptest! {
        #[test]
        fn every_message_is_told_and_none_before_it_is_settled(
            order in Just((1..=40).collect::<Vec<u64>>()).prop_shuffle(), size in 1_usize..10
        ) {
            let (mut window, mut settled, mut told) = (Window::default(), BTreeSet::new(), BTreeSet::new());
            let idle: [&[u64]; 2] = [&[], &[]];
            for batch in order.chunks(size).chain(idle) {
                settled.extend(batch);
                let round = window.close(batch.iter().copied());
                told.extend(1..=round.up_to.unwrap_or(0));
                told.extend(round.single);
                prop_assert!(told.is_subset(&settled), "{told:?} of {settled:?}");
            }
            prop_assert_eq!(told.len(), order.len());
        }
    }
}
