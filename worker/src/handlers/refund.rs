//! `refund.*` and `charge.refund.updated`. Shapes: docs.stripe.com/api/refunds/object. How much went back is told by
//! `charge.refunded`, which is cumulative; for the order only a refund that failed is news. Each refund is mirrored.

use deadpool_postgres::Transaction;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::Value;
use shared::orders::store::OrderKey;
use shared::orders::{Fact, News};

use super::{Failure, Handler, Orders, Outcome};
use crate::event::{Event, link, order_ids, proper};
use crate::store::mirrors::{News as MirrorNews, Refund, mirror_refund};

#[derive(Deserialize)]
struct RefundObject {
    id: String,
    #[serde(default)]
    amount: i64,
    #[serde(default)]
    currency: Value,
    /// `failed` and `canceled` mean that the money is still, or again, ours. New values may come.
    status: Option<String>,
    #[serde(default)]
    failure_reason: Value,
    #[serde(default)]
    payment_intent: Value,
    #[serde(default)]
    charge: Value,
    #[serde(default)]
    metadata: Value,
}

impl RefundObject {
    fn came_to_nothing(&self) -> bool {
        matches!(self.status.as_deref(), Some("failed" | "canceled"))
    }

    /// Among the events of one second the later stage wins.
    fn rank(&self) -> i32 {
        match self.status.as_deref() {
            _ if self.came_to_nothing() => 2,
            Some("succeeded") => 1,
            _ => 0,
        }
    }

    fn mirror(&self) -> Refund {
        let text = |value: &Value| value.as_str().and_then(proper);
        Refund {
            id: self.id.clone(),
            payment_ref: link(&self.payment_intent),
            charge: link(&self.charge),
            amount_cents: self.amount.max(0),
            currency: text(&self.currency)
                .unwrap_or_else(|| "xxx".to_owned())
                .to_lowercase(),
            status: self.status.clone().unwrap_or_else(|| "unknown".to_owned()),
            failure_reason: text(&self.failure_reason),
        }
    }
}

/// A refund has news.
pub struct Updated(pub(super) Orders);

impl Handler for Updated {
    fn handle<'a>(
        &'a self,
        event: &'a Event,
        tx: &'a Transaction<'_>,
    ) -> BoxFuture<'a, Result<Outcome, Failure>> {
        async move {
            let refund: RefundObject = event.object()?;
            let news = MirrorNews {
                at: event.created_at,
                rank: refund.rank(),
                event_id: &event.id,
            };
            mirror_refund(tx, &refund.mirror(), &news).await?;
            if !refund.came_to_nothing() {
                return Ok(Outcome::Processed);
            }
            let (intent, charge) = (link(&refund.payment_intent), link(&refund.charge));
            let references: Vec<String> = intent.into_iter().chain(charge).collect();
            let Some(reference) = references.first().cloned() else {
                let message = "the refund names neither payment_intent nor charge";
                return Err(Failure::permanent("invalid_payload", message));
            };
            let key = OrderKey {
                ids: order_ids(&refund.metadata).collect(),
                references,
            };
            self.0
                .apply(
                    tx,
                    &key,
                    &Fact {
                        reference,
                        news: News::RefundFailed,
                    },
                )
                .await
        }
        .boxed()
    }
}
