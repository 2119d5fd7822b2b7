//! What others supply is bounded, harmless to a terminal and free of secrets
//! before it is recorded.

use orchestrator_manifest::text::harmless_within;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";
/// Words that stand between the name of a secret and the secret.
const SCHEMES: [&str; 3] = ["bearer", "basic", "token"];

/// Says of a name whether its value is a secret.
pub type NamesSecret = fn(&str) -> bool;

/// The text without secrets, with everything escaped that a terminal would
/// obey, and cut to about `max` bytes.
pub(super) fn clean(text: &str, max: usize, names_secret: NamesSecret) -> String {
    // Nothing of what is cut off has to be looked at.
    let text = &text[..text.floor_char_boundary(8 * max)];
    harmless_within(&redacted(text, names_secret), max)
}

/// Hides the value behind every name of a secret (`token=…`, `"password": "…"`,
/// `Authorization: Bearer …`) and the password of an address (`://user:…@host`).
fn redacted(text: &str, names_secret: NamesSecret) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['=', ':']) {
        let (before, behind) = rest.split_at(at);
        let value = &behind[1..];
        shown.push_str(before);
        shown.push_str(&behind[..1]);
        let hidden = match value.strip_prefix("//") {
            Some(address) if behind.starts_with(':') => {
                password(address).map(|(from, to)| (from + 2, to + 2))
            }
            _ => names_secret(last_word(before)).then(|| secret(value, is_in_query(before))),
        };
        rest = match hidden {
            Some((from, to)) if from < to => {
                shown.push_str(&value[..from]);
                shown.push_str(REDACTED);
                &value[to..]
            }
            _ => value,
        };
    }
    shown.push_str(rest);
    shown
}

/// The name in front of a `=` or `:`, with quotes left out.
fn last_word(text: &str) -> &str {
    let text = text.trim_end().trim_end_matches(['"', '\'', '\\']);
    let is_end = |it: char| {
        it.is_whitespace() || matches!(it, '"' | '\'' | '&' | ',' | ';' | '{' | '(' | '?')
    };
    text.rsplit(is_end).next().unwrap_or(text)
}

/// Whether the name in front of a `=` is that of a parameter of an address.
fn is_in_query(text: &str) -> bool {
    let before = &text[..text.len() - last_word(text).len()];
    before.ends_with(['?', '&'])
}

/// Where the secret begins and ends in what follows its name.
fn secret(value: &str, in_query: bool) -> (usize, usize) {
    let start = value.len() - value.trim_start().len();
    let (mut from, word) = word(value, start, in_query);
    let mut end = word;
    if SCHEMES.contains(&value[from..end].to_ascii_lowercase().as_str()) {
        let next = end + value[end..].len() - value[end..].trim_start().len();
        (from, end) = self::word(value, next, in_query);
    }
    (from, end)
}

/// The word that begins at `start`: up to the quote that closes it, or up to
/// white space. What else could end it may as well be a sign of the secret, so
/// rather too much is hidden; only a parameter of an address ends with a `&`.
fn word(value: &str, start: usize, in_query: bool) -> (usize, usize) {
    let rest = &value[start..];
    if let Some(quote @ ('"' | '\'')) = rest.chars().next() {
        let end = closing(&rest[1..], quote);
        return (start + 1, end.map_or(value.len(), |end| start + 1 + end));
    }
    let is_end = |it: char| it.is_whitespace() || in_query && it == '&';
    let end = rest.find(is_end).map_or(value.len(), |end| start + end);
    (start, end)
}

/// Where the quote stands that no backslash belongs to.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    text.char_indices()
        .find(|(_, it)| {
            let is_it = !is_escaped && *it == quote;
            is_escaped = !is_escaped && *it == '\\';
            is_it
        })
        .map(|(at, _)| at)
}

/// Where the password stands in an address that has one.
fn password(address: &str) -> Option<(usize, usize)> {
    let end = address.find(|it: char| it.is_whitespace() || matches!(it, '/' | '?' | '#'));
    let authority = &address[..end.unwrap_or(address.len())];
    let at = authority.rfind('@')?;
    let colon = authority[..at].find(':')?;
    Some((colon + 1, at))
}

#[cfg(test)]
mod tests {
    use orchestrator_manifest::text::steers_terminals;
    use proptest::prelude::*;

    use super::*;

    fn names_secret(name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        ["password", "token", "authorization"]
            .iter()
            .any(|it| name.contains(it))
    }

    fn cleaned(text: &str) -> String {
        clean(text, 200, names_secret)
    }

    #[test]
    fn secrets_are_named_and_not_shown() {
        for (text, shown) in [
            ("apiToken=hunter2 next", "apiToken=[redacted] next"),
            (
                "refused: password: hunter2, x",
                "refused: password: [redacted] x",
            ),
            (
                r#"{"password":"hunter2","a":1}"#,
                r#"{"password":"[redacted]","a":1}"#,
            ),
            (
                "Authorization: Bearer hunter2",
                "Authorization: Bearer [redacted]",
            ),
            ("GET /?token=hunter2&a=b", "GET /?token=[redacted]&a=b"),
            (
                "postgres://me:hunter2@db/x",
                "postgres://me:[redacted]@db/x",
            ),
            (
                r#"{"password":"a\"b","c":1}"#,
                r#"{"password":"[redacted]","c":1}"#,
            ),
            (
                r#"{\"password\":\"hunter2\"} x"#,
                r#"{\"password\":[redacted] x"#,
            ),
            ("password=a,b;c)d}e\"f&g x", "password=[redacted] x"),
            (
                "Authorization: Bearer a,b x",
                "Authorization: Bearer [redacted] x",
            ),
            ("at 12:30 a=b", "at 12:30 a=b"),
            ("token=", "token="),
        ] {
            assert_eq!(cleaned(text), shown);
        }
    }

    #[test]
    fn text_is_harmless_and_short() {
        assert_eq!(
            cleaned("a\u{1b}[2J\n\u{202e}\u{2060}ü"),
            "a\\u{1b}[2J\\n\\u{202e}\\u{2060}ü"
        );
        let long = clean(&"ü".repeat(1_000), 100, names_secret);
        assert!(long.len() < 110 && long.ends_with('…'), "{long}");
        let cut = clean(&"\u{1b}".repeat(1_000), 100, names_secret);
        assert!(cut.len() < 120, "{cut}");
    }

    proptest! {
        #[test]
        fn a_planted_secret_is_never_shown(before in "\\PC{0,40}", after in "\\PC{0,40}") {
            let text = format!("{before} token=pl4nted5ecret {after}");
            prop_assert!(!cleaned(&text).contains("pl4nted5ecret"));
        }

        /// Whatever a secret is made of, nothing behind its first sign is shown.
        #[test]
        fn a_secret_ends_where_its_writer_ended_it(secret in "[!-~]{1,20}", quoted: bool) {
            let text = match quoted {
                true => format!("{{\"token\": {}, \"a\": 1}}", serde_json::to_string(&secret).unwrap()),
                false => format!("token=x{secret} next"),
            };
            let shown = match quoted {
                true => "{\"token\": \"[redacted]\", \"a\": 1}",
                false => "token=[redacted] next",
            };
            prop_assert_eq!(cleaned(&text), shown);
        }

        #[test]
        fn any_text_can_be_cleaned(text in any::<String>()) {
            let clean = clean(&text, 64, names_secret);
            prop_assert!(clean.len() < 64 + 16);
            prop_assert!(!clean.contains(steers_terminals));
        }
    }
}
