//! `ops seed`: products and orders from a file, all or nothing, and again without effect.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::actor;
use crate::output::Output;
use crate::store::audit;
use crate::store::catalogue::{self, NewOrder, Product};
use crate::{Database, OpsError};

/// What `ops seed` takes.
#[derive(clap::Args)]
pub struct Args {
    /// JSON file with `products` and `orders`
    file: PathBuf,
    /// Why, for the audit log
    #[arg(long, default_value = "loaded from a file")]
    reason: String,
    /// Who, for the audit log; else the variable OPS_ACTOR says it, or the login name
    #[arg(long, default_value_t = actor())]
    actor: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedFile {
    #[serde(default)]
    products: Vec<Product>,
    #[serde(default)]
    orders: Vec<SeedOrder>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedOrder {
    id: String,
    user_id: Option<String>,
    email: String,
    provider_checkout_ref: Option<String>,
    items: Vec<SeedItem>,
    #[serde(default)]
    waitlisted: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeedItem {
    product: String,
    quantity: i32,
}

#[derive(Serialize)]
struct Report {
    products: usize,
    orders_added: usize,
    orders_unchanged: usize,
}

const MAX_QUANTITY: i32 = 1_000;

/// Loads the file.
pub async fn run(database: &Database, args: &Args, output: Output) -> Result<(), OpsError> {
    let name = args.file.display();
    let text = std::fs::read_to_string(&args.file)
        .map_err(|error| OpsError::Usage(format!("{name}: {error}")))?;
    let seed: SeedFile =
        serde_json::from_str(&text).map_err(|error| OpsError::Usage(format!("{name}: {error}")))?;
    check_products(&seed.products)?;
    let mut client = database.connect().await?;
    let tx = client.transaction().await?;
    catalogue::save_products(&tx, &seed.products).await?;
    let ordered: BTreeSet<&str> = seed
        .orders
        .iter()
        .flat_map(|order| &order.items)
        .map(|item| item.product.as_str())
        .collect();
    let products = catalogue::products(&tx, &ordered.into_iter().collect::<Vec<_>>()).await?;
    let orders = seed
        .orders
        .into_iter()
        .map(|order| price(order, &products))
        .collect::<Result<Vec<_>, _>>()?;
    let added = add(&tx, &orders).await?;
    let report = Report {
        products: seed.products.len(),
        orders_added: added,
        orders_unchanged: orders.len() - added,
    };
    let details = json!({ "file": args.file, "seeded": report });
    audit::note(&tx, &args.actor, "seed", &args.reason, &details).await?;
    tx.commit().await?;
    output.print("seeded", &report, |report| {
        format!(
            "{} products, {} orders added, {} orders unchanged",
            report.products, report.orders_added, report.orders_unchanged
        )
    })
}

/// Adds the orders that are new; one that is there already must be the same.
async fn add(
    tx: &deadpool_postgres::Transaction<'_>,
    orders: &[NewOrder],
) -> Result<usize, OpsError> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = orders.iter().find(|order| !seen.insert(&order.id)) {
        return Err(OpsError::Usage(format!(
            "order {} stands twice in the file",
            twice.id
        )));
    }
    let ids: Vec<&str> = orders.iter().map(|order| order.id.as_str()).collect();
    let known: BTreeMap<String, NewOrder> = catalogue::orders(tx, &ids)
        .await?
        .into_iter()
        .map(|order| (order.id.clone(), order))
        .collect();
    let mut new = Vec::new();
    for order in orders {
        match known.get(&order.id) {
            None => new.push(order),
            Some(known) if known.is_same_as(order) => {}
            Some(_) => {
                return Err(OpsError::Conflict(format!(
                    "order {} exists with other content",
                    order.id
                )));
            }
        }
    }
    catalogue::add_orders(tx, &new).await?;
    Ok(new.len())
}

fn check_products(products: &[Product]) -> Result<(), OpsError> {
    let mut seen = BTreeSet::new();
    for product in products {
        let problem = |text: &str| Err(OpsError::Usage(format!("product {}: {text}", product.id)));
        if product.id.is_empty() || product.name.is_empty() {
            return problem("id and name must not be empty");
        }
        if !seen.insert(&product.id) {
            return problem("stands twice in the file");
        }
        if product.unit_amount_cents < 0 {
            return problem("unit_amount_cents must not be negative");
        }
        if product.currency.len() != 3
            || !product
                .currency
                .bytes()
                .all(|byte| byte.is_ascii_lowercase())
        {
            return problem("currency must be three lower-case letters");
        }
        match (product.kind.as_str(), product.capacity) {
            ("seat", Some(capacity)) if capacity < 0 => {
                return problem("capacity must not be negative");
            }
            ("seat", _) | ("course", None) => {}
            ("course", Some(_)) => return problem("a course has no capacity"),
            _ => return problem("kind must be `seat` or `course`"),
        }
    }
    Ok(())
}

/// An order's amount is the sum of its items; its currency is theirs.
fn price(order: SeedOrder, products: &BTreeMap<String, Product>) -> Result<NewOrder, OpsError> {
    let problem = |text: String| OpsError::Usage(format!("order {}: {text}", order.id));
    if order.id.is_empty() || !order.email.contains('@') {
        return Err(problem(
            "id must not be empty, and email must be an address".to_owned(),
        ));
    }
    let (mut amount_cents, mut currency, mut items) = (0_i64, None::<&str>, BTreeMap::new());
    for item in &order.items {
        let product = products
            .get(&item.product)
            .ok_or_else(|| problem(format!("there is no product {}", item.product)))?;
        if product.kind == "course" && order.user_id.is_none() {
            return Err(problem("a course needs a user_id to belong to".to_owned()));
        }
        if !(1..=MAX_QUANTITY).contains(&item.quantity) {
            return Err(problem(format!(
                "quantity must be 1 to {MAX_QUANTITY}, not {}",
                item.quantity
            )));
        }
        if *currency.get_or_insert(&product.currency) != product.currency {
            return Err(problem("its items have different currencies".to_owned()));
        }
        amount_cents = product
            .unit_amount_cents
            .checked_mul(item.quantity.into())
            .and_then(|line| amount_cents.checked_add(line))
            .ok_or_else(|| problem("its amount is too large".to_owned()))?;
        *items.entry(item.product.clone()).or_insert(0) += item.quantity;
    }
    let currency = currency
        .ok_or_else(|| problem("it has no items".to_owned()))?
        .to_owned();
    let SeedOrder {
        id,
        user_id,
        email,
        provider_checkout_ref,
        waitlisted,
        ..
    } = order;
    Ok(NewOrder {
        id,
        user_id,
        email,
        provider_checkout_ref,
        amount_cents,
        currency,
        items,
        waitlisted,
    })
}
