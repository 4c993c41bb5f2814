//! What several commands are given alike: JSON on the command line, and who asks.

use std::io::Read as _;

use serde_json::Value;

use crate::exit::Exit;
use crate::fault::{self, Fault};

/// JSON as an option gives it: itself, `@FILE`, or `@-` for standard input.
///
/// # Errors
/// When the file cannot be read or its text is not JSON.
pub(crate) fn json(told: &str, option: &str) -> Result<Value, Fault> {
    let text = match told.strip_prefix('@') {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Fault::new(Exit::Usage, fault::FILE, "cannot read standard input").detail(error))?;
            text
        }
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| Fault::new(Exit::NotFound, fault::FILE, format!("cannot read {file}")).detail(error))?,
        None => told.to_owned(),
    };
    serde_json::from_str(&text).map_err(|error| {
        let hint = format!("text needs quotes of its own: {option} '\"text\"'; a file: {option} @FILE");
        Fault::new(Exit::Usage, fault::ARGUMENT, format!("{option} is not JSON")).detail(error).hint(hint)
    })
}

/// Who asks: the name given, or that of the login.
pub(crate) fn user(given: Option<&str>) -> String {
    let login = || std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    given.map_or_else(login, str::to_owned)
}
