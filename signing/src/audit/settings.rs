//! What the owner of a log decides.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    time::Duration,
};

use super::{clean::NamesSecret, note::separated, quota::QuotaSettings};

/// Takes every checkpoint to a second place.
pub type CopyTo = Box<dyn FnMut(&str) -> io::Result<()> + Send>;

/// What the owner of a log decides.
#[derive(Clone, Copy, Debug)]
pub struct AuditSettings {
    /// A checkpoint is signed after at most this many records …
    pub checkpoint_records: u64,
    /// … and this long after a record at the latest.
    pub checkpoint_interval: Duration,
    /// How much of what is noted without waiting a plugin may cause.
    pub quota: QuotaSettings,
    /// A segment over this many bytes is followed by a new one.
    pub segment_bytes: u64,
    /// Segments whose records are all older are removed. Never, where absent.
    pub keep: Option<Duration>,
    /// The most records that wait to be written.
    pub queue_max: usize,
    /// How long another process may hold the log.
    pub lock_wait: Duration,
    /// Says which names belong to secrets.
    pub names_secret: NamesSecret,
}

impl AuditSettings {
    /// What an operator gets who decides nothing, but for the names of
    /// secrets, which the caller knows.
    pub fn new(names_secret: NamesSecret) -> Self {
        Self {
            checkpoint_records: 1_000,
            checkpoint_interval: Duration::from_secs(1),
            quota: QuotaSettings {
                per_second: 10.0,
                burst: 100,
            },
            segment_bytes: 64 << 20,
            keep: None,
            queue_max: 16_384,
            lock_wait: Duration::from_secs(10),
            names_secret,
        }
    }
}

/// Appends checkpoints to a file, which belongs on another disk or machine.
/// The file is opened anew for each, so it may be rotated.
pub fn copy_to_file(path: PathBuf) -> CopyTo {
    Box::new(move |note| {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(separated(note).as_bytes())?;
        file.sync_data()
    })
}
