//! Asks whoever sits at the terminal before many events are touched. Where nobody does, nothing is asked and nothing done.

use std::io::{BufRead, IsTerminal, Write};

use crate::OpsError;

/// More than that are agreed to by their number, and not by a `y` that is typed without looking.
const EASILY_AGREED: i64 = 100;

/// Whether somebody can be asked.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Refuses unless whoever is asked agrees that so many are `done`.
pub fn ask(count: i64, done: &str) -> Result<(), OpsError> {
    let how = match count {
        ..=EASILY_AGREED => "y".to_owned(),
        _ => count.to_string(),
    };
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{count} will be {done}. Type {how} to go on: ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim().eq_ignore_ascii_case(&how) {
        return Ok(());
    }
    let text = format!("nothing was {done}");
    Err(OpsError::Refused(text))
}
