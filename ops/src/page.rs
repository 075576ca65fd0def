//! Places in lists that are ordered by a time and then an id: a page goes on behind the last row of the one before, and
//! stays right while rows come in. Pure.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

/// The row behind which a page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The row's time.
    pub at: Timestamp,
    /// The row's id.
    pub id: String,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.at, self.id)
    }
}

impl FromStr for Cursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let problem = || format!("`{text}` is not the `next` of a page");
        let (at, id) = text.split_once(',').ok_or_else(problem)?;
        Ok(Self {
            at: at.parse().map_err(|_| problem())?,
            id: id.to_owned(),
        })
    }
}

/// The cursor of the next page, unless this one was not full.
pub fn next_page<T>(
    page: &[T],
    limit: i64,
    place: impl Fn(&T) -> (Timestamp, String),
) -> Option<Cursor> {
    let full = i64::try_from(page.len()) == Ok(limit);
    page.last().filter(|_| full).map(|last| {
        let (at, id) = place(last);
        Cursor { at, id }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_as_it_is_printed_to_the_microsecond() {
        let cursor = Cursor {
            at: "2026-01-02T03:04:05.678901Z".parse().unwrap(),
            id: "evt_1,2".to_owned(),
        };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        for nonsense in ["", "evt_1", "soon,evt_1"] {
            assert!(nonsense.parse::<Cursor>().is_err());
        }
    }
}
