//! The filter as arguments: the grammar as one text, and a flag for each of its most used terms.

use jiff::Timestamp;

use crate::OpsError;
use crate::filter::{Filter, FilterError, GRAMMAR};

/// Which events or dead letters.
#[derive(clap::Args)]
pub struct FilterArgs {
    /// Terms that must all hold, e.g. 'type:charge.* since:2h fingerprint:…'
    #[arg(long, long_help = GRAMMAR)]
    filter: Option<String>,
    /// Only of this event type; `*` stands for anything, as in `charge.*`
    #[arg(long = "type")]
    event_type: Option<String>,
    /// Only from then on: 2h, 30m, 7d or an RFC 3339 time
    #[arg(long)]
    since: Option<String>,
    /// Only before then
    #[arg(long)]
    until: Option<String>,
    /// Only of this group of dead letters
    #[arg(long)]
    fingerprint: Option<String>,
}

impl FilterArgs {
    /// All of it as one filter.
    pub fn read(self) -> Result<Filter, OpsError> {
        let now = Timestamp::now();
        let mut filter = Filter::parse(self.filter.as_deref().unwrap_or_default(), now)?;
        for (key, value) in [
            ("type", self.event_type),
            ("since", self.since),
            ("until", self.until),
            ("fingerprint", self.fingerprint),
        ] {
            if let Some(value) = value {
                filter = filter.and(Filter::parse(&format!("{key}:\"{value}\""), now)?)?;
            }
        }
        Ok(filter)
    }
}

impl From<FilterError> for OpsError {
    fn from(error: FilterError) -> Self {
        Self::Usage(error.to_string())
    }
}
