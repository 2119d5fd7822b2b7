//! The audit log: who was allowed and refused what, in a form that shows when
//! it is changed afterwards.
//!
//! One line of JSON a record; over the lines a tree of hashes (RFC 6962); over
//! the tree, every second or every thousand records, a checkpoint that the
//! log's own key signs (`c2sp.org/signed-note`). Whoever keeps a checkpoint
//! elsewhere sees when records are cut off, changed or replaced.
//!
//! Several processes may write the same log. What [`AuditLog::record`]
//! acknowledges is on disk; [`AuditLog::note`] never waits. Start with
//! `audit/store.rs` for what is written, and `audit/verify.rs` for what is
//! believed. `docs/audit.md` says what an operator has to know.

mod clean;
mod error;
mod files;
mod merkle;
mod note;
mod proof;
mod quota;
mod read;
mod receipt;
mod record;
mod settings;
mod store;
mod tree;
mod verify;
mod writer;

use std::{
    fmt,
    path::{Path, PathBuf},
};

pub use clean::NamesSecret;
pub use error::AuditError;
pub use merkle::{Hash, leaf, verify_consistency, verify_inclusion};
pub use note::{Checkpoint, VerifierKey};
pub use proof::Proof;
pub use quota::QuotaSettings;
pub use read::{AuditReader, prove, verifier_key};
pub use receipt::Receipt;
pub use record::{AuditEvent, AuditRecord, Kind, LINE_BYTES_MAX, Outcome};
pub use settings::{AuditSettings, CopyTo, copy_to_file};
use store::Store;
pub use verify::{Report, verify};
pub use writer::Alarm;
use writer::Writer;

/// A log that is open for writing. Dropping it writes what waits and signs a
/// last checkpoint, which blocks for as long as the disk takes.
pub struct AuditLog {
    writer: Writer,
    verifier: VerifierKey,
}

impl AuditLog {
    /// Opens the log in a folder, which is made, with a key of its own, where
    /// there is none. What a crash left unfinished is mended, and recorded.
    /// `alarm` is told, on another thread, when the log cannot be written later.
    ///
    /// # Errors
    ///
    /// When folder or key cannot be used, and when the log does not fit its
    /// newest checkpoint: what is there then was not left by a crash.
    pub fn open(
        dir: &Path,
        settings: AuditSettings,
        copy: Option<CopyTo>,
        alarm: Alarm,
    ) -> Result<Self, AuditError> {
        let store = Store::open(dir, settings, copy)?;
        let verifier = store.signer().verifier().clone();
        let writer = Writer::start(store, settings, alarm).map_err(AuditError::io("write", dir))?;
        Ok(Self { writer, verifier })
    }

    /// Makes room for a new log where [`Self::open`] finds damage. The damaged one
    /// is kept beside it, with the moment in its name; the new one has another key,
    /// and its first record says what was set aside, why and by whom. Other
    /// processes that have the log open go on with the new one. Returns where the
    /// damaged one is and what is wrong with it, or `None` where nothing is.
    ///
    /// # Errors
    ///
    /// When the log cannot be opened for another reason, or the folders cannot be
    /// exchanged; then the log is where it was.
    pub fn set_aside(
        dir: &Path,
        settings: AuditSettings,
        actor: Option<&str>,
    ) -> Result<Option<(PathBuf, AuditError)>, AuditError> {
        store::set_aside(dir, settings, actor)
    }

    /// Records what happened and lets the caller wait until that is durable.
    /// Blocks while the queue is full; never dropped for being too much.
    pub fn record(&self, event: AuditEvent) -> Receipt {
        self.writer.record(event)
    }

    /// Records what happened without waiting for anything. What is over the
    /// quota of its plugin and kind, or finds the queue full, is counted, and
    /// the count is recorded.
    pub fn note(&self, event: AuditEvent) {
        self.writer.note(event);
    }

    /// The key that checks this log's checkpoints, as it was when it was opened.
    pub fn verifier(&self) -> &VerifierKey {
        &self.verifier
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditLog({})", self.verifier.name())
    }
}
