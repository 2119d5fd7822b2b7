//! Runs as the journal lists them.

use std::sync::Arc;

use orchestrator_contract::{Payload, RunId, RunOutcome, SessionId};
use serde::{Deserialize, Serialize};

use super::{
    digest::Digest,
    record::{NewRecord, OwnerId, RecordBody, RunCreated},
};

/// A run to be created.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// Its id.
    pub run: RunId,
    /// What it is told, besides its input.
    pub created: RunCreated,
    /// Its input.
    pub input: Payload,
    /// When it was accepted, in milliseconds since the Unix epoch, by the wall
    /// clock.
    pub at_ms: i64,
    /// Records that follow at once: the results that a fork begins with.
    pub inherited: Vec<NewRecord>,
}

impl NewRun {
    /// Its first records, in their order.
    pub(super) fn into_records(self) -> impl Iterator<Item = NewRecord> {
        let first = NewRecord {
            body: RecordBody::RunCreated(Box::new(self.created)),
            payload: Some(self.input),
        };
        std::iter::once(first).chain(self.inherited)
    }
}

/// The answer to a request for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// The run is durable and belongs to this journal's owner.
    Created {
        /// The epoch to append with.
        epoch: u64,
        /// The sequence number of its last record.
        seq: u64,
    },
    /// The tenant used the same idempotency key before, for the same; nothing was
    /// written.
    Existing(
        /// The run of that request.
        RunId,
    ),
}

/// Whether a run goes on, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunStatus {
    /// It has not ended.
    Running,
    /// It has ended.
    Finished(
        /// How.
        RunOutcome,
    ),
}

impl RunStatus {
    /// `running`, or the outcome in snake_case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished(outcome) => outcome.as_str(),
        }
    }

    /// The reverse of [`Self::as_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "running" {
            return Some(Self::Running);
        }
        let mut outcomes = RunOutcome::ALL.iter();
        outcomes
            .find(|outcome| outcome.as_str() == name)
            .map(|outcome| Self::Finished(*outcome))
    }
}

impl Serialize for RunStatus {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RunStatus {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_name(&name).ok_or_else(|| serde::de::Error::custom("no such run status"))
    }
}

/// A run in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RunSummary {
    /// The run. Written as `id`, as an overview of a run writes it.
    #[serde(rename = "id")]
    pub run: RunId,
    /// Its pipeline.
    pub pipeline: Arc<str>,
    /// Its pipeline's definition.
    pub definition: Digest,
    /// Whether it goes on.
    pub status: RunStatus,
    /// On whose behalf.
    pub tenant: Option<Arc<str>>,
    /// Its session.
    pub session: SessionId,
    /// Who owns it, or did when it ended.
    pub owner: OwnerId,
    /// The ownership, from 1.
    pub epoch: u64,
    /// Its last record.
    pub last_seq: u64,
    /// When it was created, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// When its last record was written, likewise.
    pub updated_ms: i64,
    /// When it ended, likewise.
    pub finished_ms: Option<i64>,
}

/// Which runs to list, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFilter {
    /// Only runs of this status.
    pub status: Option<RunStatus>,
    /// Only runs of this pipeline.
    pub pipeline: Option<Arc<str>>,
    /// Only runs older than this one: the last of the page before.
    pub before: Option<RunId>,
    /// The most runs to list; at most 1,000.
    pub limit: usize,
}

impl Default for RunFilter {
    /// The 100 newest runs.
    fn default() -> Self {
        Self {
            status: None,
            pipeline: None,
            before: None,
            limit: 100,
        }
    }
}

/// A run that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRun {
    /// The run.
    pub run: RunId,
    /// Its pipeline.
    pub pipeline: Arc<str>,
    /// Who owns it.
    pub owner: OwnerId,
    /// Whether the owner is this journal.
    pub ours: bool,
    /// Whether the owner is alive. A run of a dead owner waits for
    /// [`take_over`](super::Journal::take_over).
    pub owner_alive: bool,
    /// How often it changed hands since it last made progress.
    pub restarts_without_progress: u32,
    /// Whether somebody asked for its end, and its owner did not take note.
    pub cancel_requested: bool,
}

/// What became of a request for the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// Its owner is asked.
    Asked,
    /// Its owner is dead, so it has ended.
    Ended,
}

/// A run that now belongs to this journal's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenOver {
    /// The epoch to append with.
    pub epoch: u64,
    /// The sequence number of its last record.
    pub seq: u64,
    /// How often it changed hands since it last made progress, this time
    /// included. Whoever sees more than [`RESTARTS_MAX`] should end the run
    /// rather than die of it once more.
    pub restarts_without_progress: u32,
    /// What others asked for while nobody owned it.
    pub requests: Vec<InboxItem>,
}

/// How often a run may change hands without progress before it is given up.
pub const RESTARTS_MAX: u32 = 5;

/// What a process asks of the owner of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum InboxRequest {
    /// End the run.
    Cancel {
        /// Why, for people.
        reason: String,
    },
}

/// A request that waits for the owner of a run. It goes away when the owner
/// writes that it has it ([`CancelRequested`]) or that the run has ended.
///
/// [`CancelRequested`]: super::RecordBody::CancelRequested
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxItem {
    /// Rises with every request.
    pub id: u64,
    /// The run.
    pub run: RunId,
    /// The request.
    pub request: InboxRequest,
    /// When it was made, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Runs that ended long enough ago.
    pub runs: u64,
    /// Definitions that no run uses.
    pub definitions: u64,
    /// Blobs that no record uses.
    pub blobs: u64,
}

/// How much the journal holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct JournalStats {
    /// Runs that have not ended.
    pub runs_open: u64,
    /// All runs.
    pub runs: u64,
    /// Blobs, each counted once.
    pub blobs: u64,
    /// The bytes of the blobs.
    pub blob_bytes: u64,
    /// Requests that wait for the owners of runs.
    pub inbox: u64,
    /// Sessions that hold a value.
    pub sessions: u64,
    /// The size of the database, its write-ahead log not counted.
    pub database_bytes: u64,
    /// Requests that wait for the writer now.
    pub queued: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_name_of_its_own() {
        let mut all = vec![RunStatus::Running];
        all.extend(RunOutcome::ALL.iter().copied().map(RunStatus::Finished));
        for status in all {
            assert_eq!(RunStatus::from_name(status.as_str()), Some(status));
        }
        assert_eq!(RunStatus::from_name("paused"), None);
    }
}
