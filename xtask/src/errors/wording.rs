//! Turns the format strings of messages and helps into Markdown.
//!
//! What a format string fills in becomes a word: `<path>` in code, *path*
//! elsewhere.

use std::collections::BTreeMap;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The constants of a file that a format string may name.
pub(super) type Constants = BTreeMap<String, String>;

/// Reads the constants of a file whose values are plain texts and numbers.
pub(super) fn constants(file: &syn::File) -> Constants {
    let constants = file.items.iter().filter_map(|item| match item {
        syn::Item::Const(item) => Some((item.ident.to_string(), value(&item.expr)?)),
        _ => None,
    });
    constants.collect()
}

fn value(expression: &syn::Expr) -> Option<String> {
    match expression {
        syn::Expr::Lit(literal) => match &literal.lit {
            syn::Lit::Str(text) => Some(text.value()),
            syn::Lit::Int(number) => Some(number.base10_digits().to_owned()),
            _ => None,
        },
        syn::Expr::Binary(syn::ExprBinary {
            left,
            op: syn::BinOp::Mul(_),
            right,
            ..
        }) => {
            let number = |side| value(side)?.parse::<u64>().ok();
            Some((number(left)? * number(right)?).to_string())
        }
        _ => None,
    }
}

/// The arguments of a format macro as Markdown.
pub(super) fn markdown(arguments: TokenStream, constants: &Constants) -> String {
    let mut parts = split_at_commas(arguments).into_iter();
    let format = parts.next().and_then(|tokens| {
        let literal: syn::LitStr = syn::parse2(tokens).ok()?;
        Some(literal.value())
    });
    let mut rest = parts.map(|tokens| name_of(&tokens));
    filled(&format.unwrap_or_default(), constants, &mut rest)
}

fn filled(
    format: &str,
    constants: &Constants,
    positional: &mut dyn Iterator<Item = Option<String>>,
) -> String {
    let mut text = String::new();
    let mut in_code = false;
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '`' => {
                in_code = !in_code;
                text.push('`');
            }
            '{' | '}' if characters.next_if_eq(&character).is_some() => text.push(character),
            '{' => {
                let inner: String = characters.by_ref().take_while(|it| *it != '}').collect();
                let name = inner.split(':').next().unwrap_or_default();
                match constants.get(name) {
                    Some(value) => text += value,
                    None if name.is_empty() => {
                        let name = positional.next().unwrap_or_default();
                        text += &name.map_or_else(String::new, |name| shown(&name, in_code));
                    }
                    None if name.parse::<usize>().is_ok() => text.push('…'),
                    None => text += &shown(name, in_code),
                }
            }
            '<' | '*' if !in_code => {
                text.push('\\');
                text.push(character);
            }
            other => text.push(other),
        }
    }
    text
}

fn shown(name: &str, in_code: bool) -> String {
    let words = name.to_lowercase().replace('_', " ");
    match in_code {
        true => format!("<{words}>"),
        false => format!("*{words}*"),
    }
}

/// Whether nothing but a filled-in word is said.
pub(super) fn is_only_a_placeholder(text: &str) -> bool {
    let text = text.trim_matches('`');
    let word = ["*", "<"]
        .iter()
        .zip(["*", ">"])
        .find_map(|(opening, closing)| text.strip_prefix(opening)?.strip_suffix(closing));
    text == "…" || word.is_some_and(|word| !word.contains(['*', '>']))
}

fn split_at_commas(tokens: TokenStream) -> Vec<TokenStream> {
    let mut parts = vec![TokenStream::new()];
    for token in tokens {
        match &token {
            TokenTree::Punct(punct) if punct.as_char() == ',' => parts.push(TokenStream::new()),
            _ => parts.extend_last(token),
        }
    }
    parts
}

trait ExtendLast {
    fn extend_last(&mut self, token: TokenTree);
}

impl ExtendLast for Vec<TokenStream> {
    fn extend_last(&mut self, token: TokenTree) {
        if let Some(last) = self.last_mut() {
            last.extend([token]);
        }
    }
}

/// A word for what an expression fills in; `None` for what is not always there.
fn name_of(expression: &TokenStream) -> Option<String> {
    let tokens: Vec<TokenTree> = expression.clone().into_iter().collect();
    let called = |at: usize| match tokens.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Parenthesis => {
            Some(group.stream())
        }
        _ => None,
    };
    let mut name = None;
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Ident(ident) = token else {
            continue;
        };
        let ident = ident.to_string();
        match called(at + 1) {
            _ if ident == "if" => return None,
            None => name = Some(ident),
            // A function: it is called after what it is given, or after itself.
            Some(arguments) if name.is_none() => match &split_at_commas(arguments)[..] {
                _ if ident.ends_with("_hint") => return None,
                [only] => name = name_of(only),
                _ => name = Some(ident),
            },
            Some(_) if ident == "len" => name = Some("number".to_owned()),
            Some(_) if ident == "example" => name = Some(ident),
            Some(_) => (),
        }
    }
    name
}

/// Documentation without the targets of its links.
pub(super) fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        plain += before;
        let Some((words, after)) = after.split_once(']') else {
            plain.push('[');
            rest = after;
            continue;
        };
        plain += words;
        rest = match after.strip_prefix('(').and_then(|it| it.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(arguments: &str) -> String {
        let file = syn::parse_str("const SIZE_MAX: u64 = 4 * 1024; const WORD: &str = \"key\";");
        markdown(arguments.parse().unwrap(), &constants(&file.unwrap()))
    }

    #[test]
    fn what_is_filled_in_becomes_a_word() {
        for (arguments, expected) in [
            ("\"run {run} has `{step}`\"", "run *run* has `<step>`"),
            ("\"within {limit:?} of {0}\"", "within *limit* of …"),
            (
                "\"{{at}} most {SIZE_MAX} `{WORD}`\"",
                "{at} most 4096 `key`",
            ),
            (
                "\"{}{}\", path.display(), nearest_hint(x.as_deref())",
                "*path*",
            ),
            (
                "\"{} of {}\", .0.memory_kib, listed(available)",
                "*memory kib* of *available*",
            ),
            (
                "\"`{}`{}\", .dir.display(), if *over { \" and\" } else { \"\" }",
                "`<dir>`",
            ),
            (
                "\"has: {}\", crate::load::FEATURES.join(\", \")",
                "has: *features*",
            ),
            ("\"a <b> `<c>`\"", "a \\<b> `<c>`"),
        ] {
            assert_eq!(written(arguments), expected, "{arguments}");
        }
    }

    #[test]
    fn a_message_that_says_nothing_itself_is_known() {
        for text in ["*headline*", "`<path>`", "…"] {
            assert!(is_only_a_placeholder(text), "{text}");
        }
        for text in ["`<path>` is missing", "`chmod 600`", "install another", ""] {
            assert!(!is_only_a_placeholder(text), "{text}");
        }
    }

    #[test]
    fn links_lose_their_targets() {
        assert_eq!(
            without_links("see [`A`](crate::A) and [`B`]."),
            "see `A` and `B`."
        );
    }
}
