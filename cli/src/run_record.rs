//! One record of a run's journal, as people and programs read it.

use orchestrator_engine::journal::{RecordBody, RecordView};
use serde_json::{Value, json};

use crate::{output::harmless, progress::duration, run_view};

/// The record with everything but the content of its payload, which may be
/// large and secret.
pub(crate) fn json(record: &RecordView) -> Value {
    let mut value = serde_json::to_value(&record.body).unwrap_or_default();
    if let Value::Object(object) = &mut value {
        object.insert("seq".to_owned(), record.seq.into());
        object.insert("at_ms".to_owned(), record.at_ms.into());
        object.insert("epoch".to_owned(), record.epoch.into());
        if let Some(payload) = &record.payload {
            let described = json!({
                "content_type": payload.content_type,
                "length": payload.length,
            });
            object.insert("payload".to_owned(), described);
        }
    }
    value
}

/// The record in one line.
pub(crate) fn line(record: &RecordView) -> String {
    let what = match &record.body {
        RecordBody::RunCreated(created) => format!("run of {} accepted", created.pipeline),
        RecordBody::OwnerChanged { .. } => "another process goes on with the run".to_owned(),
        RecordBody::StepStarted { step, attempt, .. } => match attempt {
            1 => format!("{step}: started"),
            later => format!("{step}: started, attempt {later}"),
        },
        RecordBody::StepCompleted {
            step,
            attempts,
            duration_ms,
            fallback,
            ..
        } => {
            let took = duration(*duration_ms);
            let by = match fallback {
                Some(_) => " by its fallback",
                None => "",
            };
            match attempts {
                0 | 1 => format!("{step}: success{by} in {took}"),
                many => format!("{step}: success{by} after {many} attempts in {took}"),
            }
        }
        RecordBody::StepFailed { step, error, .. } => format!("{step}: failed: {error}"),
        RecordBody::StepSkipped { step, reason } => format!("{step}: skipped: {reason}"),
        RecordBody::StepUnknown { step, .. } => {
            format!("{step}: unknown, its process stopped in the middle of it")
        }
        RecordBody::StepResolved {
            step, happened, by, ..
        } => match happened {
            true => format!("{step}: happened, says {by}"),
            false => format!("{step}: did not happen, says {by}"),
        },
        RecordBody::CancelRequested { reason } => format!("to be cancelled: {reason}"),
        RecordBody::RunFinished { outcome, .. } => format!("run ended: {}", outcome.as_str()),
        other => other.kind().to_owned(),
    };
    format!("{} {}", run_view::time(record.at_ms), harmless(&what))
}
