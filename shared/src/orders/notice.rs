//! What a mail tells: the facts as they were when the effect happened, kept with the mail's row.

use serde::{Deserialize, Serialize};

use crate::money::Money;

/// Which mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoticeKind {
    /// Confirmation with tickets.
    OrderPaid,
    /// A payment failed.
    PaymentFailed,
    /// All of a payment went back.
    OrderRefunded,
    /// Some of it went back.
    PartlyRefunded,
    /// A seat became free for the first of the waitlist.
    SeatOffered,
    /// An invoice of a subscription could not be paid.
    InvoiceFailed,
}

impl NoticeKind {
    /// The text in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OrderPaid => "order_paid",
            Self::PaymentFailed => "payment_failed",
            Self::OrderRefunded => "order_refunded",
            Self::PartlyRefunded => "partly_refunded",
            Self::SeatOffered => "seat_offered",
            Self::InvoiceFailed => "invoice_failed",
        }
    }

    /// The kind of a text in the table.
    pub fn parse(text: &str) -> Option<Self> {
        let kinds = [
            Self::OrderPaid,
            Self::PaymentFailed,
            Self::OrderRefunded,
            Self::PartlyRefunded,
            Self::SeatOffered,
            Self::InvoiceFailed,
        ];
        kinds.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A mail's facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The order's id, or the invoice's number.
    pub order_id: String,
    /// The amount that the mail is about, with its currency, for people.
    pub amount: String,
    /// What was ordered.
    pub items: Vec<NoticeItem>,
    /// The tickets issued.
    pub tickets: Vec<NoticeTicket>,
    /// Why a payment failed.
    pub reason: Option<String>,
    /// Until when an offer stands, for people.
    #[serde(default)]
    pub until: Option<String>,
}

impl Notice {
    /// A mail about something of a name and an amount, and nothing else.
    pub fn about(name: String, amount: &Money) -> Self {
        Self {
            order_id: name,
            amount: amount.to_string(),
            items: Vec::new(),
            tickets: Vec::new(),
            reason: None,
            until: None,
        }
    }
}

/// One line of the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeItem {
    /// The product's name.
    pub name: String,
    /// How many.
    pub quantity: i32,
}

/// One ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeTicket {
    /// The product's name.
    pub name: String,
    /// The ticket's code.
    pub code: String,
}
