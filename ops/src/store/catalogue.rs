//! Products and orders, as they are loaded.

use std::collections::BTreeMap;

use deadpool_postgres::Transaction;
use serde::Deserialize;
use shared::database::{StoreError, execute, query};

/// A product.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    /// The shop's id.
    pub id: String,
    /// `seat` or `course`.
    pub kind: String,
    /// For people.
    pub name: String,
    /// Minor units.
    pub unit_amount_cents: i64,
    /// Lower-case ISO 4217.
    pub currency: String,
    /// Seats there are; none means no limit.
    pub capacity: Option<i32>,
}

/// An order that is not paid yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOrder {
    /// The shop's id.
    pub id: String,
    /// The buyer's account.
    pub user_id: Option<String>,
    /// Where mails go.
    pub email: String,
    /// The provider's reference of its checkout.
    pub provider_checkout_ref: Option<String>,
    /// Sum of the items.
    pub amount_cents: i64,
    /// Lower-case ISO 4217.
    pub currency: String,
    /// Quantity by product.
    pub items: BTreeMap<String, i32>,
    /// Whether its seats wait for others to become free.
    pub waitlisted: bool,
}

impl NewOrder {
    /// Whether both are the same order. Whether it waits changes with time.
    pub fn is_same_as(&self, other: &Self) -> bool {
        *self
            == Self {
                waitlisted: self.waitlisted,
                ..other.clone()
            }
    }
}

/// Adds products, or changes them.
pub async fn save_products(tx: &Transaction<'_>, products: &[Product]) -> Result<(), StoreError> {
    const SAVE: &str = "
        INSERT INTO products (id, kind, name, unit_amount_cents, currency, capacity) VALUES ($1, $2, $3, $4, $5, $6)
        ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, name = excluded.name,
            unit_amount_cents = excluded.unit_amount_cents, currency = excluded.currency, capacity = excluded.capacity";
    for product in products {
        let Product {
            id,
            kind,
            name,
            unit_amount_cents,
            currency,
            capacity,
        } = product;
        execute(
            tx,
            SAVE,
            &[id, kind, name, unit_amount_cents, currency, capacity],
        )
        .await?;
    }
    Ok(())
}

/// Products by id.
pub async fn products(
    tx: &Transaction<'_>,
    ids: &[&str],
) -> Result<BTreeMap<String, Product>, StoreError> {
    const PRODUCTS: &str = "SELECT id, kind, name, unit_amount_cents, currency, capacity FROM products WHERE id = ANY($1)";
    let rows = query(tx, PRODUCTS, &[&ids]).await?;
    let product = |row: &tokio_postgres::Row| Product {
        id: row.get(0),
        kind: row.get(1),
        name: row.get(2),
        unit_amount_cents: row.get(3),
        currency: row.get(4),
        capacity: row.get(5),
    };
    Ok(rows
        .iter()
        .map(product)
        .map(|product| (product.id.clone(), product))
        .collect())
}

/// Orders that are there already.
pub async fn orders(tx: &Transaction<'_>, ids: &[&str]) -> Result<Vec<NewOrder>, StoreError> {
    const ORDERS: &str = "
        SELECT id, user_id, email, provider_checkout_ref, amount_cents, currency,
            array(SELECT product_id FROM order_items WHERE order_id = id ORDER BY product_id) AS products,
            array(SELECT quantity FROM order_items WHERE order_id = id ORDER BY product_id) AS quantities
        FROM orders WHERE id = ANY($1)";
    let rows = query(tx, ORDERS, &[&ids]).await?;
    let order = |row: &tokio_postgres::Row| NewOrder {
        id: row.get(0),
        user_id: row.get(1),
        email: row.get(2),
        provider_checkout_ref: row.get(3),
        amount_cents: row.get(4),
        currency: row.get(5),
        items: row
            .get::<_, Vec<String>>(6)
            .into_iter()
            .zip(row.get::<_, Vec<i32>>(7))
            .collect(),
        waitlisted: false,
    };
    Ok(rows.iter().map(order).collect())
}

/// Adds orders with their items and one registration per seat.
pub async fn add_orders(tx: &Transaction<'_>, orders: &[&NewOrder]) -> Result<(), StoreError> {
    const ADD: &str = "
        INSERT INTO orders (id, user_id, email, provider_checkout_ref, amount_cents, currency)
        SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[])";
    const ADD_ITEMS: &str = "
        WITH item AS (
            SELECT * FROM unnest($1::text[], $2::text[], $3::integer[], $4::text[])
                AS item (order_id, product_id, quantity, status)
        ), added AS (
            INSERT INTO order_items (order_id, product_id, quantity) SELECT order_id, product_id, quantity FROM item
        )
        INSERT INTO registrations (order_id, product_id, status)
        SELECT order_id, product_id, status FROM item
        JOIN products ON products.id = product_id AND kind = 'seat'
        CROSS JOIN generate_series(1, quantity)";
    let column =
        |value: fn(&NewOrder) -> &str| orders.iter().map(|order| value(order)).collect::<Vec<_>>();
    let optional = |value: fn(&NewOrder) -> Option<&str>| {
        orders.iter().map(|order| value(order)).collect::<Vec<_>>()
    };
    let amounts: Vec<i64> = orders.iter().map(|order| order.amount_cents).collect();
    execute(
        tx,
        ADD,
        &[
            &column(|order| &order.id),
            &optional(|order| order.user_id.as_deref()),
            &column(|order| &order.email),
            &optional(|order| order.provider_checkout_ref.as_deref()),
            &amounts,
            &column(|order| &order.currency),
        ],
    )
    .await?;
    let (mut ids, mut products, mut quantities, mut statuses) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for order in orders {
        for (product, quantity) in &order.items {
            ids.push(order.id.as_str());
            products.push(product.as_str());
            quantities.push(*quantity);
            statuses.push(if order.waitlisted {
                "waitlisted"
            } else {
                "pending"
            });
        }
    }
    execute(tx, ADD_ITEMS, &[&ids, &products, &quantities, &statuses]).await?;
    Ok(())
}

/// What a triggered event must say of an order.
pub struct OrderFacts {
    /// Minor units.
    pub amount_cents: i64,
    /// Lower-case ISO 4217.
    pub currency: String,
    /// The buyer's address.
    pub email: String,
    /// The provider's reference of its checkout.
    pub provider_checkout_ref: Option<String>,
}

/// Finds an order's facts.
pub async fn order_facts(
    client: &impl deadpool_postgres::GenericClient,
    id: &str,
) -> Result<Option<OrderFacts>, StoreError> {
    const FACTS: &str =
        "SELECT amount_cents, currency, email, provider_checkout_ref FROM orders WHERE id = $1";
    let row = shared::database::query_opt(client, FACTS, &[&id]).await?;
    Ok(row.map(|row| OrderFacts {
        amount_cents: row.get(0),
        currency: row.get(1),
        email: row.get(2),
        provider_checkout_ref: row.get(3),
    }))
}
