//! Files that are either the old or the new, whatever happens in between.

mod folder;
mod lock;

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, linkat},
    io::Errno,
};

pub use self::folder::create_dir;
pub(crate) use self::lock::Lock;
use self::lock::patiently;

/// How the names of files begin that are not whole yet.
const STAGED: &str = ".staged-";
/// How often the name of a staged file may turn out to be taken.
const TRIES_MAX: u32 = 1_000;
/// How long another process may take to write the same file.
const PATIENCE: Duration = Duration::from_secs(5);

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
        let staged = Staged::new(staged_name(path))?;
        fill(&staged.file, bytes, mode)?;
        staged.check_name()?;
        // Over nothing; the other name goes with `staged`.
        fs::hard_link(&staged.path, path)?;
    }
    sync_parent(path)
}

/// Puts a file in place of the one that is there, if any: whatever happens
/// meanwhile, there is the old one or the new one. What a killed process leaves in
/// the folder is called `.staged-` and the file's own name, and the next one takes
/// it away. Waits a while for another process that writes the same file.
///
/// # Errors
///
/// When it cannot be written; the old one is there then. [`io::ErrorKind::ResourceBusy`]
/// when the other process goes on writing.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    replace_from(staged_name(path), path, bytes, mode)
}

/// [`replace`] with a file that is called `staged` until it is whole, on the same file
/// system: where a file beside `path` would be in the way.
pub(crate) fn replace_from(
    staged: PathBuf,
    path: &Path,
    bytes: &[u8],
    mode: u32,
) -> io::Result<()> {
    let staged = Staged::new(staged)?;
    fill(&staged.file, bytes, mode)?;
    staged.put(path)?;
    sync_parent(path)
}

/// Gives a file that is whole another name, in place of whatever had it.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// A file that is not whole yet, which nobody else writes. Removed unless it gets
/// its final name.
struct Staged {
    file: File,
    path: PathBuf,
    is_whole: bool,
}

impl Staged {
    /// In a folder that need not be ours.
    fn new(wanted: PathBuf) -> io::Result<Self> {
        let mut path = wanted.clone();
        for _ in 0..TRIES_MAX {
            let file = fs::OpenOptions::new()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(&path);
            let file = match file {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if !clear(&path)? {
                        path = another(&wanted)?;
                    }
                    continue;
                }
                file => file?,
            };
            // Another process may be clearing it away, before the lock tells it not to.
            lock(&file)?;
            if is_named(&file, &path)? {
                let is_whole = false;
                return Ok(Self {
                    file,
                    path,
                    is_whole,
                });
            }
        }
        Err(io::ErrorKind::ResourceBusy.into())
    }

    /// Gives it its final name.
    fn put(mut self, path: &Path) -> io::Result<()> {
        self.check_name()?;
        fs::rename(&self.path, path)?;
        self.is_whole = true;
        Ok(())
    }

    /// Whoever may write to the folder can take its name away.
    fn check_name(&self) -> io::Result<()> {
        match is_named(&self.file, &self.path)? {
            true => Ok(()),
            false => Err(io::ErrorKind::ResourceBusy.into()),
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_whole && self.check_name().is_ok() {
            // What stays is taken away by whoever writes the same file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Beside the file.
fn staged_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(STAGED);
    name.push(path.file_name().unwrap_or_default());
    parent(path).join(name)
}

/// Another name, which nobody knows beforehand.
fn another(staged: &Path) -> io::Result<PathBuf> {
    let random = getrandom::u64().map_err(io::Error::other)?;
    let mut name = staged.as_os_str().to_owned();
    name.push(format!(".{random:016x}"));
    Ok(name.into())
}

/// Takes away a staged file that the dead left; the living are waited for. False when
/// it may be anything else, which is not ours to remove.
fn clear(path: &Path) -> io::Result<bool> {
    let file = match open(path) {
        Err(error) => return Ok(error.kind() == io::ErrorKind::NotFound),
        Ok(file) => file,
    };
    let facts = file.metadata()?;
    let is_ours = facts.is_file() && facts.uid() == rustix::process::geteuid().as_raw();
    if !is_ours || facts.nlink() > 1 {
        return Ok(false);
    }
    lock(&file)?;
    Ok(remove(&file, path).is_ok())
}

/// Takes a file's name away. It may be gone by now, or be that of another file.
fn remove(file: &File, path: &Path) -> io::Result<()> {
    if !is_named(file, path)? {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Waits a while for whoever has it locked.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    lock_within(PATIENCE, file)
}

/// [`io::ErrorKind::ResourceBusy`] when somebody has it still.
pub(crate) fn lock_within(patience: Duration, file: &File) -> io::Result<()> {
    let exclusive = FlockOperation::NonBlockingLockExclusive;
    let locked = patiently(patience, || Ok(flock(file, exclusive)?));
    locked.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::ResourceBusy.into(),
        _ => error,
    })
}

/// Whether `path` is a name of this very file.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match path.symlink_metadata() {
        Ok(named) => Ok((named.dev(), named.ino()) == (open.dev(), open.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
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
        if is_staged && entry.file_type()?.is_file() {
            sweep_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Whoever writes a staged file holds a lock on it for as long as it lives.
fn sweep_file(path: &Path) -> io::Result<()> {
    let file = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    match lock_within(Duration::ZERO, &file) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        locked => locked.and_then(|()| remove(&file, path)),
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

#[cfg(test)]
mod tests {
    use rustix::fs::{FileType, mknodat};

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
    fn what_was_left_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(dir.path().join(".staged-file"), "half of something longer").unwrap();
        replace(&path, b"whole", 0o640).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o640);
        assert_eq!(names(dir.path()), ["file"]);
    }

    /// [`replace`], which has to come to its end.
    fn replaced(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let (target, bytes) = (path.to_owned(), bytes.to_vec());
        let (sender, written) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(replace(&target, &bytes, 0o640)));
        let written = written.recv_timeout(Duration::from_secs(30));
        written.expect("it waits for ever")
    }

    /// Somebody who may write into the folder waits there for our bytes, or for us.
    #[test]
    fn what_another_put_there_is_neither_written_to_nor_waited_for_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let staged = dir.path().join(".staged-file");
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let traps: [&dyn Fn(); 5] = [
            &|| mknodat(CWD, &staged, FileType::Fifo, Mode::RWXU, 0).unwrap(),
            &|| fs::hard_link(&victim, &staged).unwrap(),
            &|| std::os::unix::fs::symlink(&victim, &staged).unwrap(),
            &|| drop(std::os::unix::net::UnixListener::bind(&staged).unwrap()),
            // What cannot be removed.
            &|| fs::create_dir(&staged).unwrap(),
        ];
        for (number, set) in traps.iter().enumerate() {
            set();
            let text = format!("whole {number}");
            replaced(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read(&path).unwrap(), text.as_bytes());
            assert_eq!(fs::read(&victim).unwrap(), b"precious");
            assert_eq!(names(dir.path()), [".staged-file", "file", "victim"]);
            if number < 4 {
                fs::remove_file(&staged).unwrap();
            }
        }
    }

    #[test]
    fn a_process_that_does_not_come_to_its_end_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let living = Staged::new(staged_name(&path)).unwrap();
        let error = replaced(&path, b"other").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert!(is_named(&living.file, &living.path).unwrap());
        drop(living);
        replaced(&path, b"other").unwrap();
        assert_eq!(names(dir.path()), ["file"]);
    }

    /// Two write the same file, and neither can tell that the other lives.
    #[test]
    fn a_file_of_the_living_is_left_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let living = Staged::new(staged_name(&path)).unwrap();
        fill(&living.file, b"half", 0o640).unwrap();
        let link = dir.path().join("link");
        fs::hard_link(&living.path, &link).unwrap();
        replaced(&path, b"whole").unwrap();
        assert!(is_named(&living.file, &living.path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"whole");

        // Somebody else's by now, so it is neither put in place nor taken away.
        fs::remove_file(&living.path).unwrap();
        fs::write(&living.path, "theirs").unwrap();
        let theirs = living.path.clone();
        let error = living.put(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        assert_eq!(fs::read(theirs).unwrap(), b"theirs");
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }

    #[test]
    fn only_what_the_dead_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let living = Staged::new(staged_name(&dir.path().join("new"))).unwrap();
        fs::write(dir.path().join(".staged-dead"), "half").unwrap();
        fs::create_dir(dir.path().join(".staged-folder")).unwrap();
        fs::write(dir.path().join("staged"), "whole").unwrap();
        sweep(dir.path()).unwrap();
        assert_eq!(
            names(dir.path()),
            [".staged-folder", ".staged-new", "staged"]
        );
        drop(living);
        assert_eq!(names(dir.path()), [".staged-folder", "staged"]);
        sweep(&dir.path().join("nowhere")).unwrap();
    }
}
