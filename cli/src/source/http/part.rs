//! What has arrived of a download.

use std::{
    fs::{self, File},
    io::{self, Seek as _},
    path::{Path, PathBuf},
    time::Duration,
};

use orchestrator_signing::Digest;
use rustix::fs::{FlockOperation, flock};
use ureq::http::Uri;

use super::{Broken, next::shown};
use crate::{failure::Failure, source::SourceError};

/// Nobody continues a download that is older.
const AGE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The beginning of a file. Nobody else writes it for as long as it is open.
pub(super) struct Part {
    pub(super) file: File,
    path: PathBuf,
    url: String,
    /// Somebody else is writing the one that has a name, so this one has none.
    pub(super) is_private: bool,
    /// What came later was put behind what was there, which may be of another file.
    pub(super) is_pieced: bool,
}

impl Part {
    /// What earlier downloads of `url` left in the folder `downloads`.
    pub(super) fn open(downloads: &Path, url: &Uri) -> Result<Self, Failure> {
        let failed = |source| SourceError::Write {
            path: downloads.to_owned(),
            source,
        };
        fs::create_dir_all(downloads).map_err(failed)?;
        clear_old(downloads);
        let path = downloads.join(format!("{}.part", Digest::of(url.to_string().as_bytes())));
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let is_ours = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        // Another process is downloading the same, or has just removed what it
        // downloaded: this one starts from nothing, for itself.
        let is_private = !is_ours || !is_same(&file, &path);
        let file = match is_private {
            false => file,
            true => tempfile::tempfile_in(downloads).map_err(failed)?,
        };
        Ok(Self {
            file,
            path,
            url: shown(url),
            is_private,
            is_pieced: false,
        })
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> Result<u64, SourceError> {
        let metadata = self.file.metadata();
        metadata
            .map(|metadata| metadata.len())
            .map_err(|error| self.write_error(error))
    }

    /// Forgets what there is.
    pub(super) fn clear(&mut self) -> Result<(), SourceError> {
        self.file
            .set_len(0)
            .map_err(|error| self.write_error(error))
    }

    /// The file from its beginning.
    pub(super) fn reader(&mut self) -> Result<File, SourceError> {
        let rewound = self.file.rewind().and_then(|()| self.file.try_clone());
        rewound.map_err(|error| self.write_error(error))
    }

    /// Leaves no file in which there is nothing to continue.
    pub(super) fn remove_empty(self) {
        if matches!(self.len(), Ok(0)) {
            self.remove();
        }
    }

    pub(super) fn remove(self) {
        if !self.is_private {
            // What cannot be removed now is old some day.
            fs::remove_file(&self.path).ok();
        }
    }

    pub(super) fn error(&self, source: io::Error) -> Broken {
        Broken::Final(self.write_error(source))
    }

    fn write_error(&self, source: io::Error) -> SourceError {
        let path = self.path.clone();
        SourceError::Write { path, source }
    }
}

impl From<SourceError> for Broken {
    fn from(error: SourceError) -> Self {
        Self::Final(error)
    }
}

/// Whether the file still has its name.
fn is_same(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let (open, named) = (file.metadata().map(identity), path.metadata().map(identity));
    matches!((open, named), (Ok(open), Ok(named)) if open == named)
}

/// Removes what nobody continued.
fn clear_old(downloads: &Path) {
    for entry in fs::read_dir(downloads).into_iter().flatten().flatten() {
        let is_part = entry.path().extension().is_some_and(|it| it == "part");
        let age = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = age.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > AGE_MAX));
        if is_part && is_old {
            fs::remove_file(entry.path()).ok();
        }
    }
}
