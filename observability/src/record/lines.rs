//! One log line for each event that somebody may want to read later.
//!
//! The message is constant and `event` is a stable name, so that both can be
//! searched for; everything that varies is a field. Their target is `events`,
//! that of lines which plugins wrote is `plugin`, so that a filter can tell them
//! apart.

use orchestrator_contract::{
    BreakerState, Event, LogLevel, PluginState, ReloadOutcome, RunOutcome, StepOutcome,
};
use tracing::Level;

use crate::trace::in_trace;

/// Like `tracing::event!` with a level that is known only at run time.
macro_rules! line {
    ($level:expr, $($rest:tt)+) => {
        match $level {
            Level::TRACE => tracing::trace!($($rest)+),
            Level::DEBUG => tracing::debug!($($rest)+),
            Level::INFO => tracing::info!($($rest)+),
            Level::WARN => tracing::warn!($($rest)+),
            _ => tracing::error!($($rest)+),
        }
    };
}

pub(super) fn write(event: &Event) {
    match event {
        Event::RunStarted { .. } | Event::RunFinished { .. } | Event::RunLeft { .. } => run(event),
        Event::StepStarted { .. } | Event::StepProgress { .. } | Event::StepFinished { .. } => {
            step(event);
        }
        Event::AttemptFailed { .. }
        | Event::CallRetried { .. }
        | Event::RetryGivenUp { .. }
        | Event::CallRefused { .. }
        | Event::CallFellBack { .. }
        | Event::CallWouldBeRefused { .. }
        | Event::BreakerChanged { .. } => policy(event),
        Event::PluginStateChanged { .. }
        | Event::PluginRestarted { .. }
        | Event::PluginHealthChanged { .. }
        | Event::PluginReloaded { .. } => plugin(event),
        Event::PluginLog { .. } => written(event),
        Event::CapabilityDenied { .. } | Event::ResourceViolation { .. } => bounds(event),
        // Samples and commits come many times a second and are metrics alone.
        _ => {}
    }
}

fn run(event: &Event) {
    match event {
        Event::RunStarted {
            run,
            pipeline,
            session,
            trace,
            resumed,
        } => in_trace(*trace, || {
            tracing::info!(target: "events", event = "run.started", run_id = %run,
                pipeline = %pipeline, session_id = %session, resumed, "run started");
        }),
        Event::RunFinished {
            run,
            pipeline,
            outcome,
            duration_ms,
        } => {
            let level = match outcome {
                RunOutcome::Success | RunOutcome::Cancelled => Level::INFO,
                RunOutcome::Degraded => Level::WARN,
                RunOutcome::Failed => Level::ERROR,
            };
            line!(level, target: "events", event = "run.finished", run_id = %run,
                pipeline = %pipeline, outcome = outcome.as_str(), duration_ms, "run finished");
        }
        Event::RunLeft {
            run,
            pipeline,
            reason,
        } => tracing::warn!(target: "events", event = "run.left", run_id = %run,
            pipeline = %pipeline, reason = %reason, "run left open"),
        _ => {}
    }
}

fn step(event: &Event) {
    match event {
        Event::StepStarted {
            run,
            step,
            plugin,
            version,
            phase,
        } => tracing::debug!(target: "events", event = "step.started", run_id = %run,
            step = %step, plugin = %plugin, plugin_version = %version, phase = %phase,
            "step started"),
        Event::StepProgress {
            run,
            step,
            percent,
            message,
        } => tracing::trace!(target: "events", event = "step.progress", run_id = %run,
            step = %step, percent, progress = %message, "step progressed"),
        Event::StepFinished {
            run,
            step,
            plugin,
            phase,
            outcome,
            attempts,
            duration_ms,
            error,
        } => {
            let level = match outcome {
                StepOutcome::Success | StepOutcome::Skipped | StepOutcome::Cancelled => {
                    Level::DEBUG
                }
                StepOutcome::Failed | StepOutcome::Unknown => Level::WARN,
            };
            line!(level, target: "events", event = "step.finished", run_id = %run,
                step = %step, plugin = %plugin, phase = %phase, outcome = outcome.as_str(),
                attempts, duration_ms, error.type = error.map(|kind| kind.as_str()),
                "step finished");
        }
        _ => {}
    }
}

fn policy(event: &Event) {
    match event {
        Event::AttemptFailed {
            run,
            step,
            plugin,
            phase,
            attempt,
            error,
        } => tracing::info!(target: "events", event = "attempt.failed", run_id = %run,
            step = %step, plugin = %plugin, phase = %phase, attempt,
            error.type = error.kind().as_str(), exception.message = %error, "attempt failed"),
        Event::CallRetried {
            run,
            step,
            plugin,
            phase,
            attempt,
            delay_ms,
        } => tracing::info!(target: "events", event = "call.retried", run_id = %run,
            step = %step, plugin = %plugin, phase = %phase, attempt, delay_ms,
            "attempt failed, another follows"),
        Event::RetryGivenUp {
            run,
            step,
            plugin,
            phase,
            reason,
        } => tracing::warn!(target: "events", event = "call.retry_given_up", run_id = %run,
            step = %step, plugin = %plugin, phase = %phase, reason = %reason,
            "no further attempt is made"),
        Event::CallRefused {
            run,
            step,
            plugin,
            phase,
            by,
        } => tracing::debug!(target: "events", event = "call.refused", run_id = %run,
            step = %step, plugin = %plugin, phase = %phase, by = by.as_str(), "call refused"),
        Event::CallFellBack { .. }
        | Event::CallWouldBeRefused { .. }
        | Event::BreakerChanged { .. } => rest(event),
        _ => {}
    }
}

/// What the policies that give a plugin a rest, or stand in for it, do.
fn rest(event: &Event) {
    match event {
        Event::CallFellBack {
            run,
            step,
            plugin,
            phase,
            by,
            answered,
            error,
        } => tracing::warn!(target: "events", event = "call.fell_back", run_id = %run,
            step = %step, plugin = %plugin, phase = %phase, by = by.as_str(), answered,
            error.type = error.as_str(), "call failed, its fallback was asked"),
        Event::CallWouldBeRefused { plugin, phase, by } => {
            tracing::debug!(target: "events", event = "call.would_be_refused", plugin = %plugin,
                phase = phase.as_ref().map(tracing::field::display), by = by.as_str(),
                "call would have been refused");
        }
        Event::BreakerChanged {
            plugin,
            phase,
            sequence,
            from,
            to,
            reason,
            enforced,
        } => {
            let level = match to {
                BreakerState::Open => Level::WARN,
                BreakerState::Closed | BreakerState::HalfOpen => Level::INFO,
            };
            line!(level, target: "events", event = "breaker.changed", plugin = %plugin,
                phase = phase.as_ref().map(tracing::field::display), sequence,
                from = from.as_str(), to = to.as_str(), reason = %reason, enforced,
                "breaker changed its state");
        }
        _ => {}
    }
}

fn plugin(event: &Event) {
    match event {
        Event::PluginStateChanged {
            plugin,
            version,
            state,
            reason,
        } => {
            let level = match state {
                PluginState::Error | PluginState::CrashLoop => Level::ERROR,
                PluginState::Running | PluginState::Disabled => Level::INFO,
                _ => Level::DEBUG,
            };
            line!(level, target: "events", event = "plugin.state_changed",
                plugin = %plugin, plugin_version = %version, state = state.as_str(),
                reason = %reason, "plugin changed its state");
        }
        Event::PluginHealthChanged {
            plugin,
            version,
            healthy,
            reason,
        } => {
            let level = match healthy {
                true => Level::INFO,
                false => Level::WARN,
            };
            line!(level, target: "events", event = "plugin.health_changed",
                plugin = %plugin, plugin_version = %version, healthy, reason = %reason,
                "plugin changed its health");
        }
        Event::PluginRestarted {
            plugin,
            reason,
            delay_ms,
        } => tracing::warn!(target: "events", event = "plugin.restarted",
            plugin = %plugin, reason = %reason, delay_ms, "plugin starts again"),
        Event::PluginReloaded {
            plugin,
            from,
            version,
            outcome,
            reason,
        } => {
            let level = match outcome {
                ReloadOutcome::Switched => Level::INFO,
                ReloadOutcome::Failed => Level::ERROR,
            };
            line!(level, target: "events", event = "plugin.reloaded", plugin = %plugin,
                from = from.as_deref(), plugin_version = version.as_deref(),
                outcome = outcome.as_str(), reason = %reason, "plugin was reloaded");
        }
        _ => {}
    }
}

/// What a plugin did not get, or took too much of.
fn bounds(event: &Event) {
    match event {
        Event::ResourceViolation {
            plugin,
            resource,
            current,
            limit,
            action,
            ..
        } => {
            line!(of(action.level()), target: "events", event = "plugin.violation", plugin = %plugin,
                resource = %resource, current, limit, action = action.as_str(),
                "plugin used more than it may");
        }
        Event::CapabilityDenied {
            plugin,
            capability,
            resource,
            rule,
            suppressed,
        } => tracing::warn!(target: "events", event = "plugin.denied", plugin = %plugin,
            capability = %capability, resource = %resource, rule = rule.as_str(), suppressed,
            "plugin was refused what it was not granted"),
        _ => {}
    }
}

fn written(event: &Event) {
    let Event::PluginLog {
        plugin,
        stream,
        level,
        message,
        run,
        trace,
    } = event
    else {
        return;
    };
    let say = || {
        line!(of(*level), target: "plugin", event = "plugin.log", plugin = %plugin,
            stream = stream.as_str(), run_id = run.as_ref().map(tracing::field::display),
            "{message}");
    };
    match trace {
        Some(trace) => in_trace(*trace, say),
        None => say(),
    }
}

const fn of(level: LogLevel) -> Level {
    match level {
        LogLevel::Trace => Level::TRACE,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Info => Level::INFO,
        LogLevel::Warn => Level::WARN,
        LogLevel::Error => Level::ERROR,
    }
}
