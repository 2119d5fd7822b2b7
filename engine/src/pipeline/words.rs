//! How words from outside are shown, compared and guessed.

pub(crate) use orchestrator_manifest::pointer::child as pointer;
use orchestrator_manifest::text::{self, steers_terminals};

/// The word of `words` that the author most likely meant, if any is close.
pub(crate) fn nearest<'a>(
    given: &str,
    words: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    text::nearest_by(given, words, likeness)
}

fn likeness(given: &str, word: &str) -> f64 {
    // One slip of the finger in a short word looks like another word to the
    // general measure.
    let slip = given.len() > 2 && strsim::osa_distance(given, word) == 1;
    strsim::jaro_winkler(given, word).max(if slip { 0.9 } else { 0.0 })
}

/// `did you mean …?` when something is close, `otherwise` when nothing is.
pub(crate) fn suggest<'a>(
    given: &str,
    words: impl IntoIterator<Item = &'a str>,
    otherwise: impl FnOnce() -> String,
) -> String {
    match nearest(given, words) {
        Some(word) => format!("did you mean `{word}`?"),
        None => otherwise(),
    }
}

/// `given` as it may stand in a message about a pipeline.
pub(crate) fn quoted(given: &str) -> String {
    const SHOWN_MAX: usize = 80;
    text::quoted_within(given, SHOWN_MAX)
}

/// `text` without anything that a terminal would act on.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers_terminals(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// `text` with as many bytes, line by line, and without anything that a
/// terminal would act on.
pub(crate) fn printable_in_place(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => c,
            _ if !steers_terminals(c) => c,
            _ => match c.len_utf8() {
                1 => '?',
                2 => '¿',
                _ => '\u{fffd}',
            },
        })
        .collect()
}

/// `words` as a list for a sentence: `a`, `b`, `c`.
pub(crate) fn listed<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN_MAX: usize = 12;
    let mut words = words.into_iter();
    let mut shown: Vec<_> = words.by_ref().take(SHOWN_MAX).map(quoted).collect();
    if words.next().is_some() {
        shown.push("…".to_owned());
    }
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_words_are_suggested_and_far_ones_are_not() {
        assert_eq!(nearest("colect", ["collect", "render"]), Some("collect"));
        assert_eq!(nearest("rnu", ["run", "stop"]), Some("run"));
        assert_eq!(nearest("zzz", ["collect", "render"]), None);
    }

    #[test]
    fn words_from_outside_cannot_steer_a_terminal() {
        assert_eq!(quoted("\u{1b}[2J"), "`\\u{1b}[2J`");
        assert!(quoted(&"x".repeat(500)).chars().count() < 90);
        assert_eq!(listed(["a"; 13]).matches("`a`").count(), 12);
    }

    #[test]
    fn a_text_without_steering_keeps_its_offsets() {
        let hostile = "a\u{1b}b\u{9b}c\u{202e}d\ne\té";
        let shown = printable_in_place(hostile);
        assert_eq!(shown, "a?b¿c\u{fffd}d\ne\té");
        assert_eq!(shown.len(), hostile.len());
        assert_eq!(printable("a\u{1b}é\n"), "a\\u{1b}é\\u{a}");
    }
}
