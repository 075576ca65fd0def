//! What may be told of JSON that cannot be read. Pure.

/// Which error, and where. Not in serde's words, which quote the value: it may be anybody's personal data.
pub fn describe(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    format!(
        "{:?} error at line {line} column {column}",
        error.classify()
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_value_is_not_quoted() {
        let error = serde_json::from_str::<i32>("\"jane@example.com\"").unwrap_err();
        assert_eq!(super::describe(&error), "Data error at line 1 column 18");
    }
}
