//! Words from outside: what they may consist of, how they are shown, and which
//! one was meant.

use std::borrow::Cow;

pub use orchestrator_contract::{harmless_within, hides_or_reorders, steers_terminals};

/// Returns whether `text` can be shown on a terminal without changing what
/// stands around it: no control characters but line breaks and tabs, no
/// characters that reorder or hide text.
pub(crate) fn is_printable(text: &str) -> bool {
    text.chars().all(is_plain)
}

/// Returns whether a terminal shows `c` and does nothing else with it.
pub(crate) fn is_plain(c: char) -> bool {
    matches!(c, '\n' | '\t') || !steers_terminals(c)
}

/// `text` with everything escaped that a terminal would act on, see
/// [`is_printable`]. Line breaks and tabs stay.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    escaped(text, is_plain)
}

/// The same for what has to stay on one line, such as the name of a file.
pub(crate) fn harmless_line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_plain(c) && c != '\n')
}

fn escaped(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(&stays) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match stays(c) {
            true => shown.push(c),
            false => shown.extend(c.escape_default()),
        }
    }
    Cow::Owned(shown)
}

/// The word of `words` that the author most likely meant, if any is close.
pub(crate) fn nearest<'a>(
    given: &str,
    words: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    nearest_by(given, words, strsim::jaro_winkler)
}

/// The most likely of `words`, if any is likelier than 0.75. `likeness` takes
/// two words in lower case and answers from 0 to 1.
pub fn nearest_by<'a>(
    given: &str,
    words: impl IntoIterator<Item = &'a str>,
    likeness: impl Fn(&str, &str) -> f64,
) -> Option<&'a str> {
    let given = given.to_ascii_lowercase();
    words
        .into_iter()
        .map(|word| (likeness(&given, &word.to_ascii_lowercase()), word))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

/// `given` as it may stand in a message about a manifest.
pub(crate) fn quoted(given: &str) -> String {
    const SHOWN_MAX: usize = 64;
    quoted_within(given, SHOWN_MAX)
}

/// `given` as it may stand in a message: between backticks, at most
/// `shown_max` characters of it, and nothing that a terminal would act on.
pub fn quoted_within(given: &str, shown_max: usize) -> String {
    let mut shown: String = given
        .chars()
        .take(shown_max)
        .flat_map(char::escape_debug)
        .collect();
    if given.chars().nth(shown_max).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_close_or_absent() {
        let words = ["capabilities", "channel", "description"];
        assert_eq!(nearest("capabilites", words), Some("capabilities"));
        assert_eq!(nearest("Channels", words), Some("channel"));
        assert_eq!(nearest("zzz", words), None);
    }

    #[test]
    fn reordering_and_hidden_characters_are_not_printable() {
        assert!(is_printable("plain, ünïcode,\n\ttoo"));
        for hostile in ["\u{1b}[2J", "a\u{202e}b", "a\u{200d}b", "a\0b", "\u{feff}a"] {
            assert!(!is_printable(hostile), "{hostile:?}");
            assert!(is_printable(&quoted(hostile)), "{hostile:?}");
            assert!(is_printable(&harmless(hostile)), "{hostile:?}");
        }
        assert_eq!(harmless("ü\tx\n\u{1b}[2J"), "ü\tx\n\\u{1b}[2J");
        assert_eq!(harmless_line("a\n\u{202e}b"), "a\\n\\u{202e}b");
    }
}
