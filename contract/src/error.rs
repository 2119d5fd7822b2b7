//! Why a call has no reply, and the questions one may ask of that.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a call has no reply.
///
/// Messages are fragments that read well after "call failed: ". The error
/// travels as JSON, tagged by `kind`, to plugins and into the journal.
#[derive(Clone, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CallError {
    /// Time was up. Whether the plugin did the work is unknown.
    #[error("no answer within {}", Seconds(*.limit_ms))]
    Timeout {
        /// Which limit it was.
        scope: TimeoutScope,
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// The caller, an operator or a shutdown ended it.
    #[error("cancelled: {reason}")]
    Cancelled {
        /// Who ended it.
        reason: String,
    },
    /// Code in the engine's own process panicked while it served the call.
    #[error("panicked: {message}")]
    Panic {
        /// The panic's message.
        message: String,
    },
    /// The plugin's process ended before it answered.
    #[error("the plugin's process {status}")]
    Crash {
        /// How it ended: "exited with status 3", "was killed by signal 9".
        status: String,
        /// The last output of the process, at most 64 KiB.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        output: String,
    },
    /// The plugin broke the protocol of its kind.
    #[error("protocol fault `{rule}`: {message}")]
    Protocol {
        /// The rule that was broken, a stable name such as `second_reply`.
        rule: String,
        /// What was seen.
        message: String,
    },
    /// The input is not what the phase takes.
    #[error("invalid input: {message}")]
    InvalidInput {
        /// What is wrong with it.
        message: String,
    },
    /// The output is not what the phase promised.
    #[error("invalid output: {message}")]
    InvalidOutput {
        /// What is wrong with it.
        message: String,
    },
    /// A capability that was not granted was needed.
    #[error("permission denied: {message}")]
    Permission {
        /// The capability, or what was refused.
        message: String,
    },
    /// Refused by a rate limit; the plugin was not called.
    #[error("rate limit exceeded, free again in {}", Seconds(*.retry_after_ms))]
    RateLimited {
        /// When a call may pass, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// Refused by an open breaker; the plugin was not called.
    #[error("the circuit is open, next probe in {}", Seconds(*.retry_after_ms))]
    CircuitOpen {
        /// When a probe may pass, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// Refused because too many calls are in flight; the plugin was not called.
    #[error("{limit} calls are already in flight")]
    Overloaded {
        /// The number of calls that may be in flight.
        limit: u64,
    },
    /// The plugin used more of a resource than it may.
    #[error("limit of {resource} exceeded: {message}")]
    ResourceLimit {
        /// `memory`, `cpu`, `files`, `tasks`, `output`.
        resource: String,
        /// How much was used and allowed.
        message: String,
    },
    /// The plugin says that trying again may help.
    #[error("{message}")]
    PluginTransient {
        /// The plugin's message.
        message: String,
        /// When the plugin wants to be asked again, in milliseconds from now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// The plugin says that this call will never work.
    #[error("{message}")]
    PluginPermanent {
        /// The plugin's message.
        message: String,
    },
    /// The plugin could not be reached; it was not called.
    #[error("unavailable: {message}")]
    Unavailable {
        /// Why not.
        message: String,
    },
    /// An operator keeps the plugin from taking calls; it was not called.
    #[error("the plugin is disabled")]
    Disabled,
    /// Something that fits no other kind.
    #[error("{message}")]
    Unknown {
        /// What was seen.
        message: String,
    },
}

/// Which time limit passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeoutScope {
    /// The whole call with its retries and waits.
    Total,
    /// One attempt.
    Attempt,
}

/// Whose doing a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The plugin's; a breaker counts it.
    Plugin,
    /// The caller's, or the input's; says nothing about the plugin's health.
    Caller,
    /// The host's own: a refusal or a bug.
    Host,
}

/// Whether and when a call may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAdvice {
    /// It will fail again, or the refusal must be respected.
    Never,
    /// The work may have been done, so only an idempotent phase is tried again.
    IfIdempotent {
        /// The earliest moment the plugin asks for.
        after: Option<Duration>,
    },
    /// The work certainly was not started.
    NotStarted,
}

macro_rules! error_kinds {
    ($($variant:ident => $name:literal),+ $(,)?) => {
        /// The kinds of [`CallError`], which are also the values of the metric
        /// label `error_type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum ErrorKind {
            $(#[doc = concat!("`", $name, "`")] $variant),+
        }

        impl ErrorKind {
            /// Every kind, in the order of [`CallError`].
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The kind in snake_case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }

        impl CallError {
            /// The kind, for labels and for decisions.
            pub const fn kind(&self) -> ErrorKind {
                match self { $(Self::$variant { .. } => ErrorKind::$variant),+ }
            }
        }
    };
}

error_kinds! {
    Timeout => "timeout",
    Cancelled => "cancelled",
    Panic => "panic",
    Crash => "crash",
    Protocol => "protocol",
    InvalidInput => "invalid_input",
    InvalidOutput => "invalid_output",
    Permission => "permission",
    RateLimited => "rate_limited",
    CircuitOpen => "circuit_open",
    Overloaded => "overloaded",
    ResourceLimit => "resource_limit",
    PluginTransient => "plugin_transient",
    PluginPermanent => "plugin_permanent",
    Unavailable => "unavailable",
    Disabled => "disabled",
    Unknown => "unknown",
}

impl CallError {
    /// Whose doing it is.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Timeout { .. }
            | Self::Panic { .. }
            | Self::Crash { .. }
            | Self::Protocol { .. }
            | Self::InvalidOutput { .. }
            | Self::ResourceLimit { .. }
            | Self::PluginTransient { .. }
            | Self::Unavailable { .. }
            | Self::Unknown { .. } => Fault::Plugin,
            // A plugin that says "never" answered as it should.
            Self::PluginPermanent { .. }
            | Self::InvalidInput { .. }
            | Self::Permission { .. }
            | Self::Cancelled { .. } => Fault::Caller,
            Self::RateLimited { .. }
            | Self::CircuitOpen { .. }
            | Self::Overloaded { .. }
            | Self::Disabled => Fault::Host,
        }
    }

    /// Whether and when it may be tried again.
    pub fn retry(&self) -> RetryAdvice {
        match self {
            Self::Unavailable { .. } => RetryAdvice::NotStarted,
            Self::PluginTransient { retry_after_ms, .. } => RetryAdvice::IfIdempotent {
                after: retry_after_ms.map(Duration::from_millis),
            },
            Self::Timeout {
                scope: TimeoutScope::Attempt,
                ..
            }
            | Self::Panic { .. }
            | Self::Crash { .. }
            | Self::Protocol { .. }
            | Self::Unknown { .. } => RetryAdvice::IfIdempotent { after: None },
            // The total deadline leaves no time; our own refusals are there to
            // be respected; the rest would fail again.
            Self::Timeout {
                scope: TimeoutScope::Total,
                ..
            }
            | Self::Cancelled { .. }
            | Self::InvalidInput { .. }
            | Self::InvalidOutput { .. }
            | Self::Permission { .. }
            | Self::RateLimited { .. }
            | Self::CircuitOpen { .. }
            | Self::Overloaded { .. }
            | Self::Disabled
            | Self::ResourceLimit { .. }
            | Self::PluginPermanent { .. } => RetryAdvice::Never,
        }
    }

    /// Whether the plugin certainly did no work.
    pub const fn not_started(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Unavailable
                | ErrorKind::RateLimited
                | ErrorKind::CircuitOpen
                | ErrorKind::Overloaded
                | ErrorKind::Disabled
        )
    }

    /// Whether the work of a call that was started may have been done all the
    /// same: the plugin gave no answer, or not one that can be used.
    pub const fn may_have_happened(&self) -> bool {
        matches!(
            self.kind(),
            ErrorKind::Timeout
                | ErrorKind::Cancelled
                | ErrorKind::Panic
                | ErrorKind::Crash
                | ErrorKind::Protocol
                | ErrorKind::InvalidOutput
                | ErrorKind::ResourceLimit
                | ErrorKind::Unknown
        )
    }

    /// When a caller may come back, where the error says so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after_ms } | Self::CircuitOpen { retry_after_ms } => {
                Some(Duration::from_millis(*retry_after_ms))
            }
            Self::PluginTransient { retry_after_ms, .. } => {
                retry_after_ms.map(Duration::from_millis)
            }
            _ => None,
        }
    }

    /// A broken rule of a plugin protocol.
    pub fn protocol(rule: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Protocol {
            rule: rule.into(),
            message: message.into(),
        }
    }

    /// A plugin's own failure that trying again will not mend.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::PluginPermanent {
            message: message.into(),
        }
    }

    /// A plugin's own failure that trying again may mend.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::PluginTransient {
            message: message.into(),
            retry_after_ms: None,
        }
    }

    /// An input that the phase does not take.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::InvalidInput {
            message: message.into(),
        }
    }
}

/// Shows milliseconds as people read them: `250ms`, `1.5s`.
struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&Duration::from_millis(self.0), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_written_as_its_label() {
        for kind in ErrorKind::ALL {
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(json, format!("\"{}\"", kind.as_str()));
        }
    }

    #[test]
    fn errors_travel_as_tagged_json() {
        let error = CallError::PluginTransient {
            message: "busy".into(),
            retry_after_ms: Some(250),
        };
        let json = serde_json::to_string(&error).unwrap();
        assert_eq!(
            json,
            r#"{"kind":"plugin_transient","message":"busy","retry_after_ms":250}"#
        );
        assert_eq!(serde_json::from_str::<CallError>(&json).unwrap(), error);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
    }

    #[test]
    fn our_own_refusals_are_neither_retried_nor_held_against_the_plugin() {
        let refusals = [
            CallError::RateLimited { retry_after_ms: 1 },
            CallError::CircuitOpen { retry_after_ms: 1 },
            CallError::Overloaded { limit: 1 },
            CallError::Disabled,
        ];
        for refusal in refusals {
            assert_eq!(refusal.fault(), Fault::Host);
            assert_eq!(refusal.retry(), RetryAdvice::Never);
            assert!(refusal.not_started());
        }
    }

    #[test]
    fn durations_read_as_people_write_them() {
        let error = CallError::Timeout {
            scope: TimeoutScope::Attempt,
            limit_ms: 1_500,
        };
        assert_eq!(error.to_string(), "no answer within 1.5s");
    }
}
