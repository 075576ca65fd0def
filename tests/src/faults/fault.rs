//! What a row of the table is made of.

use anyhow::Result;
use futures_util::future::LocalBoxFuture;

use super::row::LONGEST_RECOVERY_MS;
use super::scene::Scene;
use super::stage::Setup;
use crate::simulator::Shape;

/// Breaks something, and mends it again.
pub type Act = for<'a> fn(&'a mut Scene) -> LocalBoxFuture<'a, Result<()>>;

/// Whether senders may notice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Noticed {
    /// Every delivery must be answered with 200 at once.
    Never,
    /// Perhaps.
    Maybe,
    /// Of ten deliveries one at the most may fail.
    Seldom,
    /// A row in which no delivery fails did not strike.
    Always,
}

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Fault {
    /// `F15a`; the letters tell variants apart.
    pub id: &'static str,
    /// What is done.
    pub title: &'static str,
    /// Does it.
    pub act: Act,
    /// What stands on the stage.
    pub setup: fn() -> Setup,
    /// Orders sent, over so many seconds.
    pub load: (usize, u64),
    /// Which events.
    pub shape: Shape,
    /// Mails that may go out twice: those that killed workers had under way.
    pub mails_doubled: usize,
    /// Whether senders may notice.
    pub noticed: Noticed,
    /// How long it may take until everything is done again, in milliseconds; none where others use the machine too.
    pub recovery_ms: Option<u64>,
    /// Whether attempts may fail: not where only the database or the broker is away.
    pub burnt_attempts: bool,
    /// Whether the soak strikes with it too.
    pub in_soak: bool,
    /// Whether a test stages it too: it takes seconds, and strikes no server that others use.
    pub in_tests: bool,
}

impl Fault {
    pub(super) const fn new(id: &'static str, title: &'static str, act: Act) -> Self {
        Self {
            id,
            title,
            act,
            setup: Setup::default,
            load: (120, 6),
            shape: Shape::Mixed,
            mails_doubled: 0,
            noticed: Noticed::Maybe,
            recovery_ms: Some(LONGEST_RECOVERY_MS),
            burnt_attempts: true,
            in_soak: true,
            in_tests: true,
        }
    }

    /// It strikes a whole server, or takes long.
    pub(super) const fn seldom(self) -> Self {
        Self {
            in_tests: false,
            ..self
        }
    }

    /// The gateway must not be affected.
    pub(super) const fn accepted(self) -> Self {
        Self {
            noticed: Noticed::Never,
            ..self
        }
    }

    /// The gateway must be affected: else nothing was broken.
    pub(super) const fn refused(self) -> Self {
        Self {
            noticed: Noticed::Always,
            ..self
        }
    }

    /// The gateway may be affected a little.
    pub(super) const fn seldom_noticed(self) -> Self {
        Self {
            noticed: Noticed::Seldom,
            ..self
        }
    }

    /// There is more to make up for than 15 s allow.
    pub(super) const fn recovered_within_ms(self, recovery_ms: u64) -> Self {
        Self {
            recovery_ms: Some(recovery_ms),
            ..self
        }
    }

    /// No attempt may fail for it.
    pub(super) const fn burns_nothing(self) -> Self {
        Self {
            burnt_attempts: false,
            ..self
        }
    }

    pub(super) const fn mails(self, mails_doubled: usize) -> Self {
        Self {
            mails_doubled,
            ..self
        }
    }

    pub(super) const fn over(self, orders: usize, seconds: u64) -> Self {
        Self {
            load: (orders, seconds),
            ..self
        }
    }

    pub(super) const fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    pub(super) const fn staged(self, setup: fn() -> Setup) -> Self {
        Self { setup, ..self }
    }

    /// It changes what the other faults of a soak count on.
    pub(super) const fn alone(self) -> Self {
        Self {
            in_soak: false,
            ..self
        }
    }
}
