//! Makes records ready for the writer, in the caller's task: checked, encoded,
//! hashed, and large payloads on disk. The writer then has little left to do.

use orchestrator_contract::Payload;

use super::{
    append::{Effect, Prepared, PreparedPayload},
    blobs::BlobStore,
    digest::Digest,
    error::AppendError,
    record::{NewRecord, RecordBody},
    run::RunStatus,
    settings::JournalSettings,
    writer::{Cost, Writer},
};

/// The most bytes of a record besides its payload. A crash report of 64 KiB
/// fits even if every byte of it is escaped.
const BODY_BYTES_MAX: usize = 512 << 10;

/// Makes records ready. Dropped midway, it leaves at most a file that the next
/// sweep removes.
pub(super) async fn prepare(
    records: Vec<NewRecord>,
    at_ms: i64,
    settings: &JournalSettings,
    blobs: &BlobStore,
    writer: &Writer,
) -> Result<(Vec<Prepared>, Cost), AppendError> {
    let mut cost = Cost::default();
    let mut prepared = Vec::with_capacity(records.len());
    for record in records {
        let mut record = encode(record, at_ms, settings)?;
        cost.records += 1;
        cost.bytes += record.body.len();
        if let Some(payload) = &mut record.payload {
            // What is too much together for one transaction is a file as well.
            payload.is_blob |= cost.bytes + payload.bytes.len() > settings.group_bytes_max / 2;
            if payload.is_blob {
                store(payload, blobs)
                    .await
                    .map_err(|reason| writer.storage_failed(reason))?;
            } else {
                cost.bytes += payload.bytes.len();
            }
        }
        prepared.push(record);
    }
    Ok((prepared, cost))
}

/// Refuses what may not be appended by anybody but the journal itself.
pub(super) fn check_history(records: &[NewRecord]) -> Result<(), AppendError> {
    let illegal = |reason| Err(AppendError::Illegal { reason });
    let Some((_, before_last)) = records.split_last() else {
        return illegal("it holds no record");
    };
    let ends = |record: &NewRecord| matches!(record.body, RecordBody::RunFinished { .. });
    if before_last.iter().any(ends) {
        return illegal("a record follows the end of the run");
    }
    for record in records {
        if record.payload.is_some() != record.body.takes_payload() {
            return illegal("a payload is missing, or one is where none belongs");
        }
        if matches!(
            record.body,
            RecordBody::RunCreated(_) | RecordBody::OwnerChanged { .. }
        ) {
            return illegal("runs are created and taken over by `create` and `take_over`");
        }
    }
    Ok(())
}

pub(super) fn check_size(what: &'static str, size: usize, limit: usize) -> Result<(), AppendError> {
    if size > limit {
        return Err(AppendError::TooLarge {
            what,
            size: size as u64,
            limit: limit as u64,
        });
    }
    Ok(())
}

/// Encodes a record of `at_ms` whose payload, if any, is not large.
pub(super) fn encode(
    record: NewRecord,
    at_ms: i64,
    settings: &JournalSettings,
) -> Result<Prepared, AppendError> {
    let NewRecord { body, payload } = record;
    let json = serde_json::to_string(&body).map_err(|_| AppendError::Illegal {
        reason: "it cannot be written as JSON",
    })?;
    check_size("a record", json.len(), BODY_BYTES_MAX)?;
    let payload = payload
        .map(|payload| weigh(payload, settings))
        .transpose()?;
    Ok(Prepared {
        kind: body.kind(),
        step: body.step().cloned(),
        attempt: body.attempt(),
        at_ms,
        effect: effect(&body),
        body: json,
        payload,
    })
}

fn weigh(payload: Payload, settings: &JournalSettings) -> Result<PreparedPayload, AppendError> {
    check_size("a payload", payload.len(), settings.payload_bytes_max)?;
    Ok(PreparedPayload {
        content_type: payload.content_type.as_str().to_owned(),
        digest: Digest::of(&payload.bytes),
        is_blob: payload.len() > settings.inline_bytes_max,
        bytes: payload.bytes,
    })
}

const fn effect(body: &RecordBody) -> Effect {
    match body {
        RecordBody::CancelRequested { .. } => Effect::CancelSeen,
        RecordBody::RunFinished { outcome, .. } => Effect::Finished(RunStatus::Finished(*outcome)),
        body if body.is_progress() => Effect::Progress,
        _ => Effect::None,
    }
}

async fn store(payload: &PreparedPayload, blobs: &BlobStore) -> Result<(), String> {
    let (digest, bytes, blobs) = (payload.digest, payload.bytes.clone(), blobs.clone());
    let write = tokio::task::spawn_blocking(move || blobs.put(&digest, &bytes));
    let written = match write.await {
        Ok(written) => written.map_err(|error| error.to_string()),
        Err(ended) => Err(ended.to_string()),
    };
    written.map_err(|reason| format!("cannot write a blob: {reason}"))
}

#[cfg(test)]
mod tests {
    use crate::journal::{Journal as _, RunState, StepState, fixture::*};

    /// A step's result is kept as it is; so are the results of many together.
    #[tokio::test]
    async fn payloads_that_are_large_together_are_kept() {
        let fixture = Fixture::new().await;
        let journal = &fixture.journal;
        let together = |len: u8| -> Vec<_> {
            let one = |n| completed(&format!("s{n}"), payload(120_000, n));
            (0..len).map(one).collect()
        };
        let run = create(journal).await;
        let written = journal.append(run, 1, 1, together(40)).await;
        assert_eq!(written, Ok(41));
        let mut new = new_run();
        new.inherited = together(40);
        let fork = new.run;
        journal.create(new).await.unwrap();
        for run in [run, fork] {
            let state = RunState::fold(run, journal.load(run).await.unwrap()).unwrap();
            for n in 0..40 {
                let StepState::Completed { output, .. } =
                    state.step(&format!("s{n}").as_str().into())
                else {
                    panic!("step {n}");
                };
                assert_eq!(*output, payload(120_000, n));
            }
        }
    }
}
