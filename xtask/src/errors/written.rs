//! The codes that no error type defines, because the command makes the error
//! on the spot; and the places that use a code which is defined elsewhere.

use super::Definition;

/// The code, the file that makes the error, what it says, what that means, and
/// what to do.
const DEFINITIONS: &[(u16, &str, &str, &str, &str)] = &[
    (
        5015,
        "cli/src/command/help.rs",
        "*what is wrong with the command line*",
        "With `--json`, a command, an option or a value that the command line does not have. Without it the same text comes without a code.",
        "`orchestrator help` lists the commands, `orchestrator help COMMAND` the options of one",
    ),
    (
        5050,
        "cli/src/serve/routes.rs",
        "send `Authorization: Bearer` with the token in `<path>`",
        "Everything below `/api/v1` wants the token of the service, and the request had none or another one. Status 401.",
        "send the content of the file, which the service made when it first started",
    ),
    (
        5051,
        "cli/src/serve/routes.rs",
        "there is nothing at this address",
        "The path is misspelt, or belongs to another version of the service. Status 404.",
        "correct the path; [Operating](operating.md#the-http-api) lists those there are",
    ),
    (
        5052,
        "cli/src/serve/routes.rs",
        "the resource does not take this method",
        "The path is right and the method is not, for instance a GET of `…/cancel`. Status 405.",
        "use the method in the header `Allow` of the answer",
    ),
    (
        5053,
        "cli/src/serve/routes.rs",
        "the request took too long",
        "The request was not answered within its time, mostly because the client did not finish sending it. Status 408.",
        "send the whole request at once; if it was, look at the load and the disk of the service",
    ),
    (
        5054,
        "cli/src/serve/runs.rs",
        "*what is wrong with the body*",
        "The body that should start a run is no JSON, has an unknown or missing field, is too large, or was not sent as `application/json`. Status 400, 413, 415 or 422.",
        "send `{\"pipeline\": …, \"input\": {…}}` with `Content-Type: application/json`; `server.body_bytes_max` bounds its size",
    ),
    (
        5055,
        "cli/src/serve/runs.rs",
        "`pipeline` is a name or a whole definition",
        "The field is neither a text nor an object. Status 422.",
        "give the name of a pipeline in the home's `pipelines` directory, or the definition itself as JSON",
    ),
    (
        5056,
        "cli/src/serve/runs.rs",
        "*what is wrong with the idempotency key*",
        "The key is empty, longer than 255 bytes or no plain text, or header and body name different ones. Status 422.",
        "send one key of 1 to 255 bytes, in the header `Idempotency-Key` or in the body",
    ),
    (
        5057,
        "cli/src/serve/runs.rs",
        "*what is wrong with the query*",
        "A parameter of the list of runs is unknown or has a value that does not fit. Status 400.",
        "use `status`, `pipeline`, `before` and `limit` only",
    ),
];

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
