//! Why the journal did not do what it was asked.

use std::path::{Path, PathBuf};

use miette::Diagnostic;
use orchestrator_contract::RunId;
use thiserror::Error;

use super::{digest::Digest, record::OwnerId};

/// Why a record was not written. There is no "maybe": on every variant the
/// record is not in the journal that others read.
#[derive(Clone, Debug, PartialEq, Eq, Error, Diagnostic)]
#[non_exhaustive]
pub enum AppendError {
    /// The run stands somewhere else than the writer believes. Somebody else
    /// owns it now, it has ended, or the writer lost count; read it again.
    #[error("run {run} is at record {seq} of epoch {epoch}{}", if *finished { " and has ended" } else { "" })]
    #[diagnostic(
        code("ORC-4100"),
        help(
            "another engine went on with the run; see who owns it with `orchestrator run show {run}`"
        )
    )]
    Fenced {
        /// The run.
        run: RunId,
        /// Its last record; 0 when there is no such run.
        seq: u64,
        /// Its epoch; 0 when there is no such run.
        epoch: u64,
        /// Whether it has ended.
        finished: bool,
    },
    /// The storage failed. Nothing of the append is visible. When the cause
    /// was the disk itself, a crash of this process right afterwards may
    /// bring the record back; a reader after that crash decides.
    #[error("the journal at `{}` cannot be written: {reason}", path.display())]
    #[diagnostic(
        code("ORC-4101"),
        help(
            "make room on the disk that holds it, or look after that disk; an engine that lives goes on by itself once it can write, unless the disk lost what it was given"
        )
    )]
    Unavailable {
        /// The journal's directory.
        path: PathBuf,
        /// What failed.
        reason: String,
        /// Whether the journal must be closed and opened again before it takes
        /// anything.
        poisoned: bool,
    },
    /// The append is larger than the journal takes.
    #[error("{what} of {size} bytes is larger than the {limit} bytes the journal takes")]
    #[diagnostic(
        code("ORC-4102"),
        help(
            "let the phase write large results elsewhere and return a reference, or raise `journal.payload_bytes_max`, for an append `journal.group_bytes_max`"
        )
    )]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The largest size in bytes.
        limit: u64,
    },
    /// The append would make a history that no engine can have written.
    #[error("the append cannot stand in a history: {reason}")]
    #[diagnostic(
        code("ORC-4115"),
        help("this is a fault in the program that embeds the engine")
    )]
    Illegal {
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// A history that cannot be trusted. The file was damaged or changed by
/// something else than an engine.
#[derive(Clone, Debug, PartialEq, Eq, Error, Diagnostic)]
#[error("the journal of run {run} is damaged at record {seq}: {reason}")]
#[diagnostic(
    code("ORC-4103"),
    help(
        "the run is left as it is; restore the journal from a backup, or start the run again from its input"
    )
)]
pub struct JournalDamaged {
    /// The run.
    pub run: RunId,
    /// The record at which its history stops making sense.
    pub seq: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Why the journal could not be opened or read, or refused a request.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum JournalError {
    /// Nothing was written.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Append(#[from] AppendError),

    /// A history that cannot be trusted.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Damaged(#[from] JournalDamaged),

    /// The content of a blob is not what was stored. A file was damaged,
    /// changed or removed.
    #[error("blob {digest} is damaged: {reason}")]
    #[diagnostic(
        code("ORC-4104"),
        help(
            "restore `blobs/` in the journal's directory from a backup; nothing that needs the blob can go on"
        )
    )]
    BlobDamaged {
        /// The blob's name.
        digest: Digest,
        /// How it differs.
        reason: String,
    },

    /// A later version of the engine wrote the file.
    #[error("the journal has schema version {found}, this engine knows up to {known}")]
    #[diagnostic(
        code("ORC-4105"),
        help("use the newer engine, or name another directory with `--home`")
    )]
    NewerSchema {
        /// The file's version.
        found: i64,
        /// The newest version this engine knows.
        known: i64,
    },

    /// The file belongs to something else. It is a database of another program,
    /// or no database.
    #[error("`{}` is not a journal", path.display())]
    #[diagnostic(
        code("ORC-4106"),
        help("point the engine at an empty directory, or at one that an engine made")
    )]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },

    /// The directory or the file cannot be used.
    #[error("cannot use the journal at `{}`: {reason}", path.display())]
    #[diagnostic(
        code("ORC-4107"),
        help("the engine needs to read and write this directory and the files in it")
    )]
    Inaccessible {
        /// The directory or file.
        path: PathBuf,
        /// What failed.
        reason: String,
    },

    /// The database could not be read.
    #[error("cannot read the journal at `{}`: {reason}", path.display())]
    #[diagnostic(
        code("ORC-4108"),
        help(
            "check the disk that holds the journal; `PRAGMA integrity_check` in the sqlite3 shell shows damage"
        )
    )]
    Unreadable {
        /// The database, where it is known.
        path: PathBuf,
        /// What failed.
        reason: String,
    },

    /// There is no such run.
    #[error("there is no run {run}")]
    #[diagnostic(
        code("ORC-4109"),
        help(
            "`orchestrator run list` shows the runs that are kept; ended runs are deleted after `journal.retention`"
        )
    )]
    NoSuchRun {
        /// The run.
        run: RunId,
    },

    /// A live engine owns the run. An engine owns a run as long as its process
    /// lives.
    #[error("run {run} belongs to the live engine {owner}")]
    #[diagnostic(code("ORC-4110"), help("let that engine finish, or stop it first"))]
    Owned {
        /// The run.
        run: RunId,
        /// Its owner.
        owner: OwnerId,
    },

    /// The run has ended.
    #[error("run {run} has already ended")]
    #[diagnostic(
        code("ORC-4111"),
        help("start it again with `orchestrator run retry {run}`")
    )]
    Ended {
        /// The run.
        run: RunId,
    },

    /// The run has not ended.
    #[error("run {run} has not ended")]
    #[diagnostic(
        code("ORC-4112"),
        help("end it first with `orchestrator run cancel {run}`")
    )]
    NotEnded {
        /// The run.
        run: RunId,
    },

    /// A run names a definition that was not stored before it.
    #[error("there is no definition {definition}")]
    #[diagnostic(
        code("ORC-4113"),
        help("store the pipeline's definition before the run that uses it")
    )]
    NoSuchDefinition {
        /// The definition.
        definition: Digest,
    },

    /// The idempotency key of a request names a run of another pipeline, or one
    /// with another input. The pipeline may have been changed since.
    #[error("the idempotency key belongs to run {run}, which has another pipeline or input")]
    #[diagnostic(
        code("ORC-4116"),
        help("look at it with `orchestrator run show {run}`, or use a key of its own")
    )]
    KeyReused {
        /// The run that has the key.
        run: RunId,
    },

    /// A run of this id is there already.
    #[error("there already is a run {run}")]
    #[diagnostic(code("ORC-4114"), help("give every run a new id"))]
    RunExists {
        /// The run.
        run: RunId,
    },
}

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Unreadable {
            path: PathBuf::new(),
            reason: error.to_string(),
        }
    }
}

impl JournalError {
    /// The same error, with the file that cannot be read.
    pub(super) fn at(mut self, file: &Path) -> Self {
        if let Self::Unreadable { path, .. } = &mut self {
            *path = file.to_owned();
        }
        self
    }
}
