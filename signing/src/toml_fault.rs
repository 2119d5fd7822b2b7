//! What a TOML parser says, on one line and without control characters.

/// Where `text` is at fault, and how.
pub(crate) fn on_one_line(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let message = error.message().escape_debug();
    match before {
        Some(before) => format!("line {}: {message}", before.matches('\n').count() + 1),
        None => message.to_string(),
    }
}
