//! Reads one commit's message.
//!
//! [Conventional Commits 1.0.0](https://www.conventionalcommits.org/en/v1.0.0/)
//! where a message follows them, its leading verb where it does not.

use crate::section::Section;

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) section: Section,
    /// The type, where the message follows the convention.
    pub(crate) kind: Option<&'a str>,
    pub(crate) scope: Option<&'a str>,
    /// What was done.
    pub(crate) description: &'a str,
    /// Whether users must act.
    pub(crate) breaking: bool,
    /// What users must know then, where the message says.
    pub(crate) note: Option<String>,
    /// Hashes of the commits that this one takes back.
    pub(crate) reverts: Vec<&'a str>,
}

/// The part before the description: `type(scope)!: `.
struct Prefix<'a> {
    kind: &'a str,
    scope: Option<&'a str>,
    breaking: bool,
    description: &'a str,
}

impl<'a> Message<'a> {
    pub(crate) fn parse(subject: &'a str, body: &'a str) -> Self {
        let note = breaking_note(body);
        let reverts = reverted(body);
        let message = match prefix(subject) {
            Some(prefix) => Self {
                // An area instead of a type (`parser: fix …`) is common, and
                // the verb behind it says more.
                section: Section::of_type(prefix.kind)
                    .unwrap_or_else(|| Section::of_text(prefix.description)),
                kind: Some(prefix.kind),
                scope: prefix.scope,
                description: prefix.description,
                breaking: prefix.breaking || note.is_some(),
                note,
                reverts,
            },
            None => Self {
                section: Section::of_text(subject),
                kind: None,
                scope: None,
                description: subject,
                breaking: note.is_some(),
                note,
                reverts,
            },
        };
        match message.reverts.is_empty() {
            true => message,
            false => Self {
                section: Section::Reverts,
                ..message
            },
        }
    }
}

/// Splits a conventional subject (rules 1, 4, 5 and 13 of the specification).
fn prefix(subject: &str) -> Option<Prefix<'_>> {
    let (head, description) = subject.split_once(": ")?;
    let description = description.trim();
    let (head, breaking) = match head.strip_suffix('!') {
        Some(head) => (head, true),
        None => (head, false),
    };
    let (kind, scope) = match head.split_once('(') {
        Some((kind, rest)) => (kind, Some(rest.strip_suffix(')')?)),
        None => (head, None),
    };
    let is_noun = |text: &str| {
        let mut characters = text.chars();
        characters.next().is_some_and(char::is_alphabetic)
            && characters.all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'))
    };
    let scope_fits =
        scope.is_none_or(|scope| !scope.trim().is_empty() && !scope.contains(['(', ')']));
    (is_noun(kind) && scope_fits && !description.is_empty()).then_some(Prefix {
        kind,
        scope: scope.map(str::trim),
        breaking,
        description,
    })
}

/// The text behind `BREAKING CHANGE:` (rules 11, 12, 15 and 16): the rest of
/// the line and the lines that follow, up to a blank line or the next footer.
fn breaking_note(body: &str) -> Option<String> {
    let mut lines = body.lines();
    let first = lines.find_map(|line| {
        let (token, value) = footer(line)?;
        matches!(token, "BREAKING CHANGE" | "BREAKING-CHANGE").then_some(value)
    })?;
    let more = lines.take_while(|line| !line.trim().is_empty() && footer(line).is_none());
    let words: Vec<&str> = std::iter::once(first).chain(more).map(str::trim).collect();
    let note = words.join(" ").trim().to_owned();
    (!note.is_empty()).then_some(note)
}

/// Splits a footer: `Token: value` or `Token #value`, where the token has no
/// blanks unless it is `BREAKING CHANGE` (rules 8 and 9).
fn footer(line: &str) -> Option<(&str, &str)> {
    let colon = line.split_once(": ");
    let hash = line.find(" #").map(|at| (&line[..at], &line[at + 1..]));
    let (token, value) = [colon, hash]
        .into_iter()
        .flatten()
        .min_by_key(|(token, _)| token.len())?;
    let is_token = token == "BREAKING CHANGE"
        || (!token.is_empty() && token.chars().all(|c| c.is_alphanumeric() || c == '-'));
    is_token.then_some((token, value))
}

/// Hashes behind git's own sentence, `This reverts commit <hash>`.
fn reverted(body: &str) -> Vec<&str> {
    body.split("This reverts commit ")
        .skip(1)
        .filter_map(|rest| {
            let end = rest
                .find(|c: char| !c.is_ascii_hexdigit())
                .unwrap_or(rest.len());
            (end >= 7).then(|| &rest[..end])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts<'a>(subject: &'a str, body: &'a str) -> (&'a str, &'a str, &'a str, bool, String) {
        let message = Message::parse(subject, body);
        (
            message.kind.unwrap_or("-"),
            message.scope.unwrap_or("-"),
            message.description,
            message.breaking,
            message.note.unwrap_or_default(),
        )
    }

    /// The examples of the specification.
    #[test]
    fn the_specifications_examples_are_understood() {
        let cases = [
            (
                "feat: allow provided config object to extend other configs",
                "BREAKING CHANGE: `extends` key in config file is now used for extending other \
                 config files",
                (
                    "feat",
                    "-",
                    "allow provided config object to extend other configs",
                    true,
                    "`extends` key in config file is now used for extending other config files",
                ),
            ),
            (
                "feat!: send an email to the customer when a product is shipped",
                "",
                (
                    "feat",
                    "-",
                    "send an email to the customer when a product is shipped",
                    true,
                    "",
                ),
            ),
            (
                "feat(api)!: send an email to the customer when a product is shipped",
                "",
                (
                    "feat",
                    "api",
                    "send an email to the customer when a product is shipped",
                    true,
                    "",
                ),
            ),
            (
                "chore!: drop support for Node 6",
                "BREAKING CHANGE: use JavaScript features not available in Node 6.",
                (
                    "chore",
                    "-",
                    "drop support for Node 6",
                    true,
                    "use JavaScript features not available in Node 6.",
                ),
            ),
            (
                "docs: correct spelling of CHANGELOG",
                "",
                ("docs", "-", "correct spelling of CHANGELOG", false, ""),
            ),
            (
                "feat(lang): add Polish language",
                "",
                ("feat", "lang", "add Polish language", false, ""),
            ),
            (
                "fix: prevent racing of requests",
                "Introduce a request id and a reference to latest request. Dismiss\nincoming \
                 responses other than from latest request.\n\nReviewed-by: Z\nRefs: #123",
                ("fix", "-", "prevent racing of requests", false, ""),
            ),
        ];
        for (subject, body, (kind, scope, description, breaking, note)) in cases {
            let expected = (kind, scope, description, breaking, note.to_owned());
            assert_eq!(facts(subject, body), expected, "{subject}");
        }
    }

    #[test]
    fn a_breaking_note_ends_with_the_next_footer_or_a_blank_line() {
        let body = "Text.\n\nBREAKING-CHANGE: one\ntwo\nReviewed-by: Z\nthree";
        assert_eq!(facts("fix: x", body).4, "one two");
        let body = "BREAKING CHANGE: one\n\ntwo";
        assert_eq!(facts("x", body).4, "one");
        let body = "BREAKING CHANGE: one\nCloses #7";
        assert_eq!(facts("x", body).4, "one");
    }

    #[test]
    fn only_capitals_at_the_start_of_a_line_break() {
        for body in [
            "breaking change: no",
            "This is no BREAKING CHANGE: really",
            "BREAKING CHANGES: no",
            "BREAKING CHANGE",
            "BREAKING CHANGE:no blank",
        ] {
            assert!(!Message::parse("fix: x", body).breaking, "{body}");
        }
    }

    #[test]
    fn what_is_not_conventional_is_plain() {
        for subject in [
            "Fix: ",
            "fix:no blank",
            "fix() : x",
            "fix(): x",
            "fix(a: x",
            "fix(a))(: x",
            "two words: x",
            "http://example.com: x",
            ": x",
            "3: x",
        ] {
            let message = Message::parse(subject, "");
            assert_eq!((message.kind, message.description), (None, subject));
        }
    }

    #[test]
    fn an_area_is_no_type_but_the_verb_behind_it_counts() {
        let message = Message::parse("net/tcp: fix a leak", "");
        assert_eq!(
            (message.section, message.kind),
            (Section::Fixes, Some("net/tcp"))
        );
        assert_eq!(Message::parse("wip: things", "").section, Section::Other);
        assert!(Message::parse("anything!: x", "").breaking);
    }

    #[test]
    fn reverts_name_what_they_take_back() {
        let body = "This reverts commit 0123456789abcdef0123456789abcdef01234567.";
        let message = Message::parse("Revert \"feat: x\"", body);
        assert_eq!(message.section, Section::Reverts);
        assert_eq!(
            message.reverts,
            ["0123456789abcdef0123456789abcdef01234567"]
        );
        let short = Message::parse("revert: x", "This reverts commit abc");
        assert_eq!((short.section, short.reverts.len()), (Section::Reverts, 0));
        assert_eq!(Message::parse("Revert \"x\"", "").section, Section::Reverts);
    }
}
