//! How deep a template is nested, known before it is parsed.
//!
//! The template engine takes stack for every operator and for every `elif`,
//! when it parses, when it compiles and when it drops what it parsed. It
//! limits brackets and blocks; the rest is limited here.

use minijinja::{
    machinery::{Token, tokenize},
    syntax::SyntaxConfig,
};

/// The most operators and names that may hang together. What commas separate
/// does not, so that long lists may be written out.
const WORDS_MAX: usize = 200;
/// The deepest brackets in one tag.
const BRACKETS_MAX: usize = 32;
/// The most words in all tags together: each takes some memory.
const ALL_WORDS_MAX: usize = 100_000;
/// The most conditions around one place, with every `elif` before it.
const CONDITIONS_MAX: usize = 100;

/// A template that is refused before it is parsed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The line it is about, from 1.
    pub(crate) line: usize,
    /// What is wrong.
    pub(crate) message: String,
}

/// Whether the tags of a template are within bounds. What is no template is
/// left to the parser.
pub(super) fn check(source: &str, syntax: &SyntaxConfig) -> Result<(), Refused> {
    let mut counts = Counts::default();
    for (token, span) in tokenize(source, false, syntax.clone()).map_while(Result::ok) {
        counts.add(&token).map_err(|limit| {
            let before = source.get(..span.start_offset as usize).unwrap_or_default();
            Refused {
                line: before.matches('\n').count() + 1,
                message: format!("more than {limit}"),
            }
        })?;
    }
    Ok(())
}

#[derive(Default)]
struct Counts {
    /// The brackets that are open in the tag, and the tag itself.
    open: Vec<Open>,
    /// Whether the last token starts a block, or ends an operand.
    is_start: bool,
    is_operand: bool,
    all_words: usize,
    /// How many conditions each `if` that is open stands for.
    conditions: Vec<usize>,
}

/// How deep what stands between two brackets may be nested.
#[derive(Default)]
struct Open {
    /// Since the last comma.
    words: usize,
    /// The most between two commas.
    most: usize,
}

impl Counts {
    /// The error is the limit that is passed.
    fn add(&mut self, token: &Token<'_>) -> Result<(), String> {
        use Token as T;
        if self.is_start {
            self.block(token);
        }
        self.is_start = matches!(token, T::BlockStart);
        let is_operand = self.is_operand;
        self.is_operand = matches!(
            token,
            T::Ident(_)
                | T::Str(_)
                | T::String(_)
                | T::BracketClose
                | T::BraceClose
                | T::ParenClose
        );
        let words = match token {
            T::BlockStart | T::VariableStart => {
                self.open = vec![Open::default()];
                0
            }
            T::BracketOpen | T::BraceOpen | T::ParenOpen => {
                self.open.push(Open::default());
                usize::from(is_operand)
            }
            T::BracketClose | T::BraceClose | T::ParenClose => {
                let closed = self.open.pop().unwrap_or_default();
                closed.words.max(closed.most)
            }
            T::Comma | T::Colon => {
                if let Some(open) = self.open.last_mut() {
                    open.most = open.most.max(std::mem::take(&mut open.words));
                }
                0
            }
            T::TemplateData(_) => return Ok(()),
            T::Str(_) | T::String(_) | T::Int(_) | T::Int128(_) | T::Float(_) => 0,
            _ => 1,
        };
        if let Some(open) = self.open.last_mut() {
            open.words += words;
        }
        self.all_words += 1;
        self.check()
    }

    fn check(&self) -> Result<(), String> {
        let within = |count: usize, limit: usize, what: &str| match count > limit {
            true => Err(format!("{limit} {what}")),
            false => Ok(()),
        };
        let words = self.open.iter().map(|open| open.words).sum();
        within(words, WORDS_MAX, "words in one expression")?;
        let brackets = self.open.len().saturating_sub(1);
        within(brackets, BRACKETS_MAX, "nested brackets")?;
        within(self.all_words, ALL_WORDS_MAX, "words in its tags")?;
        let conditions = self.conditions.iter().sum();
        within(conditions, CONDITIONS_MAX, "conditions around one place")
    }

    /// Counts the conditions around what follows the first word of a block.
    fn block(&mut self, word: &Token<'_>) {
        match (word, self.conditions.last_mut()) {
            (Token::Ident("if"), _) => self.conditions.push(1),
            (Token::Ident("elif"), Some(last)) => *last += 1,
            (Token::Ident("endif"), _) => drop(self.conditions.pop()),
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str) -> Result<(), (usize, String)> {
        super::check(source, &SyntaxConfig::default())
            .map_err(|refused| (refused.line, refused.message))
    }

    #[test]
    fn ordinary_templates_are_within_bounds() {
        let names = vec!["'name'"; 10_000].join(", ");
        for template in [
            "{% if a %}{% elif b %}{% else %}{% endif %}".repeat(1_000),
            format!("{{% for name in [{names}] %}}{{{{ name }}}}{{% endfor %}}"),
            format!("{{{{ [{}] }}}}", "{'a': [1, (2)]}, ".repeat(5_000)),
            format!(
                "{{{{ [{}] }}}}",
                "row.name, -row.other | f(x), ".repeat(1_000)
            ),
            "if elif ".repeat(1_000),
            "{{ a.b | f(c=1) }}\n".repeat(5_000),
        ] {
            assert_eq!(check(&template), Ok(()));
        }
    }

    #[test]
    fn what_costs_stack_is_counted() {
        for (template, expected) in [
            (
                format!("\n\n{{{{ {}x }}}}", "-".repeat(10_000)),
                (3, "200 words"),
            ),
            (
                format!("{{{{ {}x }}}}", "not ".repeat(10_000)),
                (1, "200 words"),
            ),
            (
                format!("{{% if {} %}}", "a ~ ".repeat(10_000)),
                (1, "200 words"),
            ),
            (
                format!("{{% if a %}}\n{}", "{% elif a %}".repeat(10_000)),
                (2, "100 conditions"),
            ),
            ("{% if a %}{% elif b %}".repeat(60), (1, "100 conditions")),
            ("{{ a }}".repeat(60_000), (1, "100000 words")),
            (format!("{{{{ {}", "[(".repeat(20)), (1, "32 nested")),
            (format!("{{{{ a{}", "[0]".repeat(500)), (1, "200 words")),
            (format!("{{{{ a{}", "()".repeat(500)), (1, "200 words")),
            (
                format!(
                    "{{{{ {}{}",
                    "(".repeat(9),
                    format!("1{})", "+1".repeat(30)).repeat(9)
                ),
                (1, "200 words"),
            ),
        ] {
            let (line, message) = check(&template).unwrap_err();
            assert_eq!(line, expected.0);
            assert!(message.contains(expected.1), "{message}");
        }
    }
}
