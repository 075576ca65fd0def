//! `charge.dispute.*`. Shapes: docs.stripe.com/api/disputes/object.

use deadpool_postgres::Transaction;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use shared::orders::store::OrderKey;
use shared::orders::{Dispute, Fact, News};

use super::{Failure, Handler, Orders, Outcome};
use crate::event::{Event, link, order_ids};

#[derive(Deserialize)]
struct DisputeObject {
    status: Option<String>,
    #[serde(default)]
    payment_intent: Value,
    #[serde(default)]
    charge: Value,
    #[serde(default)]
    metadata: Value,
}

impl DisputeObject {
    /// An inquiry (`warning_…`) takes no money; a status that is not known yet is open.
    fn course(&self) -> Dispute {
        match self.status.as_deref() {
            Some("lost") => Dispute::Lost,
            Some("won" | "warning_closed" | "prevented") => Dispute::Won,
            _ => Dispute::Open,
        }
    }
}

/// A dispute was opened, moved on, or was decided.
pub struct Disputed(pub(super) Orders);

impl Handler for Disputed {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let dispute: DisputeObject = event.object()?;
            let (intent, charge) = (link(&dispute.payment_intent), link(&dispute.charge));
            let references: Vec<String> = intent.into_iter().chain(charge).collect();
            let Some(reference) = references.first().cloned() else {
                let message = "the dispute names neither payment_intent nor charge";
                return Err(Failure::permanent("invalid_payload", message));
            };
            let key = OrderKey {
                ids: order_ids(&dispute.metadata).collect(),
                references,
            };
            let news = News::Disputed(dispute.course());
            self.0.apply(tx, &key, &Fact { reference, news }).await
        }
        .boxed()
    }
}
