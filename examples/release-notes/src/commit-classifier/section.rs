//! The sections of release notes, and which words belong to which.

/// The sections, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    Features,
    Fixes,
    Performance,
    Removals,
    Refactoring,
    Documentation,
    Tests,
    Build,
    Integration,
    Style,
    Chores,
    Reverts,
    Other,
}

use Section::{
    Build, Chores, Documentation, Features, Fixes, Integration, Other, Performance, Refactoring,
    Removals, Reverts, Style, Tests,
};

/// Types of conventional commits: `feat` and `fix` by the specification, the
/// rest by the Angular convention and by habit.
const TYPES: [(&str, Section); 20] = [
    ("feat", Features),
    ("feature", Features),
    ("fix", Fixes),
    ("bugfix", Fixes),
    ("hotfix", Fixes),
    ("security", Fixes),
    ("perf", Performance),
    ("remove", Removals),
    ("refactor", Refactoring),
    ("docs", Documentation),
    ("doc", Documentation),
    ("test", Tests),
    ("tests", Tests),
    ("build", Build),
    ("deps", Build),
    ("ci", Integration),
    ("style", Style),
    ("chore", Chores),
    ("release", Chores),
    ("revert", Reverts),
];

/// Verbs that plain messages begin with.
const VERBS: [(&str, Section); 44] = [
    ("add", Features),
    ("allow", Features),
    ("create", Features),
    ("enable", Features),
    ("implement", Features),
    ("introduce", Features),
    ("provide", Features),
    ("support", Features),
    ("avoid", Fixes),
    ("correct", Fixes),
    ("fix", Fixes),
    ("handle", Fixes),
    ("prevent", Fixes),
    ("repair", Fixes),
    ("resolve", Fixes),
    ("optimise", Performance),
    ("optimize", Performance),
    ("speed", Performance),
    ("delete", Removals),
    ("deprecate", Removals),
    ("drop", Removals),
    ("remove", Removals),
    ("clean", Refactoring),
    ("cleanup", Refactoring),
    ("extract", Refactoring),
    ("move", Refactoring),
    ("refactor", Refactoring),
    ("rename", Refactoring),
    ("reorganise", Refactoring),
    ("reorganize", Refactoring),
    ("rework", Refactoring),
    ("simplify", Refactoring),
    ("split", Refactoring),
    ("clarify", Documentation),
    ("describe", Documentation),
    ("document", Documentation),
    ("explain", Documentation),
    ("test", Tests),
    ("bump", Build),
    ("upgrade", Build),
    ("format", Style),
    ("reformat", Style),
    ("release", Chores),
    ("revert", Reverts),
];

impl Section {
    /// What people read.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Features => "Features",
            Fixes => "Fixes",
            Performance => "Performance",
            Removals => "Removals",
            Refactoring => "Refactoring",
            Documentation => "Documentation",
            Tests => "Tests",
            Build => "Build",
            Integration => "Continuous integration",
            Style => "Style",
            Chores => "Chores",
            Reverts => "Reverts",
            Other => "Other changes",
        }
    }

    /// The section of a conventional commit's type, in any case.
    pub(crate) fn of_type(name: &str) -> Option<Self> {
        let found = TYPES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, section)| *section)
    }

    /// The section of a plain message, by the verb that it begins with.
    pub(crate) fn of_text(text: &str) -> Self {
        let first = text
            .split(|c: char| !c.is_alphanumeric())
            .find(|word| !word.is_empty());
        let first = first.unwrap_or_default().to_lowercase();
        let found = VERBS.iter().find(|(verb, _)| is_form_of(&first, verb));
        found.map_or(Other, |(_, section)| *section)
    }
}

/// Whether `word` is `verb` or one of its forms: fixes, fixed, fixing; removes,
/// removed, removing; dropped, dropping; simplified.
fn is_form_of(word: &str, verb: &str) -> bool {
    if word == verb {
        return true;
    }
    let last = &verb[verb.len() - 1..];
    let endings = |stem: &str| {
        let ending = word.strip_prefix(stem);
        ending.is_some_and(|ending| matches!(ending, "s" | "es" | "d" | "ed" | "ing"))
    };
    endings(verb)
        || endings(&format!("{verb}{last}"))
        || (last == "e" && word.strip_prefix(&verb[..verb.len() - 1]) == Some("ing"))
        || (last == "y"
            && word
                .strip_prefix(&verb[..verb.len() - 1])
                .is_some_and(|ending| matches!(ending, "ies" | "ied")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leading_verb_decides_in_any_form() {
        let cases = [
            ("Add a switch", Features),
            ("added: a switch", Features),
            ("Fixes #12", Fixes),
            ("fixing the build", Fixes),
            ("Removing the old API", Removals),
            ("dropped Python 2", Removals),
            ("Simplified the parser", Refactoring),
            ("Documents the API", Documentation),
            ("Bumps serde", Build),
            ("\"Remove\" everything", Removals),
            ("Address the review", Other),
            ("additional words", Other),
            ("Supportive text", Other),
            ("Initial commit", Other),
            ("Élargir", Other),
            ("", Other),
            ("🎉", Other),
        ];
        for (text, expected) in cases {
            assert_eq!(Section::of_text(text), expected, "{text}");
        }
    }

    #[test]
    fn a_type_is_known_in_any_case_and_no_other_word_is() {
        assert_eq!(Section::of_type("FEAT"), Some(Features));
        assert_eq!(Section::of_type("parser"), None);
    }
}
