//! What the end of an `execute` process means.

use bytes::Bytes;
use orchestrator_contract::CallError;
use orchestrator_sandbox::ExitStatus;

use super::{ERROR_LINES, run::Finished};
use crate::process::describe;

/// `EX_DATAERR` of sysexits.h: the input is not what the phase takes.
const INVALID_INPUT: i32 = 65;
/// `EX_UNAVAILABLE`: something the plugin needs is not there right now.
const UNAVAILABLE: i32 = 69;
/// `EX_TEMPFAIL`: trying again may help.
const TRANSIENT: i32 = 75;
/// `EX_NOPERM`: a grant is missing.
const PERMISSION: i32 = 77;

/// What a Rust program exits with after a panic, with the SDK or without it.
const PANIC: i32 = 101;
/// From here on it is a shell that speaks, of a program that it could not start (126,
/// 127) or that a signal ended (128 and the signal's number).
const SHELL: i32 = 126;

/// Turns the end of a process into its output or an error. The last lines of stderr
/// are the message.
pub(super) fn judge(finished: Finished) -> Result<Bytes, CallError> {
    let status = describe(finished.status);
    let said = finished.tail.last_lines(ERROR_LINES);
    let message = match said.is_empty() {
        true => status.clone(),
        false => said.clone(),
    };
    match finished.status {
        ExitStatus::Exited(0) if finished.output.is_empty() => Err(CallError::InvalidOutput {
            message: "stdout is empty; a phase without a result prints null".to_owned(),
        }),
        ExitStatus::Exited(0) => Ok(finished.output),
        ExitStatus::Exited(INVALID_INPUT) => Err(CallError::InvalidInput { message }),
        ExitStatus::Exited(UNAVAILABLE | TRANSIENT) => Err(CallError::PluginTransient {
            message,
            retry_after_ms: None,
        }),
        ExitStatus::Exited(PERMISSION) => Err(CallError::Permission { message }),
        ExitStatus::Exited(PANIC) => Err(CallError::Panic { message }),
        ExitStatus::Exited(SHELL..) | ExitStatus::Signaled { .. } => Err(CallError::Crash {
            status,
            output: finished.tail.text(),
        }),
        ExitStatus::Exited(_) => Err(CallError::permanent(match said.is_empty() {
            true => status,
            false => format!("{status}: {said}"),
        })),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use orchestrator_contract::{ErrorKind, Usage};

    use super::*;
    use crate::logs::Tail;

    fn judged(status: ExitStatus, stderr: &str, output: &'static str) -> Result<Bytes, CallError> {
        let tail = Tail::new(100);
        tail.push(stderr.as_bytes());
        judge(Finished {
            status,
            output: Bytes::from_static(output.as_bytes()),
            tail: Arc::new(tail),
            usage: Usage::default(),
        })
    }

    #[test]
    fn every_status_has_its_error() {
        let cases = [
            (1, ErrorKind::PluginPermanent, "exited with status 1: why"),
            (3, ErrorKind::PluginPermanent, "exited with status 3: why"),
            (65, ErrorKind::InvalidInput, "invalid input: why"),
            (69, ErrorKind::PluginTransient, "why"),
            (75, ErrorKind::PluginTransient, "why"),
            (77, ErrorKind::Permission, "permission denied: why"),
            (101, ErrorKind::Panic, "panicked: why"),
            (
                125,
                ErrorKind::PluginPermanent,
                "exited with status 125: why",
            ),
        ];
        for (code, kind, shown) in cases {
            let error = judged(ExitStatus::Exited(code), "why\n", "{}").unwrap_err();
            assert_eq!((error.kind(), &*error.to_string()), (kind, shown));
        }
        for code in [126, 127, 137, 255] {
            let error = judged(ExitStatus::Exited(code), "why", "{}").unwrap_err();
            let (status, output) = (format!("exited with status {code}"), "why".to_owned());
            assert_eq!(error, CallError::Crash { status, output });
        }
        let killed = ExitStatus::Signaled {
            signal: 9,
            core: false,
        };
        let error = judged(killed, "why", "{}").unwrap_err();
        let (status, output) = ("was killed by signal 9".to_owned(), "why".to_owned());
        assert_eq!(error, CallError::Crash { status, output });
    }

    #[test]
    fn an_output_is_what_was_written_and_not_nothing() {
        let ok = ExitStatus::Exited(0);
        assert_eq!(judged(ok, "", "{\"a\": 1}\n").unwrap(), "{\"a\": 1}\n");
        let error = judged(ok, "", "").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOutput);
    }
}
