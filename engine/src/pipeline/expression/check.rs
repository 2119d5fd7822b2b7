//! Whether every name in an expression stands for something.

use minijinja::{Environment, Value};
use orchestrator_contract::StepId;

use super::{ExpressionFault, Ref, References, StepPart, StepRef};
use crate::pipeline::{
    fault::Rule,
    scan::{self, Token, TokenKind},
    words::{listed, quoted, suggest},
};

/// What the first word of a variable may be.
const VARIABLES: [&str; 4] = ["input", "run", "session", "steps"];
const FUNCTIONS: [&str; 2] = ["dict", "range"];

/// The filters of minijinja, for suggestions. Whether one exists is asked of
/// minijinja itself.
pub(super) const FILTERS: [&str; 48] = [
    "abs",
    "attr",
    "batch",
    "bool",
    "capitalize",
    "chain",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "lines",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "pprint",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "unique",
    "upper",
    "zip",
];

/// The tests of minijinja that are words, for suggestions.
pub(super) const TESTS: [&str; 23] = [
    "boolean",
    "defined",
    "divisibleby",
    "endingwith",
    "eq",
    "even",
    "false",
    "float",
    "ge",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sequence",
    "startingwith",
    "string",
];

const KEYWORDS: [&str; 12] = [
    "and", "or", "not", "in", "is", "if", "else", "true", "True", "false", "False", "none",
];

/// Whether minijinja has this filter (`sort` is "filter") or test.
pub(super) fn exists(environment: &Environment<'static>, name: &str, what: &str) -> bool {
    let question = format!("name is {what}");
    let context = Value::from_pairs([("name", name)]);
    environment
        .compile_expression_owned(question)
        .and_then(|expression| expression.eval(context))
        .is_ok_and(|answer| answer.is_true())
}

/// How to write a name with `-`, where one was written after a dot.
pub(super) fn hyphen_help(source: &str, tokens: &[Token<'_>], at: usize) -> Option<String> {
    let name = scan::hyphenated(source, tokens, at)?;
    let before = match at.checked_sub(2).map(|at| tokens[at].kind) {
        Some(TokenKind::Word("steps")) => {
            return Some(format!(
                "`-` is minus here; an id with `-` is written `steps['{name}'].output`"
            ));
        }
        Some(TokenKind::Word(before)) => before,
        _ => "…",
    };
    Some(format!(
        "`-` is minus here; a name with `-` is written `{before}['{name}']`"
    ))
}

/// Reads what an expression refers to.
pub(super) fn references(
    environment: &Environment<'static>,
    source: &str,
    tokens: &[Token<'_>],
) -> Result<References, Vec<ExpressionFault>> {
    let mut reader = Reader {
        environment,
        source,
        tokens,
        found: References::default(),
        faults: Vec::new(),
    };
    for (at, token) in tokens.iter().enumerate() {
        if let TokenKind::Word(word) = token.kind {
            reader.word(at, word);
        }
        // What follows a reference that could not be read means nothing.
        if reader
            .faults
            .last()
            .is_some_and(|fault| fault.rule == Rule::DynamicReference)
        {
            break;
        }
    }
    if reader.faults.is_empty() {
        Ok(reader.found)
    } else {
        Err(reader.faults)
    }
}

struct Reader<'a> {
    environment: &'a Environment<'static>,
    source: &'a str,
    tokens: &'a [Token<'a>],
    found: References,
    faults: Vec<ExpressionFault>,
}

impl<'a> Reader<'a> {
    fn kind(&self, at: usize) -> Option<TokenKind<'a>> {
        self.tokens.get(at).map(|token| token.kind)
    }

    fn before(&self, at: usize, back: usize) -> Option<TokenKind<'a>> {
        self.kind(at.checked_sub(back)?)
    }

    fn word(&mut self, at: usize, word: &'a str) {
        use TokenKind::{Symbol, Word};
        match self.before(at, 1) {
            Some(Symbol('.')) => return,
            Some(Symbol('|')) => return self.filter(at, word),
            Some(Word("is")) if word != "not" => return self.test(at, word),
            Some(Word("not")) if self.before(at, 2) == Some(Word("is")) => {
                return self.test(at, word);
            }
            _ => (),
        }
        let named = self.kind(at + 1) == Some(Symbol('='))
            && self.kind(at + 2) != Some(Symbol('='))
            && matches!(self.before(at, 1), Some(Symbol('(' | ',')));
        if named || KEYWORDS.contains(&word) || word == "None" {
            return;
        }
        let called = self.kind(at + 1) == Some(Symbol('('));
        match word {
            _ if called && FUNCTIONS.contains(&word) => (),
            "steps" if !called => self.step(at),
            "input" if !called => self.input(at),
            "run" if !called => self.member(at, &["id", "pipeline"]),
            "session" if !called => self.member(at, &["id"]),
            _ if called => self.unknown(at, "function", FUNCTIONS),
            _ => self.unknown(at, "variable", VARIABLES),
        }
    }

    /// The name after `.` or in `[""]` at `at`, and how many words it takes.
    /// `Err` is the last word of what is neither.
    fn attribute(&self, at: usize) -> Result<Option<(&'a str, usize)>, usize> {
        use TokenKind::{Symbol, Text, Word};
        match (self.kind(at), self.kind(at + 1), self.kind(at + 2)) {
            (Some(Symbol('.')), Some(Word(name)), _) => Ok(Some((name, 2))),
            (Some(Symbol('[')), Some(Text(Some(name))), Some(Symbol(']'))) => Ok(Some((name, 3))),
            (Some(Symbol('.' | '[')), ..) => Err((at + 1).min(self.tokens.len() - 1)),
            _ => Ok(None),
        }
    }

    fn step(&mut self, at: usize) {
        let Ok(Some((id, len))) = self.attribute(at + 1) else {
            return self.dynamic(
                at,
                at,
                "write `steps.<id>.output`, or `steps[\"<id>\"].output`",
            );
        };
        let part_at = at + 1 + len;
        let (part, part_len) = match self.attribute(part_at) {
            Ok(Some(("output", len))) => (StepPart::Output, len),
            Ok(Some(("outcome", len))) => (StepPart::Outcome, len),
            Ok(Some((other, _))) => {
                let message = format!("a step has no {}", quoted(other));
                return self.fault(part_at + 1, part_at + 1, Rule::UnknownVariable, message, {
                    "a step has `output` and `outcome`".to_owned()
                });
            }
            _ => {
                let help = hyphen_help(self.source, self.tokens, at + 2).unwrap_or_else(|| {
                    format!("write `steps.{id}.output` or `steps.{id}.outcome`")
                });
                return self.dynamic(at, part_at - 1, &help);
            }
        };
        let last = part_at + part_len - 1;
        if at == 0 && last + 1 == self.tokens.len() && part == StepPart::Output {
            self.found.whole = Some(Ref::Output(StepId::new(id)));
        }
        self.found.steps.push(StepRef {
            id: id.to_owned(),
            part,
            range: self.tokens[at].range.start..self.tokens[last].range.end,
        });
    }

    fn input(&mut self, at: usize) {
        if self.tokens.len() == 1 {
            self.found.whole = Some(Ref::Input);
        }
        if let Ok(Some((field, _))) = self.attribute(at + 1) {
            let range = self.tokens[at + 2].range.clone();
            self.found.fields.push((field.to_owned(), range));
        }
    }

    fn member(&mut self, at: usize, members: &[&'static str]) {
        match self.attribute(at + 1) {
            Ok(Some((name, _))) if members.contains(&name) => (),
            Ok(Some((name, _))) => {
                let message = format!("there is no {}", quoted(name));
                let help = suggest(name, members.iter().copied(), || {
                    format!("there is {}", listed(members.iter().copied()))
                });
                self.fault(at + 2, at + 2, Rule::UnknownVariable, message, help);
            }
            _ => {
                let help = format!("it has {}", listed(members.iter().copied()));
                let message = "this is no value by itself".to_owned();
                self.fault(at, at, Rule::UnknownVariable, message, help);
            }
        }
    }

    fn filter(&mut self, at: usize, name: &str) {
        if !exists(self.environment, name, "filter") {
            self.unknown(at, "filter", FILTERS);
        }
    }

    fn test(&mut self, at: usize, name: &str) {
        if !exists(self.environment, name, "test") {
            self.unknown(at, "test", TESTS);
        }
    }

    fn unknown<const N: usize>(&mut self, at: usize, what: &str, known: [&'static str; N]) {
        let TokenKind::Word(name) = self.tokens[at].kind else {
            return;
        };
        let message = format!("there is no {what} {}", quoted(name));
        if let Some(help) = self.after_hyphen(at) {
            return self.fault(at, at, Rule::UnknownVariable, message, help);
        }
        let help = suggest(name, known, || match what {
            "variable" => format!("there is {}; text goes between quotes", listed(known)),
            _ => format!("there is {}", listed(known)),
        });
        self.fault(at, at, Rule::UnknownVariable, message, help);
    }

    /// The help for a word that is the rest of a name with `-`.
    fn after_hyphen(&self, at: usize) -> Option<String> {
        let is_dot = |before: &usize| self.kind(*before) == Some(TokenKind::Symbol('.'));
        let first = (0..at).rev().find(is_dot)? + 1;
        let name = scan::hyphenated(self.source, self.tokens, first)?;
        let end = self.tokens[first].range.start + name.len();
        let help = hyphen_help(self.source, self.tokens, first);
        help.filter(|_| self.tokens[at].range.end <= end)
    }

    fn dynamic(&mut self, first: usize, last: usize, help: &str) {
        let message = "which step is meant must be written out".to_owned();
        self.fault(
            first,
            last,
            Rule::DynamicReference,
            message,
            help.to_owned(),
        );
    }

    fn fault(&mut self, first: usize, last: usize, rule: Rule, message: String, help: String) {
        self.faults.push(ExpressionFault {
            rule,
            range: self.tokens[first].range.start..self.tokens[last].range.end,
            message,
            help,
        });
    }
}
