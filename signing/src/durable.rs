//! Files that are either the old or the new, whatever happens in between.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, linkat},
    io::Errno,
};

/// How the names of files begin that are not whole yet.
const STAGED: &str = ".staged-";

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
    let file = open(path)?;
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

/// Opens a file to read it, through no link and without waiting for anybody.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

/// Writes a file that must not exist yet. Killed at any moment it leaves the
/// whole file or none: until it is whole, the file has no name, where the file
/// system can do that.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let is_there = match nameless(parent(path)) {
        Ok(file) => {
            fill(&file, bytes, mode)?;
            name(&file, path)?
        }
        Err(_) => false,
    };
    if !is_there {
        let file = staged(path, bytes, mode)?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
    }
    sync_parent(path)
}

/// Puts a file in place of the one that is there, if any.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let file = staged(path, bytes, mode)?;
    file.persist(path).map_err(|error| error.error)?;
    sync_parent(path)
}

/// Puts a file in place of another in a folder that need not be ours, which
/// nobody sweeps: what a killed process leaves there has one name, and the next
/// one takes it up.
pub(crate) fn replace_elsewhere(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = OsString::from(STAGED);
    name.push(path.file_name().unwrap_or_default());
    let staged = parent(path).join(name);
    loop {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .custom_flags((OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed())
            .open(&staged)?;
        // Waits at most until another process has given its file the final name.
        flock(&file, FlockOperation::LockExclusive)?;
        let open = file.metadata()?;
        let is_named = staged
            .symlink_metadata()
            .is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino()));
        if is_named {
            file.set_len(0)?;
            fill(&file, bytes, mode)?;
            fs::rename(&staged, path)?;
            return sync_parent(path);
        }
    }
}

/// Removes what processes that were killed left unfinished in `dir`, which has
/// to be a folder of ours: only there does the beginning of a name say enough.
///
/// # Errors
///
/// When something cannot be looked at or removed. A folder that does not exist
/// has nothing in it.
pub(crate) fn sweep(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let is_staged = entry.file_name().to_string_lossy().starts_with(STAGED);
        if is_staged && entry.file_type()?.is_file() && is_abandoned(&entry.path())? {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whoever writes a staged file holds a lock on it for as long as it lives.
fn is_abandoned(path: &Path) -> io::Result<bool> {
    let file = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A file in `dir` that goes away with its descriptor unless it gets a name.
#[cfg(target_os = "linux")]
fn nameless(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR)?.into())
}

#[cfg(not(target_os = "linux"))]
fn nameless(_: &Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives a nameless file its name. False when that cannot be done here: there
/// is no `/proc`, or the file system does not know how.
fn name(file: &File, path: &Path) -> io::Result<bool> {
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    match linkat(CWD, descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Err(Errno::EXIST.into()),
        Err(_) => Ok(false),
    }
}

fn staged(path: &Path, bytes: &[u8], mode: u32) -> io::Result<tempfile::NamedTempFile> {
    loop {
        let file = tempfile::Builder::new()
            .prefix(STAGED)
            .tempfile_in(parent(path))?;
        // Waits at most until another process has swept the file away, which it
        // may do before the lock tells it not to.
        flock(&file, FlockOperation::LockExclusive)?;
        if file.as_file().metadata()?.nlink() > 0 {
            fill(file.as_file(), bytes, mode)?;
            return Ok(file);
        }
    }
}

fn fill(mut file: &File, bytes: &[u8], mode: u32) -> io::Result<()> {
    // The mode that a file is opened with passes through the umask.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_file_has_no_name_before_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new");
        let file = nameless(dir.path()).unwrap();
        fill(&file, b"secret", 0o640).unwrap();
        assert_eq!(names(dir.path()), [] as [&str; 0]);
        assert!(name(&file, &path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
        let again = create(&path, b"other", 0o600).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"secret");
        assert_eq!(names(dir.path()), ["new"]);
    }

    #[test]
    fn what_was_left_elsewhere_is_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(dir.path().join(".staged-file"), "half of something longer").unwrap();
        replace_elsewhere(&path, b"whole", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
        assert_eq!(names(dir.path()), ["file"]);
        std::os::unix::fs::symlink("elsewhere", dir.path().join(".staged-file")).unwrap();
        assert!(replace_elsewhere(&path, b"other", 0o640).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn only_what_the_dead_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let living = staged(&dir.path().join("new"), b"half", 0o600).unwrap();
        fs::write(dir.path().join(".staged-dead"), "half").unwrap();
        fs::create_dir(dir.path().join(".staged-folder")).unwrap();
        fs::write(dir.path().join("staged"), "whole").unwrap();
        sweep(dir.path()).unwrap();
        let kept = living.path().file_name().unwrap().to_str().unwrap();
        let mut expected = [kept, ".staged-folder", "staged"];
        expected.sort_unstable();
        assert_eq!(names(dir.path()), expected);
        living.persist_noclobber(dir.path().join("new")).unwrap();
        sweep(&dir.path().join("nowhere")).unwrap();
    }
}
