//! `--since`: a duration before now, or a time.

use jiff::Timestamp;
use shared::settings::duration;

/// Reads `2h`, `30m`, `7d` or an RFC 3339 time.
pub fn since(raw: &str) -> Result<Timestamp, String> {
    if let Ok(at) = raw.parse() {
        return Ok(at);
    }
    let ago = duration(raw)
        .map_err(|_| format!("`{raw}` is neither a duration (2h, 30m, 7d) nor an RFC 3339 time"))?;
    Timestamp::now()
        .checked_sub(ago)
        .map_err(|error| error.to_string())
}
