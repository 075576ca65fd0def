//! Orders that begin with an event: from a cart, or from a course that was bought straight away.

use std::collections::BTreeMap;

use deadpool_postgres::Transaction;

use super::super::cart::{Cart, Price};
use crate::database::{StoreError, execute, query};

/// Who orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buyer {
    /// The shop's id of the account.
    pub user_id: Option<String>,
    /// Where mails go.
    pub email: String,
}

/// Prices of products, as far as they exist.
pub async fn prices(
    tx: &Transaction<'_>,
    products: &[&str],
) -> Result<BTreeMap<String, Price>, StoreError> {
    const PRICES: &str =
        "SELECT id, unit_amount_cents, currency, kind = 'course' FROM products WHERE id = ANY($1)";
    let rows = query(tx, PRICES, &[&products]).await?;
    let price = |row: &tokio_postgres::Row| Price {
        unit_amount_cents: row.get(1),
        currency: row.get(2),
        is_course: row.get(3),
    };
    Ok(rows.iter().map(|row| (row.get(0), price(row))).collect())
}

/// Creates a pending order unless there is one with this id or reference. Whoever comes second waits for the first, and
/// finds its order.
pub async fn create(
    tx: &Transaction<'_>,
    id: &str,
    reference: &str,
    buyer: &Buyer,
    cart: &Cart,
) -> Result<(), StoreError> {
    const CREATE: &str = "
        INSERT INTO orders (id, user_id, email, amount_cents, currency, provider_checkout_ref)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";
    const ADD_ITEMS: &str = "
        WITH item AS (
            SELECT * FROM unnest($2::text[], $3::integer[]) AS item (product_id, quantity)
        ), added AS (
            INSERT INTO order_items (order_id, product_id, quantity) SELECT $1, product_id, quantity FROM item
        )
        INSERT INTO registrations (order_id, product_id)
        SELECT $1, product_id FROM item JOIN products ON products.id = product_id AND kind = 'seat'
        CROSS JOIN generate_series(1, quantity)";
    let (amount, Buyer { user_id, email }) = (&cart.amount, buyer);
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] = [
        &id,
        user_id,
        email,
        &amount.amount_cents,
        &amount.currency,
        &reference,
    ];
    if execute(tx, CREATE, &values).await? == 1 {
        let products: Vec<&str> = cart.items.keys().map(String::as_str).collect();
        let quantities: Vec<i32> = cart.items.values().copied().collect();
        execute(tx, ADD_ITEMS, &[&id, &products, &quantities]).await?;
    }
    Ok(())
}
