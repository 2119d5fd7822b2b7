//! From a text to a tree, or to the reason why it is no pipeline at all.

use orchestrator_manifest::located::{self, Broken, Cause, DEPTH_MAX, Format, Node, NodeKind};

use crate::pipeline::{fault::Rule, words::quoted};

/// Most parser events that the aliases of one pipeline may stand for.
const REPLAYED_MAX: usize = 50_000;

const BRACES: &str = "put text that holds `${{` between quotes, or write it as a block after `|`";

/// Why a text is no pipeline at all.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) rule: Rule,
    pub(super) message: String,
    pub(super) help: &'static str,
    pub(super) offset: Option<usize>,
}

/// Reads YAML 1.2, which contains JSON.
pub(super) fn read(text: &str) -> Result<Node, Refusal> {
    let root = located::parse(text, Format::Yaml, REPLAYED_MAX)
        .map_err(|broken| in_words(text, broken))?;
    match rounded(text, &root) {
        Some(start) => Err(Refusal {
            rule: Rule::OutOfBounds,
            message: "an integer of more than 64 bits".to_owned(),
            help: "put it between quotes, as text",
            offset: Some(start),
        }),
        None => Ok(root),
    }
}

fn in_words(text: &str, broken: Broken) -> Refusal {
    let offset = broken.offset;
    let (rule, message, help) = match broken.cause {
        Cause::Syntax(message) => {
            let help = if stands_by_braces(text, offset) {
                BRACES
            } else {
                ""
            };
            (Rule::Syntax, without_place(&message), help)
        }
        Cause::DuplicateKey(key) => {
            let message = format!("{} stands twice", quoted(&key));
            (Rule::DuplicateKey, message, "keep one of them")
        }
        Cause::TooDeep => {
            let message = format!("nested more than {DEPTH_MAX} levels deep");
            (Rule::TooDeep, message, "flatten it")
        }
    };
    Refusal {
        rule,
        message,
        help,
        offset,
    }
}

/// Whether the line that holds the byte at `offset` has an expression in it.
fn stands_by_braces(text: &str, offset: Option<usize>) -> bool {
    let line = offset.and_then(|offset| {
        let begin = text.get(..offset)?.rfind('\n').map_or(0, |at| at + 1);
        text.get(begin..)?.lines().next()
    });
    line.is_some_and(|line| line.contains("${{"))
}

/// The parser ends its messages with the place, which is shown already.
fn without_place(message: &str) -> String {
    let end = message.find(" at line ").unwrap_or(message.len());
    message[..end].to_owned()
}

/// Where the first integer begins that is beyond 64 bits: it became a fraction
/// and lost its last digits.
fn rounded(text: &str, node: &Node) -> Option<usize> {
    match &node.kind {
        NodeKind::Number(number) if number.is_f64() => {
            let span = node.span.clone()?;
            let start = span.start;
            let digits = text.get(span)?.trim_start_matches(['+', '-']);
            let is_integer = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            is_integer.then_some(start)
        }
        NodeKind::List(items) => items.iter().find_map(|item| rounded(text, item)),
        NodeKind::Table(entries) => entries.iter().find_map(|entry| rounded(text, &entry.node)),
        _ => None,
    }
}
