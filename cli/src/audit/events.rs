//! Which events are security events, and what is recorded of them.

use orchestrator_contract::{ErrorKind, Event, PluginState};
use orchestrator_plugin_runtime::{PluginStatus, ProblemClass, Sandbox, SandboxStatus};
use orchestrator_signing::audit::{AuditEvent, Kind, Outcome};

use crate::held::layers_in_words;

/// What is recorded of an event; nothing of most.
pub(super) fn of_event(event: &Event) -> Option<AuditEvent> {
    match event {
        Event::PluginStateChanged {
            plugin,
            version,
            state,
            reason,
        } => {
            let (kind, outcome) = match state {
                PluginState::Running => (Kind::Spawn, Outcome::Ok),
                PluginState::Stopped => (Kind::Exit, Outcome::Ok),
                PluginState::CrashLoop => (Kind::Exit, Outcome::Failed),
                _ => return None,
            };
            let mut event = AuditEvent::new(kind, outcome)
                .plugin(plugin.as_str())
                .detail(&**reason);
            event.version = Some(version.to_string());
            Some(event)
        }
        Event::PluginRestarted { plugin, reason, .. } => Some(
            AuditEvent::new(Kind::Exit, Outcome::Failed)
                .plugin(plugin.as_str())
                .detail(&**reason),
        ),
        Event::ResourceViolation {
            plugin,
            resource,
            current,
            limit,
            action,
            timestamp_ms,
        } => {
            let mut event = AuditEvent::new(Kind::Denial, Outcome::Denied)
                .plugin(plugin.as_str())
                .with("current", current.to_string())
                .with("limit", limit.to_string())
                .with("timestamp_ms", timestamp_ms.to_string());
            event.resource = Some(resource.to_string());
            event.rule = Some("limit".to_owned());
            event.action = Some(action.as_str().to_owned());
            Some(event)
        }
        _ => of_refusal(event),
    }
}

/// What a plugin was refused, or says that it was.
fn of_refusal(event: &Event) -> Option<AuditEvent> {
    match event {
        Event::CapabilityDenied {
            plugin,
            capability,
            resource,
            rule,
            suppressed,
        } => {
            let mut event = AuditEvent::new(Kind::Denial, Outcome::Denied).plugin(plugin.as_str());
            event.capability = Some(capability.to_string()).filter(|it| !it.is_empty());
            event.resource = Some(resource.to_string());
            event.rule = Some(rule.as_str().to_owned());
            if *suppressed > 0 {
                event = event.with("suppressed", suppressed.to_string());
            }
            Some(event)
        }
        Event::AttemptFailed {
            run,
            step,
            plugin,
            phase,
            error,
            ..
        } if error.kind() == ErrorKind::Permission => {
            let mut event = AuditEvent::new(Kind::Denial, Outcome::Denied)
                .plugin(plugin.as_str())
                .detail(error.to_string())
                .with("phase", phase.as_str());
            event.run = Some(run.to_string());
            event.step = Some(step.to_string());
            Some(event)
        }
        _ => None,
    }
}

/// Whether plugins of this kind have a process that lives longer than a call.
pub(super) fn has_process(kind: &str) -> bool {
    matches!(kind, "node" | "grpc")
}

/// What is recorded of the first call of a plugin that has a process for each.
pub(super) fn of_first_use(plugin: &str, version: &str) -> AuditEvent {
    let mut event = AuditEvent::new(Kind::Spawn, Outcome::Ok)
        .plugin(plugin)
        .detail("its first call; each has a process of its own");
    event.version = Some(version.to_owned());
    event
}

/// What became of a package when it was loaded. What is compiled in was not
/// loaded.
pub(super) fn of_loaded(plugin: &PluginStatus) -> Option<AuditEvent> {
    let location = plugin.location.as_ref()?;
    let mut event = match &plugin.error {
        None => AuditEvent::new(Kind::Verify, Outcome::Ok),
        Some(problem) => {
            let (kind, outcome) = match problem.class {
                _ if cannot_be_confined(plugin) => (Kind::Sandbox, Outcome::Denied),
                ProblemClass::Denied => (Kind::Denial, Outcome::Denied),
                ProblemClass::Trust => (Kind::Verify, Outcome::Failed),
                _ => (Kind::Load, Outcome::Failed),
            };
            let detail = match kind {
                Kind::Verify => format!("integrity check failed: {}", problem.message),
                _ => problem.message.clone(),
            };
            let mut event = AuditEvent::new(kind, outcome).detail(detail);
            event.code = Some(problem.code.clone());
            event
        }
    };
    event.plugin = Some(plugin.id.clone());
    event.version = Some(plugin.version.to_string());
    event.key.clone_from(&plugin.key_id);
    event.digest = Some(plugin.digest.clone());
    event.resource = Some(location.display().to_string());
    if let Some(level) = plugin.trust_level {
        event = event.with("trust_level", level.to_string());
    }
    if plugin.unsigned {
        event = event.with("unsigned", "true");
    }
    if !plugin.not_enforced.is_empty() {
        event = event.with("not_enforced", plugin.not_enforced.join(" "));
    }
    Some(event)
}

fn cannot_be_confined(plugin: &PluginStatus) -> bool {
    let sandbox = plugin.sandbox.as_ref();
    sandbox.is_some_and(|sandbox| sandbox.state == Sandbox::Refused)
}

/// What is recorded of a process that starts: what holds it to its grants.
pub(super) fn of_confinement(plugin: &str, version: &str, sandbox: &SandboxStatus) -> AuditEvent {
    let mut event = AuditEvent::new(Kind::Sandbox, Outcome::Ok)
        .plugin(plugin)
        .detail(format!("confined by {}", layers_in_words(sandbox)))
        .with("layers", sandbox.in_force.join(" "));
    for absent in &sandbox.absent {
        let name = format!("without_{}", absent.layer);
        event = event.with(&name, &*absent.reason);
    }
    event.version = Some(version.to_owned());
    event
}
