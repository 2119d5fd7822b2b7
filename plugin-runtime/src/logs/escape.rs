//! Makes a plugin's bytes safe to show.

use std::fmt::Write as _;

use orchestrator_contract::steers_terminals;

/// Turns bytes into text of one line: what is not UTF-8 is replaced, control
/// characters (terminal sequences, line breaks, carriage returns, deletes) and the
/// invisible characters that hide or reorder text are escaped, tabs are kept. At most `max`
/// bytes of the input are shown; the number of further ones is named.
pub(crate) fn escape(bytes: &[u8], max: usize) -> String {
    let shown = &bytes[..bytes.len().min(max)];
    let text = String::from_utf8_lossy(shown);
    let mut line = if text.chars().all(is_plain) {
        text.into_owned()
    } else {
        let mut line = String::with_capacity(text.len() + 16);
        for letter in text.chars() {
            match letter {
                letter if is_plain(letter) => line.push(letter),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                letter if u32::from(letter) < 0x100 => {
                    // Writing to a string does not fail.
                    let _ = write!(line, "\\x{:02x}", u32::from(letter));
                }
                letter => line.extend(letter.escape_unicode()),
            }
        }
        line
    };
    let left_out = bytes.len() - shown.len();
    if left_out > 0 {
        let _ = write!(line, " … ({left_out} bytes left out)");
    }
    line
}

fn is_plain(letter: char) -> bool {
    letter == '\t' || !steers_terminals(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let cases: [(&[u8], &str); 8] = [
            (b"plain\ttext", "plain\ttext"),
            (b"\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
            (b"one\ntwo\r", "one\\ntwo\\r"),
            (b"bad \xff byte", "bad \u{fffd} byte"),
            ("\u{9b}31m".as_bytes(), "\\x9b31m"),
            ("a\u{202e}b".as_bytes(), "a\\u{202e}b"),
            ("a\u{200b}b".as_bytes(), "a\\u{200b}b"),
            ("a\u{61c}b".as_bytes(), "a\\u{61c}b"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(escape(bytes, 100), shown);
        }
    }

    #[test]
    fn long_lines_say_how_much_is_missing() {
        assert_eq!(escape(b"0123456789", 4), "0123 … (6 bytes left out)");
    }
}
