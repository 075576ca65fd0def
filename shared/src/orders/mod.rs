//! The order domain: what is known of an order, how facts change it, and what follows. `transition` decides, `store`
//! reads and writes.

pub mod cart;
mod notice;
pub mod store;
mod transition;

use std::fmt;

use serde::Deserialize;

use crate::money::Money;

pub use notice::{Notice, NoticeItem, NoticeKind, NoticeTicket};
pub use transition::{Change, Effect, Entitlement, Fact, News, Rejection};

/// Where an order stands; derived from what is known of its payments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderStatus {
    /// Not paid yet.
    Pending,
    /// Paid and fulfilled.
    Paid,
    /// A payment failed. Not final at the provider: a later success reinstates the order.
    Cancelled,
    /// All that was paid went back.
    Refunded,
    /// A person must decide.
    Review,
}

impl OrderStatus {
    /// The text in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Paid => "paid",
            Self::Cancelled => "cancelled",
            Self::Refunded => "refunded",
            Self::Review => "review",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [
            Self::Pending,
            Self::Paid,
            Self::Cancelled,
            Self::Refunded,
            Self::Review,
        ]
        .into_iter()
        .find(|status| status.as_str() == text)
    }
}

impl fmt::Display for OrderStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An order with what is known of its payments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The shop's id.
    pub id: String,
    /// Where it stands.
    pub status: OrderStatus,
    /// The buyer's account; courses belong to it.
    pub user_id: Option<String>,
    /// Where mails go.
    pub email: String,
    /// What must be paid: the sum of its items.
    pub amount: Money,
    /// It was paid when there was nothing to give for it: its seats were taken, or its course had no account.
    pub unfulfillable: bool,
    /// What was ordered.
    pub items: Vec<OrderItem>,
    /// Its registrations, one per seat.
    pub seats: usize,
    /// Every payment heard of, in no order.
    pub payments: Vec<Payment>,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct OrderItem {
    /// The product's name.
    pub name: String,
    /// How many.
    pub quantity: i32,
    /// A course, and not a seat.
    pub is_course: bool,
}

/// One payment at the provider. What is known of it only ever grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The PaymentIntent's id, or the Charge's or Session's where there is none.
    pub reference: String,
    /// Whether the amount was ever held for us.
    pub authorized: bool,
    /// Whether it ever succeeded.
    pub succeeded: bool,
    /// Captured so far.
    pub captured_cents: i64,
    /// Refunded so far: the highest cumulative value heard of.
    pub refunded_cents: i64,
    /// Whether a refund ever failed.
    pub refund_failed: bool,
    /// Why it failed or was closed, in the first words heard.
    pub failure: Option<String>,
    /// Whether a try to pay ever failed.
    pub failed: bool,
    /// Whether it can never succeed any more.
    pub closed: bool,
    /// What the buyer's bank makes of it.
    pub dispute: Dispute,
}

/// A dispute's course; the later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dispute {
    /// There is none.
    None,
    /// Open.
    Open,
    /// Closed in our favour, or withdrawn.
    Won,
    /// The money is gone.
    Lost,
}

impl Dispute {
    /// The text in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Open => "open",
            Self::Won => "won",
            Self::Lost => "lost",
        }
    }

    fn parse(text: &str) -> Self {
        let known = [Self::None, Self::Won, Self::Lost];
        // A text that this version does not know is for a person to look at.
        known
            .into_iter()
            .find(|dispute| dispute.as_str() == text)
            .unwrap_or(Self::Open)
    }
}

impl Payment {
    /// The text in the table.
    fn status(&self) -> &'static str {
        match self.refunded_cents {
            0 if self.succeeded => "succeeded",
            refunded if self.succeeded && refunded >= self.captured_cents => "refunded",
            _ if self.succeeded => "partially_refunded",
            _ if self.closed => "cancelled",
            _ if self.failed => "failed",
            _ if self.authorized => "authorized",
            _ => "pending",
        }
    }
}
