//! Reads the words of an expression.
//!
//! The template engine can list the variables of an expression, but it does
//! not see those behind a slice (`steps.a.output[:3]`) and cannot tell where
//! they stand. A step that runs before what it needs would be the price, so
//! the words are read here, and a reference that is not plain is refused.

use std::ops::Range;

/// One word of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind<'a>,
    pub(super) range: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenKind<'a> {
    /// A name or a keyword.
    Word(&'a str),
    /// A text between quotes; `None` when it holds escapes.
    Text(Option<&'a str>),
    Number,
    Symbol(char),
}

/// The words of `text` up to its end.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(token) = next(text, at) {
        at = token.range.end;
        tokens.push(token);
    }
    tokens
}

/// How deep brackets are nested.
pub(super) fn depth(tokens: &[Token<'_>]) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    for token in tokens {
        match token.kind {
            TokenKind::Symbol('(' | '[' | '{') => depth += 1,
            TokenKind::Symbol(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => (),
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The name that was meant where one with `-` in it stands after a dot: in
/// `steps.step-0.output` it is `step-0`, which reads as `steps.step` minus
/// something. `at` is the place of the first word of it.
pub(super) fn hyphenated<'a>(text: &'a str, tokens: &[Token<'_>], at: usize) -> Option<&'a str> {
    let dot = tokens.get(at.checked_sub(1)?)?;
    let first = tokens.get(at)?;
    if dot.kind != TokenKind::Symbol('.') || !matches!(first.kind, TokenKind::Word(_)) {
        return None;
    }
    let rest = text.get(first.range.start..)?;
    let end = rest.find(|c| !is_word(c) && c != '-').unwrap_or(rest.len());
    let name = &rest[..end];
    (name.contains('-') && !name.ends_with('-')).then_some(name)
}

/// Finds the `}}` that ends an expression which starts at the start of `text`:
/// braces of tables and braces in texts do not count.
pub(super) fn end_of_expression(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(token) = next(text, at) {
        match token.kind {
            TokenKind::Symbol('{') => depth += 1,
            TokenKind::Symbol('}') if depth > 0 => depth -= 1,
            TokenKind::Symbol('}') if text[token.range.end..].starts_with('}') => {
                return Some(token.range.start);
            }
            _ => (),
        }
        at = token.range.end;
    }
    None
}

fn next(text: &str, from: usize) -> Option<Token<'_>> {
    let rest = text.get(from..)?;
    let start = from + rest.len() - rest.trim_start().len();
    let rest = &text[start..];
    let first = rest.chars().next()?;
    let (kind, len) = match first {
        '"' | '\'' => quoted(rest, first),
        '0'..='9' => (TokenKind::Number, number(rest)),
        _ if is_word(first) => {
            let len = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            (TokenKind::Word(&rest[..len]), len)
        }
        _ => (TokenKind::Symbol(first), first.len_utf8()),
    };
    Some(Token {
        kind,
        range: start..start + len,
    })
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn quoted(rest: &str, quote: char) -> (TokenKind<'_>, usize) {
    let mut escaped = false;
    let mut plain = true;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => {
                escaped = true;
                plain = false;
            }
            c if c == quote => return (TokenKind::Text(plain.then(|| &rest[1..at])), at + 1),
            _ => (),
        }
    }
    (TokenKind::Text(None), rest.len())
}

fn number(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut len = 1;
    while let Some(byte) = bytes.get(len) {
        let fraction = *byte == b'.' && bytes.get(len + 1).is_some_and(u8::is_ascii_digit);
        if !(byte.is_ascii_alphanumeric() || *byte == b'_' || fraction) {
            break;
        }
        len += 1;
    }
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_texts_and_numbers_are_told_apart() {
        let kinds: Vec<_> = tokens(r#"steps.a["b"] | f('x\'y', 1.5e3)[0x1f:]"#)
            .into_iter()
            .map(|token| token.kind)
            .collect();
        use TokenKind::{Number, Symbol, Text, Word};
        assert_eq!(
            kinds,
            [
                Word("steps"),
                Symbol('.'),
                Word("a"),
                Symbol('['),
                Text(Some("b")),
                Symbol(']'),
                Symbol('|'),
                Word("f"),
                Symbol('('),
                Text(None),
                Symbol(','),
                Number,
                Symbol(')'),
                Symbol('['),
                Number,
                Symbol(':'),
                Symbol(']'),
            ]
        );
    }

    #[test]
    fn depth_counts_open_brackets() {
        for (text, expected) in [("a", 0), ("f(a)[b]", 1), ("{'(': [(1)]}", 3), (")))((", 2)] {
            assert_eq!(depth(&tokens(text)), expected, "{text}");
        }
    }

    #[test]
    fn the_end_is_found_past_tables_and_texts() {
        for (text, expression) in [
            (" a }} b", " a "),
            ("{'a': {'b': 1}}}}", "{'a': {'b': 1}}"),
            ("'}}' ~ \"}}\" }}", "'}}' ~ \"}}\" "),
            ("a }}}}", "a "),
        ] {
            assert_eq!(
                end_of_expression(text).map(|end| &text[..end]),
                Some(expression)
            );
        }
        for text in ["a", "a }", "'}}", "{ }}"] {
            assert_eq!(end_of_expression(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in ".{0,60}") {
            let tokens = tokens(&text);
            for pair in tokens.windows(2) {
                proptest::prop_assert!(pair[0].range.end <= pair[1].range.start);
            }
            let end = tokens.last().map_or(0, |token| token.range.end);
            proptest::prop_assert!(text[end..].trim().is_empty());
        }
    }
}
