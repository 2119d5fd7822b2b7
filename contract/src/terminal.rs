//! Which characters must not reach a terminal as they are.

/// Whether `c` hides or reorders the text around it, which it does without being a
/// control character: marks and overrides of direction, separators of lines, and what
/// has no width.
pub fn hides_or_reorders(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}

/// Whether a terminal does something else with `c` than to show it. Whoever shows text
/// from elsewhere escapes these; line breaks and tabs are among them.
pub fn steers_terminals(c: char) -> bool {
    c.is_control() || hides_or_reorders(c)
}

/// `text` with every character escaped that [steers terminals](steers_terminals), cut
/// to about `bytes_max` bytes.
pub fn harmless_within(text: &str, bytes_max: usize) -> String {
    let mut harmless = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        if harmless.len() >= bytes_max {
            harmless.push('…');
            break;
        }
        match steers_terminals(c) {
            true => harmless.extend(c.escape_default()),
            false => harmless.push(c),
        }
    }
    harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_known_and_nothing_else() {
        let steering = [
            '\0'..='\u{1f}',
            '\u{7f}'..='\u{9f}',
            // Arabic letter mark.
            '\u{61c}'..='\u{61c}',
            // Zero width spaces and joiners, marks of direction.
            '\u{200b}'..='\u{200f}',
            // Separators, embeddings and overrides.
            '\u{2028}'..='\u{202e}',
            // Word joiner, invisible operators, isolates.
            '\u{2060}'..='\u{2069}',
            // Byte order mark.
            '\u{feff}'..='\u{feff}',
        ];
        for c in '\0'..=char::MAX {
            let expected = steering.iter().any(|range| range.contains(&c));
            assert_eq!(steers_terminals(c), expected, "{c:?}");
            assert_eq!(hides_or_reorders(c), expected && !c.is_control(), "{c:?}");
        }
    }
}
