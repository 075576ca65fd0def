//! Amounts: integer minor units with their currency.

use std::fmt;

/// An amount in minor units (cents for `usd`, yen for `jpy`) of a lower-case ISO 4217 currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Money {
    /// Minor units.
    pub amount_cents: i64,
    /// Three lower-case letters.
    pub currency: String,
}

impl Money {
    /// An amount of a currency.
    pub fn new(amount_cents: i64, currency: impl Into<String>) -> Self {
        Self {
            amount_cents,
            currency: currency.into(),
        }
    }
}

impl fmt::Display for Money {
    /// `25.00 USD`, `2500 JPY`, `2.500 KWD`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = decimal_digits(&self.currency);
        let unit = 10_i64.pow(digits);
        let (sign, amount) = (
            if self.amount_cents < 0 { "-" } else { "" },
            self.amount_cents.unsigned_abs(),
        );
        let (whole, part) = (amount / unit.unsigned_abs(), amount % unit.unsigned_abs());
        let currency = self.currency.to_ascii_uppercase();
        match digits {
            0 => write!(f, "{sign}{whole} {currency}"),
            _ => write!(
                f,
                "{sign}{whole}.{part:0width$} {currency}",
                width = digits as usize
            ),
        }
    }
}

/// How many of an amount's digits are decimals at Stripe (docs.stripe.com/currencies). UGX and ISK have none in ISO 4217
/// but are represented with two.
fn decimal_digits(currency: &str) -> u32 {
    match currency {
        "bif" | "clp" | "djf" | "gnf" | "jpy" | "kmf" | "krw" | "mga" | "pyg" | "rwf" | "vnd"
        | "vuv" | "xaf" | "xof" | "xpf" => 0,
        "bhd" | "iqd" | "jod" | "kwd" | "lyd" | "omr" | "tnd" => 3,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_with_the_decimals_of_their_currency() {
        for (amount, currency, text) in [
            (2500, "usd", "25.00 USD"),
            (5, "eur", "0.05 EUR"),
            (2500, "jpy", "2500 JPY"),
            (2500, "kwd", "2.500 KWD"),
            (-150, "usd", "-1.50 USD"),
            (50_000, "isk", "500.00 ISK"),
        ] {
            assert_eq!(Money::new(amount, currency).to_string(), text);
        }
    }
}
