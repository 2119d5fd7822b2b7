//! One line of a plugin's log, and the events that become one.

use std::{fmt::Write as _, sync::Arc};

use jiff::Timestamp;
use orchestrator_contract::{ErrorKind, Event, LogLevel, PluginId, PluginState, ReloadOutcome};
use serde::Serialize;

/// The stream of lines that the host says, and not the plugin.
const HOST: &str = "host";

/// One line of a plugin's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct LogLine {
    /// Counts the plugin's lines since the service was started, from 1.
    pub(super) seq: u64,
    pub(super) ts: Timestamp,
    pub(super) level: LogLevel,
    pub(super) plugin: Arc<str>,
    /// `stdout`, `stderr`, `protocol`, or `host` for what became of the plugin.
    stream: &'static str,
    pub(super) message: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    run_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
}

impl LogLine {
    /// What is said of an event; nothing of most. Whoever keeps the line numbers it and
    /// says when it came.
    pub(super) fn of(event: Event) -> Option<Self> {
        match event {
            Event::PluginLog {
                plugin,
                stream,
                level,
                message,
                run,
                trace,
            } => Some(Self {
                stream: stream.as_str(),
                run_id: run.map(|run| run.to_string()),
                trace_id: trace.map(|trace| trace.trace_id.to_string()),
                ..Self::new(&plugin, level, message)
            }),
            // Nobody has it: whoever asks for names at will is to fill no memory.
            Event::PluginReloaded {
                from: None,
                version: None,
                ..
            } => None,
            Event::PluginStateChanged { .. }
            | Event::PluginRestarted { .. }
            | Event::PluginReloaded { .. }
            | Event::PluginHealthChanged { .. } => of_life(event),
            // What the kernel refuses a process, the process alone can tell.
            Event::AttemptFailed {
                run,
                plugin,
                phase,
                error,
                ..
            } if error.kind() == ErrorKind::Permission => {
                let message = format!("phase {phase} failed: {error}");
                Some(Self {
                    run_id: Some(run.to_string()),
                    ..Self::new(&plugin, LogLevel::Warn, message)
                })
            }
            Event::ResourceViolation { .. } | Event::CapabilityDenied { .. } => of_bounds(event),
            _ => None,
        }
    }

    fn new(plugin: &PluginId, level: LogLevel, message: impl Into<Arc<str>>) -> Self {
        Self {
            seq: 0,
            ts: Timestamp::UNIX_EPOCH,
            level,
            plugin: plugin.as_str().into(),
            stream: HOST,
            message: message.into(),
            run_id: None,
            trace_id: None,
        }
    }
}

/// What became of the plugin.
fn of_life(event: Event) -> Option<LogLine> {
    let (plugin, level, message) = match event {
        Event::PluginStateChanged {
            plugin,
            version,
            state,
            reason,
        } => {
            let level = match state {
                PluginState::Error | PluginState::CrashLoop => LogLevel::Error,
                _ => LogLevel::Info,
            };
            let message = format!("version {version} is {}: {reason}", state.as_str());
            (plugin, level, message)
        }
        Event::PluginRestarted {
            plugin,
            reason,
            delay_ms,
        } => {
            let message = format!("is started again in {delay_ms} ms: {reason}");
            (plugin, LogLevel::Warn, message)
        }
        Event::PluginReloaded {
            plugin,
            from,
            version,
            outcome,
            reason,
        } => {
            let level = match outcome {
                ReloadOutcome::Switched => LogLevel::Info,
                ReloadOutcome::Failed => LogLevel::Error,
            };
            (plugin, level, reloaded(from, version, &reason))
        }
        Event::PluginHealthChanged {
            plugin,
            version,
            healthy,
            reason,
        } => match healthy {
            true => (plugin, LogLevel::Info, format!("version {version} is well")),
            false => {
                let message = format!("version {version} is not well: {reason}");
                (plugin, LogLevel::Warn, message)
            }
        },
        _ => return None,
    };
    Some(LogLine::new(&plugin, level, message))
}

fn reloaded(from: Option<Arc<str>>, version: Option<Arc<str>>, reason: &str) -> String {
    let before = from.as_deref().unwrap_or("none");
    match version {
        Some(version) => format!("was reloaded: {version} serves, before {before}; {reason}"),
        None => format!("was not reloaded, {before} goes on: {reason}"),
    }
}

/// What a plugin did not get, or took too much of.
fn of_bounds(event: Event) -> Option<LogLine> {
    let (plugin, level, message) = match event {
        Event::ResourceViolation {
            plugin,
            resource,
            current,
            limit,
            action,
            ..
        } => {
            let what = action.as_str();
            let message = format!("uses {current} of {resource}, more than {limit}: {what}");
            (plugin, action.level(), message)
        }
        Event::CapabilityDenied {
            plugin,
            capability,
            resource,
            rule,
            suppressed,
        } => {
            let mut message = String::from("was refused ");
            if !capability.is_empty() {
                // Writing to a string cannot fail.
                let _ = write!(message, "{capability}=");
            }
            let _ = write!(message, "{resource}: {}", rule.as_str());
            if suppressed > 0 {
                let _ = write!(message, "; {suppressed} before it were not told");
            }
            (plugin, LogLevel::Warn, message)
        }
        _ => return None,
    };
    Some(LogLine::new(&plugin, level, message))
}

#[cfg(test)]
mod tests {
    use orchestrator_contract::{DenialRule, ViolationAction};

    use super::*;

    fn said(event: Event) -> (LogLevel, String) {
        let line = LogLine::of(event).unwrap();
        assert_eq!((&*line.plugin, line.stream), ("p", HOST));
        (line.level, line.message.to_string())
    }

    fn reload(from: Option<&str>, version: Option<&str>, outcome: ReloadOutcome) -> Event {
        Event::PluginReloaded {
            plugin: "p".into(),
            from: from.map(Into::into),
            version: version.map(Into::into),
            outcome,
            reason: "so it is".into(),
        }
    }

    #[test]
    fn what_a_plugin_is_refused_is_a_line_of_its_log() {
        let denied = |capability: &str, resource: &str, rule, suppressed| Event::CapabilityDenied {
            plugin: "p".into(),
            capability: capability.into(),
            resource: resource.into(),
            rule,
            suppressed,
        };
        let network = denied(
            "network:access",
            "evil.example:443",
            DenialRule::NotGranted,
            3,
        );
        let text =
            "was refused network:access=evil.example:443: not_granted; 3 before it were not told";
        assert_eq!(said(network), (LogLevel::Warn, text.to_owned()));
        let call = denied("", "a system call", DenialRule::SystemCall, 0);
        let text = "was refused a system call: system_call";
        assert_eq!(said(call), (LogLevel::Warn, text.to_owned()));
        for (action, level) in [
            (ViolationAction::Warn, LogLevel::Warn),
            (ViolationAction::Throttle, LogLevel::Warn),
            (ViolationAction::Kill, LogLevel::Error),
        ] {
            let (of_line, text) = said(Event::ResourceViolation {
                plugin: "p".into(),
                resource: "memory".into(),
                current: 2,
                limit: 1,
                action,
                timestamp_ms: 1_700_000_000_000,
            });
            assert_eq!(of_line, level);
            let wanted = format!("uses 2 of memory, more than 1: {}", action.as_str());
            assert_eq!(text, wanted);
        }
    }

    #[test]
    fn what_becomes_of_a_plugin_is_a_line_of_its_log() {
        let switched = reload(Some("1.0.0"), Some("1.1.0"), ReloadOutcome::Switched);
        let text = "was reloaded: 1.1.0 serves, before 1.0.0; so it is";
        assert_eq!(said(switched), (LogLevel::Info, text.to_owned()));
        let failed = reload(Some("1.0.0"), None, ReloadOutcome::Failed);
        let text = "was not reloaded, 1.0.0 goes on: so it is";
        assert_eq!(said(failed), (LogLevel::Error, text.to_owned()));
        let restarted = Event::PluginRestarted {
            plugin: "p".into(),
            reason: "killed by signal 9".into(),
            delay_ms: 1_000,
        };
        let text = "is started again in 1000 ms: killed by signal 9";
        assert_eq!(said(restarted), (LogLevel::Warn, text.to_owned()));
        let failed = Event::PluginStateChanged {
            plugin: "p".into(),
            version: "1.0.0".into(),
            state: PluginState::Error,
            reason: "it broke".into(),
        };
        let text = "version 1.0.0 is error: it broke";
        assert_eq!(said(failed), (LogLevel::Error, text.to_owned()));
    }

    #[test]
    fn what_is_of_no_plugin_is_no_line() {
        let commit = Event::JournalCommitted {
            events: 1,
            duration_us: 1,
        };
        assert_eq!(LogLine::of(commit), None);
        let of_nobody = reload(None, None, ReloadOutcome::Failed);
        assert_eq!(LogLine::of(of_nobody), None);
    }
}
