//! Files that are either the old or the new, whatever happens in between.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use rustix::fs::{FlockOperation, OFlags, flock};

/// What has to be true of a file before it is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    /// Larger files are refused.
    pub(crate) size_max: u64,
    /// Whether nobody but the owner may have any access.
    pub(crate) is_private: bool,
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a regular file")]
    Special,
    #[error("larger than {0} bytes")]
    TooLarge(u64),
    #[error("mode {mode:04o} lets others in; it has to be 0600")]
    NotPrivate { mode: u32 },
    #[error("belongs to user {0}, not to you")]
    Foreign(u32),
}

/// Reads a whole regular file through one descriptor. Links are not followed
/// and nothing that could block is waited for.
pub(crate) fn read(path: &Path, want: Want) -> Result<Vec<u8>, ReadError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::Special);
    }
    if want.is_private {
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(ReadError::NotPrivate { mode });
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(ReadError::Foreign(metadata.uid()));
        }
    }
    let mut bytes = Vec::new();
    file.take(want.size_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > want.size_max {
        return Err(ReadError::TooLarge(want.size_max));
    }
    Ok(bytes)
}

/// Writes a file that must not exist yet.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let file = staged(path, bytes, mode)?;
    file.persist_noclobber(path).map_err(|error| error.error)?;
    sync_parent(path)
}

/// Puts a file in place of the one that is there, if any.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let file = staged(path, bytes, mode)?;
    file.persist(path).map_err(|error| error.error)?;
    sync_parent(path)
}

fn staged(path: &Path, bytes: &[u8], mode: u32) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(".staged-")
        .permissions(fs::Permissions::from_mode(mode))
        .tempfile_in(parent(path))?;
    // The builder's mode passes through the umask.
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

/// Keeps other processes of this program out until it is dropped. Never
/// waits: whoever comes second is told so.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the descriptor unlocks")] File);

impl Lock {
    pub(crate) fn acquire(path: &Path) -> io::Result<Self> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed())
            .open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Self(file))
    }
}
