//! Where facts come to orders: the one place that both a webhook's handler and a shop's own call (a landing page that asks
//! whether the payment arrived) go through, so that both find the same answer.

use deadpool_postgres::Transaction;

use super::super::cart::{self, CartError, CartLine};
use super::super::{Fact, OrderStatus, Rejection};
use super::creation::{Buyer, create, prices};
use super::{OrderKey, SeatTimes, find_for_update, save};
use crate::database::StoreError;

/// Takes facts in, a transaction each.
#[derive(Debug, Clone, Copy)]
pub struct Desk {
    /// How long seats wait.
    pub times: SeatTimes,
}

/// Why a fact was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    /// It cannot be about this order.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The cart makes no order.
    #[error(transparent)]
    Cart(#[from] CartError),
    /// The database did not do what it was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Desk {
    /// Brings a fact to the order that it is about, and says where the order stands. None when there is no such order.
    pub async fn apply(
        self,
        tx: &Transaction<'_>,
        key: &OrderKey,
        fact: &Fact,
    ) -> Result<Option<OrderStatus>, DeskError> {
        let Some(order) = find_for_update(tx, key).await? else {
            return Ok(None);
        };
        let change = order.apply(fact)?;
        Ok(Some(save(tx, &order, &change, self.times).await?))
    }

    /// Creates an order of what was bought, unless it is there already, then brings the fact to it and says where it
    /// stands.
    pub async fn create_and_apply(
        self,
        tx: &Transaction<'_>,
        order_id: &str,
        (buyer, lines): (&Buyer, &[CartLine]),
        fact: &Fact,
    ) -> Result<OrderStatus, DeskError> {
        let products: Vec<&str> = lines.iter().map(|line| line.product.as_str()).collect();
        let catalogue = prices(tx, &products).await?;
        let cart = cart::check(lines, &catalogue, buyer.user_id.is_some())?;
        create(tx, order_id, &fact.reference, buyer, &cart).await?;
        let key = OrderKey {
            ids: vec![order_id.to_owned()],
            references: vec![fact.reference.clone()],
        };
        let status = self.apply(tx, &key, fact).await?;
        Ok(status.ok_or(StoreError::Rejected("an order is gone that was just there"))?)
    }
}
