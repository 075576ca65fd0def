//! Reconciling: events of Stripe's list that were never seen are imported, with body and message, as a webhook's are.
//! A known event is left as it is. One run at a time: its row holds the others off for as long as it beats.

mod run;
pub mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::database::StoreError;
use crate::stripe::ApiError;

pub use run::Reconciler;
pub use store::Run;

/// How far back Stripe lists events.
pub const HORIZON: Duration = Duration::from_secs(30 * 86_400);

/// Younger events are left to their webhooks: Stripe lists them as undelivered while those are on their way.
pub const GRACE: Duration = Duration::from_secs(60);
/// Events imported in a second, unless somebody asks for another rate.
pub const DEFAULT_RATE_PER_S: u32 = 50;

/// What a run looks at.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// Events that were created then or later.
    pub since: Timestamp,
    /// Events that were created then or earlier.
    pub until: Timestamp,
    /// Also those that Stripe counts as delivered.
    pub everything: bool,
}

/// What a run has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Answers of Stripe's.
    pub pages: i32,
    /// Events in them.
    pub listed: i32,
    /// Those that were stored already.
    pub known: i32,
    /// Those that were not, and are now; in a dry run, those that would be.
    pub imported: i32,
    /// Those without an id and a type, which cannot be stored.
    pub unreadable: i32,
    /// How many of which type were imported.
    pub types: BTreeMap<String, u32>,
}

/// Why a run did not come to its end. What it imported until then stays.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Stripe's list cannot be had.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The database does not do what it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key gives events of the other mode; nothing of their page was imported.
    #[error("{event_id} is not of {} mode, which is served here", if *.livemode { "live" } else { "test" })]
    WrongMode {
        /// The first such event.
        event_id: String,
        /// The mode that is served.
        livemode: bool,
    },
    /// There is more, but nothing tells where.
    #[error("Stripe's list goes on, but its last event has no id")]
    NoPlace,
    /// The list does not end.
    #[error("the list has more than {0} events: look back less far")]
    TooMany(usize),
    /// Another run took over, since this one was not heard of for a while.
    #[error("this run was given up meanwhile: it was not heard of for a while")]
    Lost,
    /// Its process was told to end.
    #[error("interrupted")]
    Interrupted,
}
