//! A cart as a shop puts it into an object's metadata, held against the catalogue. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::json;
use crate::money::Money;

/// One line of a cart.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CartLine {
    /// The product's id.
    #[serde(alias = "product_id", alias = "productId", alias = "id")]
    pub product: String,
    /// How many.
    #[serde(alias = "qty", default = "one")]
    pub quantity: i32,
    /// What the shop showed for one, in minor units.
    #[serde(alias = "price", alias = "unit_amount", alias = "price_cents")]
    pub unit_amount_cents: Option<i64>,
}

fn one() -> i32 {
    1
}

/// A product's price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price {
    /// Minor units.
    pub unit_amount_cents: i64,
    /// Lower-case ISO 4217.
    pub currency: String,
    /// Whether it is a course, which belongs to an account.
    pub is_course: bool,
}

/// A cart that the catalogue agrees with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cart {
    /// The sum of its lines.
    pub amount: Money,
    /// Quantity by product.
    pub items: BTreeMap<String, i32>,
}

/// Why a cart makes no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CartError {
    /// Not a list of lines.
    #[error("the cart cannot be read: {0}")]
    Unreadable(String),
    /// No lines.
    #[error("the cart is empty")]
    Empty,
    /// A quantity that makes no sense.
    #[error("{quantity} of product {product}")]
    Quantity {
        /// Of which product.
        product: String,
        /// How many.
        quantity: i32,
    },
    /// Not in the catalogue.
    #[error("there is no product {0}")]
    UnknownProduct(String),
    /// Another price than the catalogue's.
    #[error("the price of {product} is {found}, the catalogue's is {expected}")]
    WrongPrice {
        /// Of which product.
        product: String,
        /// In the cart, in minor units.
        found: i64,
        /// In the catalogue, in minor units.
        expected: i64,
    },
    /// A course needs an account to belong to.
    #[error("the course {0} is bought by nobody: the metadata lack `user_id`")]
    NoAccount(String),
    /// One order has one currency.
    #[error("the cart mixes currencies")]
    MixedCurrencies,
    /// More than fits into a number.
    #[error("the cart's amount is too large")]
    TooLarge,
}

const MOST_OF_ONE_PRODUCT: i32 = 1_000;

/// Reads a cart's text.
pub fn read(text: &str) -> Result<Vec<CartLine>, CartError> {
    serde_json::from_str(text).map_err(|error| CartError::Unreadable(json::describe(&error)))
}

/// Holds a cart against the catalogue. Without an account it must hold no course.
pub fn check(
    lines: &[CartLine],
    catalogue: &BTreeMap<String, Price>,
    has_account: bool,
) -> Result<Cart, CartError> {
    let (mut amount_cents, mut currency, mut items) = (0_i64, None, BTreeMap::new());
    for line in lines {
        let product = || line.product.clone();
        let price = catalogue.get(&line.product);
        let price = price.ok_or_else(|| CartError::UnknownProduct(product()))?;
        if !(1..=MOST_OF_ONE_PRODUCT).contains(&line.quantity) {
            return Err(CartError::Quantity {
                product: product(),
                quantity: line.quantity,
            });
        }
        if let Some(found) = line
            .unit_amount_cents
            .filter(|found| *found != price.unit_amount_cents)
        {
            let expected = price.unit_amount_cents;
            return Err(CartError::WrongPrice {
                product: product(),
                found,
                expected,
            });
        }
        if price.is_course && !has_account {
            return Err(CartError::NoAccount(product()));
        }
        if *currency.get_or_insert(&price.currency) != &price.currency {
            return Err(CartError::MixedCurrencies);
        }
        let sum = price.unit_amount_cents.checked_mul(line.quantity.into());
        let sum = sum.and_then(|sum| amount_cents.checked_add(sum));
        amount_cents = sum.ok_or(CartError::TooLarge)?;
        *items.entry(product()).or_insert(0) += line.quantity;
    }
    let currency = currency.ok_or(CartError::Empty)?;
    Ok(Cart {
        amount: Money::new(amount_cents, currency.clone()),
        items,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalogue() -> BTreeMap<String, Price> {
        let price = |unit_amount_cents, currency: &str| Price {
            unit_amount_cents,
            currency: currency.to_owned(),
            is_course: currency == "eur",
        };
        BTreeMap::from([
            ("ga".to_owned(), price(2_500, "usd")),
            ("jp".to_owned(), price(9, "jpy")),
            ("rust".to_owned(), price(9_900, "eur")),
        ])
    }

    fn try_cart(text: &str) -> Result<Cart, CartError> {
        check(&read(text)?, &catalogue(), false)
    }

    #[test]
    fn carts_are_summed_whatever_their_fields_are_called() {
        for text in [
            r#"[{"product":"ga","quantity":2}]"#,
            r#"[{"product_id":"ga","qty":1,"price":2500},{"id":"ga"}]"#,
            r#"[{"productId":"ga","quantity":2,"unit_amount":2500,"name":"General"}]"#,
        ] {
            let cart = try_cart(text).unwrap();
            assert_eq!(
                (cart.amount, cart.items["ga"]),
                (Money::new(5_000, "usd"), 2),
                "{text}"
            );
        }
    }

    #[test]
    fn a_course_is_sold_to_an_account() {
        let lines = read(r#"[{"product":"rust"}]"#).unwrap();
        let cart = check(&lines, &catalogue(), true).unwrap();
        assert_eq!(cart.amount, Money::new(9_900, "eur"));
    }

    #[test]
    fn carts_that_the_catalogue_does_not_know_are_refused() {
        type Expected = fn(&CartError) -> bool;
        let cases: [(&str, Expected); 8] = [
            ("nonsense", |error| {
                matches!(error, CartError::Unreadable(_))
            }),
            ("{}", |error| matches!(error, CartError::Unreadable(_))),
            ("[]", |error| *error == CartError::Empty),
            (r#"[{"product":"x"}]"#, |error| {
                matches!(error, CartError::UnknownProduct(_))
            }),
            (r#"[{"product":"ga","quantity":0}]"#, |error| {
                matches!(error, CartError::Quantity { .. })
            }),
            (r#"[{"product":"ga","price":1}]"#, |error| {
                matches!(error, CartError::WrongPrice { .. })
            }),
            (r#"[{"product":"ga"},{"product":"jp"}]"#, |error| {
                *error == CartError::MixedCurrencies
            }),
            (r#"[{"product":"rust"}]"#, |error| {
                matches!(error, CartError::NoAccount(_))
            }),
        ];
        for (text, expected) in cases {
            let error = try_cart(text).unwrap_err();
            assert!(expected(&error), "{text}: {error}");
        }
    }
}
