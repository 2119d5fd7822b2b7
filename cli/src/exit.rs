//! What the exit status means. Scripts rely on it: never renumber.

use orchestrator_contract::{CallError, ErrorKind};
use orchestrator_engine::ErrorClass;

/// The exit status of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    Invalid = 3,
    NotFound = 4,
    Denied = 5,
    Trust = 6,
    Unreachable = 7,
    TimedOut = 8,
    Interrupted = 130,
}

impl Exit {
    const ALL: [Self; 10] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Invalid,
        Self::NotFound,
        Self::Denied,
        Self::Trust,
        Self::Unreachable,
        Self::TimedOut,
        Self::Interrupted,
    ];

    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "it worked",
            Self::Failed => "the operation failed, for instance a run did",
            Self::Usage => "the command line was wrong",
            Self::Invalid => "a configuration, manifest, pipeline or input is invalid",
            Self::NotFound => "what was named does not exist",
            Self::Denied => "a grant or permission is missing",
            Self::Trust => "a signature or a trust rule failed",
            Self::Unreachable => "the engine is busy, locked or cannot be reached",
            Self::TimedOut => "time was up",
            Self::Interrupted => "somebody interrupted it (Ctrl-C)",
        }
    }

    /// The status of a run that failed with `error`.
    pub(crate) fn of_call(error: Option<&CallError>) -> Self {
        match error.map(CallError::kind) {
            Some(ErrorKind::Timeout) => Self::TimedOut,
            Some(ErrorKind::Permission) => Self::Denied,
            _ => Self::Failed,
        }
    }
}

impl From<ErrorClass> for Exit {
    fn from(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Invalid => Self::Invalid,
            ErrorClass::NotFound => Self::NotFound,
            ErrorClass::Denied => Self::Denied,
            ErrorClass::Trust => Self::Trust,
            ErrorClass::Busy => Self::Unreachable,
            ErrorClass::Conflict | ErrorClass::Failed => Self::Failed,
        }
    }
}

/// The table behind `orchestrator help exit-codes`.
pub(crate) fn table() -> String {
    Exit::ALL
        .iter()
        .map(|exit| format!("  {:>3}  {}\n", exit.code(), exit.meaning()))
        .collect()
}

/// The same table for programs.
pub(crate) fn json() -> serde_json::Value {
    let rows = Exit::ALL
        .iter()
        .map(|exit| serde_json::json!({ "code": exit.code(), "meaning": exit.meaning() }));
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_that_scripts_rely_on_stay() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 130]);
        assert!(table().contains("  6  a signature or a trust rule failed\n"));
    }
}
