//! The codes that no error type defines, because the command makes the error
//! on the spot; and the places that use a code which is defined elsewhere.

use super::Definition;

/// The code, the file that makes the error, what it says, what that means, and
/// what to do.
const DEFINITIONS: &[(u16, &str, &str, &str, &str)] = &[(
    5015,
    "cli/src/command/help.rs",
    "*what is wrong with the command line*",
    "With `--json`, a command, an option or a value that the command line does not have. Without it the same text comes without a code.",
    "`orchestrator help` lists the commands, `orchestrator help COMMAND` the options of one",
)];

/// Where a code is used, in its one meaning, that an error type defines.
const ALSO_IN: &[(u16, &str)] = &[
    // A failure without a code of its own.
    (5000, "cli/src/serve/problem.rs"),
    // The work of stopping a plugin panicked.
    (3031, "plugin-runtime/src/runtime.rs"),
];

/// Codes that several types define: each says more exactly what is wrong.
pub(super) const ONE_THING_IN_MANY_WORDS: &[u16] = &[1021];

/// The definitions of this file.
pub(super) fn definitions() -> impl Iterator<Item = Definition> {
    DEFINITIONS
        .iter()
        .map(|(code, file, message, about, help)| Definition {
            code: *code,
            file: (*file).to_owned(),
            message: (*message).to_owned(),
            about: vec![(*about).to_owned()],
            help: (*help).to_owned(),
        })
}

/// Whether it is known what a code means in a file that names it in passing.
pub(super) fn is_known_use(code: u16, file: &str) -> bool {
    let made_there = DEFINITIONS
        .iter()
        .any(|(known, place, ..)| (*known, *place) == (code, file));
    made_there || ALSO_IN.contains(&(code, file))
}
