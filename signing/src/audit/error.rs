//! Why the audit log cannot be written, read or believed.

use std::{io, path::Path};

use miette::Diagnostic;

use crate::{key::KeyError, key_file::KeyFileError};

/// Why the audit log cannot be written, read or believed.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum AuditError {
    /// A file of the log cannot be read or written.
    #[error("cannot {action} `{path}`")]
    #[diagnostic(
        code("ORC-2105"),
        help("check that the folder belongs to you and that there is free space")
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// What was handed over is not durable.
    #[error("nothing could be added to the audit log in `{path}`: {reason}")]
    #[diagnostic(
        code("ORC-2106"),
        help("make room or mend what is wrong there, then repeat the command")
    )]
    NotRecorded {
        /// The folder of the log.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// Another process holds the log for longer than a write takes.
    #[error("another process keeps the audit log in `{path}`")]
    #[diagnostic(
        code("ORC-2107"),
        help("find the stopped process that has `{path}/lock` open, and let it go on or end it")
    )]
    Busy {
        /// The folder of the log.
        path: String,
    },
    /// A whole line is no record, or not the one that belongs there; no crash did
    /// this.
    #[error("record {seq} in `{path}` is damaged: {reason}")]
    #[diagnostic(
        code("ORC-2108"),
        help(
            "find out who could write there; `orchestrator audit repair` keeps this log aside and \
             begins a new one"
        )
    )]
    Damaged {
        /// The file.
        path: String,
        /// The record's number.
        seq: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Records that a checkpoint speaks of are gone.
    #[error("the log was cut: {place} speaks of {signed} records, {found} are there")]
    #[diagnostic(
        code("ORC-2109"),
        help(
            "records were removed from the end, or the whole log was put back to an older state; \
             `orchestrator audit repair` keeps it aside and begins a new one"
        )
    )]
    Truncated {
        /// Where the checkpoint stands.
        place: String,
        /// How many records it covers.
        signed: u64,
        /// How many there are.
        found: u64,
    },
    /// The records are others than those that were signed.
    #[error("the log was rewritten: at {size} records it is not what {place} signed")]
    #[diagnostic(
        code("ORC-2110"),
        help(
            "a record before that was changed, or the whole log was replaced; `orchestrator audit \
             repair` keeps it aside and begins a new one"
        )
    )]
    Rewritten {
        /// Where the checkpoint stands.
        place: String,
        /// How many records it covers.
        size: u64,
    },
    /// Records at the beginning are gone that nobody may remove yet.
    #[error("records {first} to {last} are gone from `{path}`")]
    #[diagnostic(
        code("ORC-2111"),
        help(
            "`audit.keep` removes old segments and records that, these were removed otherwise; \
             `orchestrator audit repair` keeps the log aside and begins a new one"
        )
    )]
    Missing {
        /// The folder of the log.
        path: String,
        /// The first that is gone.
        first: u64,
        /// The last that is gone.
        last: u64,
    },
    /// The file of tree hashes does not fit the records.
    #[error("the hashes of record {seq} in `{path}` do not fit it")]
    #[diagnostic(
        code("ORC-2112"),
        help("the record or the hashes were changed; compare with a copy of the log")
    )]
    Tree {
        /// The file.
        path: String,
        /// The record's number.
        seq: u64,
    },
    /// Not what it should be: a checkpoint, a proof or a verifier key.
    #[error("{place} is no {what}: {reason}")]
    #[diagnostic(
        code("ORC-2113"),
        help("give the file as it was written, with nothing added or cut off")
    )]
    Malformed {
        /// Where it stands.
        place: String,
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A checkpoint that the log's key did not sign.
    #[error("{place} is not signed by {key}")]
    #[diagnostic(
        code("ORC-2114"),
        help("name the key of the host that wrote the log with `--key`; else it was forged")
    )]
    NotSigned {
        /// Where the checkpoint stands.
        place: String,
        /// The name of the key that should have signed.
        key: String,
    },
    /// There is no such record, or it is no longer kept.
    #[error("record {seq} is not in the log, which has {first} to {end}, the last one excluded")]
    #[diagnostic(
        code("ORC-2115"),
        help("`orchestrator audit show` lists the records with their numbers")
    )]
    NoSuchRecord {
        /// The record's number.
        seq: u64,
        /// The first that is kept.
        first: u64,
        /// One more than the last.
        end: u64,
    },
    /// The proof does not lead from the record to the checkpoint.
    #[error("the proof does not hold for this record")]
    #[diagnostic(
        code("ORC-2116"),
        help("the record, the proof or the checkpoint belongs to something else, or was changed")
    )]
    NotProved,
    /// A write failed and could not be taken back, so it may be found later.
    #[error("it is not known whether the audit log in `{path}` holds this: {reason}")]
    #[diagnostic(
        code("ORC-2117"),
        help("mend what is wrong there, and look with `orchestrator audit show` before repeating")
    )]
    Uncertain {
        /// The folder of the log.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// There are records and no checkpoint of this log's key.
    #[error("no checkpoint vouches for the records in `{path}`")]
    #[diagnostic(
        code("ORC-2118"),
        help(
            "every log begins with a checkpoint, so they were removed; `orchestrator audit \
             repair` keeps the log aside and begins a new one"
        )
    )]
    Unsigned {
        /// The folder of the log.
        path: String,
    },
    /// A file that every log has was removed.
    #[error("`{path}` is gone from the audit log")]
    #[diagnostic(
        code("ORC-2119"),
        help(
            "somebody removed it; restore it from a copy, or let `orchestrator audit repair` \
             keep aside what is left where it cannot be gone on with"
        )
    )]
    Gone {
        /// The file, or the folder of the log.
        path: String,
    },
    /// There is no log.
    #[error("nothing was recorded yet in `{path}`")]
    #[diagnostic(
        code("ORC-2104"),
        help(
            "the log begins with the first command that changes something, or the first run, \
             unless `audit.enabled` is false"
        )
    )]
    NothingYet {
        /// The folder where the log would be.
        path: String,
    },
    /// The log's own key cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    KeyFile(#[from] KeyFileError),
    /// There are no random numbers to make a key of.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Key(#[from] KeyError),
}

impl AuditError {
    /// Whether the log itself is at fault, so that no waiting and no room on the
    /// disk will make it writable again.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. }
            | Self::Truncated { .. }
            | Self::Rewritten { .. }
            | Self::Missing { .. }
            | Self::Tree { .. }
            | Self::Malformed { .. }
            | Self::Gone { .. }
            | Self::Unsigned { .. } => true,
            Self::KeyFile(KeyFileError::Io { source, .. }) | Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::InvalidData
                    | io::ErrorKind::IsADirectory
            ),
            // Who may read the key is put right without the log being touched.
            Self::KeyFile(KeyFileError::Exposed { .. }) => false,
            Self::KeyFile(_) => true,
            _ => false,
        }
    }

    pub(super) fn gone(path: &Path) -> Self {
        Self::Gone {
            path: path.display().to_string(),
        }
    }

    /// Says of an error of the operating system what was tried, and where.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
