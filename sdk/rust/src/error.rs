//! Why a plugin has no answer.

use std::{fmt::Display, time::Duration};

use orchestrator_contract::CallError;

/// The longest message that is sent; the rest is cut off.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;

/// Why a call has no answer, said so that the host knows what to do about it.
///
/// Constructors take anything that can be shown, so that they fit `map_err`:
///
/// ```
/// # use orchestrator_sdk::Error;
/// fn read(path: &str) -> Result<String, Error> {
///     std::fs::read_to_string(path).map_err(Error::permanent)
/// }
/// assert_eq!(read("/no/such/file").unwrap_err().exit_code(), 1);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Permanent,
    Transient { retry_after: Option<Duration> },
    InvalidInput,
    InvalidOutput,
    Permission,
    Cancelled,
    Panic,
}

impl Error {
    /// This call will never work. Exit code 1.
    pub fn permanent(message: impl Display) -> Self {
        Self::new(Kind::Permanent, message)
    }

    /// Trying again may help. Exit code 75.
    pub fn transient(message: impl Display) -> Self {
        Self::new(Kind::Transient { retry_after: None }, message)
    }

    /// Trying again may help, though not before `retry_after`. Kind `exec` has
    /// no way to tell the host when.
    pub fn transient_after(retry_after: Duration, message: impl Display) -> Self {
        let retry_after = Some(retry_after);
        Self::new(Kind::Transient { retry_after }, message)
    }

    /// The input is not what the phase takes. Exit code 65.
    pub fn invalid_input(message: impl Display) -> Self {
        Self::new(Kind::InvalidInput, message)
    }

    /// A capability is missing; say which, and how to grant it. Exit code 77.
    pub fn permission(message: impl Display) -> Self {
        Self::new(Kind::Permission, message)
    }

    /// The output is nothing the host could take. Exit code 1.
    pub(crate) fn invalid_output(message: impl Display) -> Self {
        Self::new(Kind::InvalidOutput, message)
    }

    /// The host no longer wants the answer. Exit code 75.
    pub(crate) fn cancelled(message: impl Display) -> Self {
        Self::new(Kind::Cancelled, message)
    }

    /// The plugin's code panicked. Exit code 101, as for any Rust program.
    pub(crate) fn panic(message: impl Display) -> Self {
        Self::new(Kind::Panic, message)
    }

    fn new(kind: Kind, message: impl Display) -> Self {
        let mut message = message.to_string();
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        Self { kind, message }
    }

    /// What `execute` exits with, after `sysexits.h`.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Permanent | Kind::InvalidOutput => 1,
            Kind::InvalidInput => 65,
            Kind::Transient { .. } | Kind::Cancelled => 75,
            Kind::Permission => 77,
            Kind::Panic => 101,
        }
    }
}

impl From<Error> for CallError {
    fn from(Error { kind, message }: Error) -> Self {
        match kind {
            Kind::Permanent => Self::PluginPermanent { message },
            Kind::Transient { retry_after } => Self::PluginTransient {
                message,
                retry_after_ms: retry_after
                    .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            },
            Kind::InvalidInput => Self::InvalidInput { message },
            Kind::InvalidOutput => Self::InvalidOutput { message },
            Kind::Permission => Self::Permission { message },
            Kind::Cancelled => Self::Cancelled { reason: message },
            Kind::Panic => Self::Panic { message },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_exit_code_and_its_call_error() {
        let cases = [
            (Error::permanent("m"), 1, "plugin_permanent"),
            (Error::transient("m"), 75, "plugin_transient"),
            (Error::invalid_input("m"), 65, "invalid_input"),
            (Error::permission("m"), 77, "permission"),
            (Error::invalid_output("m"), 1, "invalid_output"),
            (Error::cancelled("m"), 75, "cancelled"),
            (Error::panic("m"), 101, "panic"),
        ];
        for (error, code, kind) in cases {
            assert_eq!(error.exit_code(), code, "{error:?}");
            assert_eq!(CallError::from(error).kind().as_str(), kind);
        }
    }

    #[test]
    fn the_wish_to_be_asked_later_travels() {
        let error = Error::transient_after(Duration::from_millis(250), "busy");
        let after = CallError::from(error).retry_after();
        assert_eq!(after, Some(Duration::from_millis(250)));
    }

    #[test]
    fn a_message_without_end_is_cut_between_characters() {
        let error = Error::permanent("é".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(error.to_string().len(), MESSAGE_BYTES_MAX);
        let odd = Error::permanent(format_args!("x{}", "é".repeat(MESSAGE_BYTES_MAX)));
        assert_eq!(odd.to_string().len(), MESSAGE_BYTES_MAX - 1);
    }
}
