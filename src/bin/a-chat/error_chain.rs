//! Errors as people read them. A plain function.

use std::error::Error;

/// An error and its causes in one line.
pub(crate) fn in_one_line(error: &dyn Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", in_one_line(source)),
        None => error.to_string(),
    }
}
