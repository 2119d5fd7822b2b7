//! Questions to a plugin and what its answers mean.

use bytes::Bytes;
use orchestrator_contract::{
    CallError, JSON, Payload, PhaseReply, SessionId,
    frame::{ReconcileStatus, ResultHeader},
};

use crate::{
    logs::{Origin, escape},
    media_type::is_media_type,
};

/// Payloads up to this size are copied out of the read buffer, so that a small
/// output that is kept does not keep a large buffer.
const COPY_BYTES: usize = 16 << 10;
/// How much of a wrong content type is shown.
const SHOWN_BYTES: usize = 80;

/// What a plugin answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Reply(PhaseReply),
    Reconciled(ReconcileStatus, Payload),
}

/// What was asked.
#[derive(Clone, Debug)]
pub(super) enum Question {
    Call {
        origin: Origin,
        session: SessionId,
    },
    Reconcile,
    /// For its state, or to take one.
    State,
}

/// What a whole result means.
///
/// # Errors
///
/// What the plugin says, and when it answers another question than was asked or names
/// a content type that is none.
pub(super) fn answer(
    question: &Question,
    header: ResultHeader,
    payload: Bytes,
) -> Result<Answer, CallError> {
    if let Some(error) = header.error {
        return Err(as_plugins_own(error));
    }
    // Nearly every output is plain JSON.
    if header.content_type != JSON && !is_media_type(header.content_type.as_str()) {
        let seen = escape(header.content_type.as_str().as_bytes(), SHOWN_BYTES);
        return Err(CallError::protocol(
            "content_type",
            format!("`{seen}` is no media type"),
        ));
    }
    let bytes = match payload.len() <= COPY_BYTES {
        true => Bytes::copy_from_slice(&payload),
        false => payload,
    };
    let output = Payload::new(header.content_type, bytes);
    match (question, header.reconcile) {
        (Question::Call { .. } | Question::State, None) => Ok(Answer::Reply(PhaseReply {
            output,
            metadata: header.metadata,
            usage: header.usage,
        })),
        (Question::Reconcile, Some(status)) => Ok(Answer::Reconciled(status, output)),
        (Question::Call { .. } | Question::State, Some(_)) => Err(CallError::protocol(
            "wrong_answer",
            "it was answered like a reconcile question",
        )),
        (Question::Reconcile, None) => Err(CallError::protocol(
            "wrong_answer",
            "a reconcile question was answered like a call",
        )),
    }
}

/// A plugin speaks for itself. Kinds that say what the host did, and that policies
/// would therefore treat as no fault of the plugin, become what they mean when a
/// plugin says them.
fn as_plugins_own(error: CallError) -> CallError {
    let message = error.to_string();
    match error {
        CallError::RateLimited { retry_after_ms } | CallError::CircuitOpen { retry_after_ms } => {
            CallError::PluginTransient {
                message,
                retry_after_ms: Some(retry_after_ms),
            }
        }
        CallError::Overloaded { .. }
        | CallError::Disabled
        | CallError::Unavailable { .. }
        | CallError::Timeout { .. } => CallError::transient(message),
        CallError::Crash { .. } | CallError::Protocol { .. } => CallError::Unknown { message },
        own => own,
    }
}

#[cfg(test)]
mod tests {
    use orchestrator_contract::{Fault, TimeoutScope};

    use super::*;

    /// Whatever a plugin claims, its failure counts as its own.
    #[test]
    fn a_plugin_cannot_speak_for_the_host() {
        let claims = [
            CallError::Overloaded { limit: 1 },
            CallError::RateLimited { retry_after_ms: 5 },
            CallError::CircuitOpen { retry_after_ms: 5 },
            CallError::Unavailable {
                message: String::new(),
            },
            CallError::Timeout {
                scope: TimeoutScope::Total,
                limit_ms: 1,
            },
            CallError::protocol("rule", "m"),
        ];
        for claim in claims {
            let meant = as_plugins_own(claim.clone());
            assert_eq!(meant.fault(), Fault::Plugin, "{claim:?}");
            assert!(!meant.not_started(), "{claim:?}");
            assert_eq!(meant.retry_after(), claim.retry_after(), "{claim:?}");
        }
        let own = CallError::permanent("never");
        assert_eq!(as_plugins_own(own.clone()), own);
    }
}
