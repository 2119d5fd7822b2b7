//! What the texts of a manifest may consist of, and which word was meant.

/// Returns whether `text` can be shown on a terminal without changing what
/// stands around it: no control characters but line breaks and tabs, no
/// characters that reorder or hide text.
pub(crate) fn is_printable(text: &str) -> bool {
    !text.chars().any(|c| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c,
                '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{2069}' | '\u{feff}')
    })
}

/// The word of `words` that the author most likely meant, if any is close.
pub(crate) fn nearest<'a>(
    given: &str,
    words: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let given = given.to_ascii_lowercase();
    words
        .into_iter()
        .map(|word| {
            (
                strsim::jaro_winkler(&given, &word.to_ascii_lowercase()),
                word,
            )
        })
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

/// `given` as it may stand in a message: short, and with nothing in it that a
/// terminal would act on.
pub(crate) fn quoted(given: &str) -> String {
    const SHOWN_MAX: usize = 64;
    let mut shown: String = given
        .chars()
        .take(SHOWN_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if given.chars().nth(SHOWN_MAX).is_some() {
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
        }
    }
}
