//! A log that cannot be gone on with makes room for a new one, and those who
//! still have it open follow.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::Timestamp;
use miette::Diagnostic as _;
use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};

use super::{Held, Store};
use crate::audit::{
    error::AuditError,
    files::{self, Folder},
    read::{newest_checkpoint, verifier_key},
    record::{AuditEvent, Kind, Outcome},
    settings::AuditSettings,
};

/// Exchanges a log that cannot be opened for a new one, whose first record says
/// so. Returns where the damaged one is kept and what is wrong with it, or `None`
/// where nothing is. Killed at any moment, either log is in place and whole.
///
/// # Errors
///
/// When the log can neither be opened nor is damaged, or when the folder beside
/// it cannot be made or exchanged; then the log is where it was.
pub(in crate::audit) fn set_aside(
    dir: &Path,
    settings: AuditSettings,
    actor: Option<&str>,
) -> Result<Option<(PathBuf, AuditError)>, AuditError> {
    let folder = Folder::new(dir);
    let path = folder.lock();
    let lock = files::open_or_create(&path).map_err(AuditError::io("open", &path))?;
    let lock = Arc::new(lock);
    let _held = Held::wait(&lock, &folder, settings.lock_wait)?;
    // Another process may have exchanged it, before this one had the lock or after.
    if !is_in(&lock, &folder)? {
        return Ok(None);
    }
    let opened = Store::open_held(folder.clone(), settings, None, Arc::clone(&lock));
    let why = match opened {
        Ok(_) => return Ok(None),
        Err(error) if error.is_damage() => error,
        Err(error) => return Err(error),
    };
    let aside = free_name(dir)?;
    let event = event(&folder, &aside, &why, actor).cleaned(settings.names_secret);
    let next = beside(dir, ".next");
    let placed = begin(&next, settings, &event).and_then(|()| exchange(dir, &next, &aside));
    if let Err(error) = placed {
        fs::remove_dir_all(&next).ok();
        return Err(error);
    }
    if let Some(parent) = dir.parent() {
        Folder::new(parent).sync()?;
    }
    Ok(Some((aside, why)))
}

/// Makes the new log, which is whole before it gets its place. Nothing else has that
/// name, so what is there was left by a process that was killed.
fn begin(next: &Path, settings: AuditSettings, event: &AuditEvent) -> Result<(), AuditError> {
    match fs::remove_dir_all(next) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(AuditError::io("remove", next)(error));
        }
        _ => {}
    }
    let mut fresh = Store::open(next, settings, None)?;
    fresh.append(&[event.to_tail(Timestamp::now())])?;
    fresh.checkpoint()
}

/// Puts `next` in place of the log, which is called `aside` then.
fn exchange(dir: &Path, next: &Path, aside: &Path) -> Result<(), AuditError> {
    let failed = |error: Errno| AuditError::io("exchange", dir)(error.into());
    renameat_with(CWD, next, CWD, aside, RenameFlags::NOREPLACE).map_err(failed)?;
    renameat_with(CWD, dir, CWD, aside, RenameFlags::EXCHANGE).map_err(|error| {
        fs::remove_dir_all(aside).ok();
        failed(error)
    })
}

/// What is known of the log that is set aside, for the one that follows it.
fn event(folder: &Folder, aside: &Path, why: &AuditError, actor: Option<&str>) -> AuditEvent {
    let mut event = AuditEvent::new(Kind::SetAside, Outcome::Ok).detail(why.to_string());
    event.actor = actor.map(str::to_owned);
    event.code = why.code().map(|code| code.to_string());
    event.resource = Some(aside.display().to_string());
    let Ok(key) = verifier_key(folder.path()) else {
        return event;
    };
    event.key = Some(key.to_text());
    match newest_checkpoint(folder, &key) {
        Ok(Some((newest, _))) => event.with("size", newest.size.to_string()),
        _ => event,
    }
}

/// A name beside the log that says when it was set aside and that nothing has.
fn free_name(dir: &Path) -> Result<PathBuf, AuditError> {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    for number in 0..100 {
        let path = match number {
            0 => beside(dir, &format!(".damaged-{time}")),
            _ => beside(dir, &format!(".damaged-{time}-{number}")),
        };
        if path.symlink_metadata().is_err() {
            return Ok(path);
        }
    }
    Err(AuditError::io("set aside", dir)(
        io::ErrorKind::AlreadyExists.into(),
    ))
}

/// What is called like the log and then `ending`.
fn beside(dir: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(dir);
    name.push(ending);
    name.into()
}

/// Whether the lock that is held is the one in the folder.
fn is_in(lock: &File, folder: &Folder) -> Result<bool, AuditError> {
    let path = folder.lock();
    let there = match path.symlink_metadata() {
        Ok(there) => there,
        // A folder that is gone has no other log in it to follow.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(AuditError::io("read", &path)(error)),
    };
    let held = lock.metadata().map_err(AuditError::io("read", &path))?;
    Ok((there.dev(), there.ino()) == (held.dev(), held.ino()))
}

impl Store {
    /// Keeps other writers out of the log that is in its place now. Where that is
    /// another than before, because the one before was set aside, it is opened.
    pub(super) fn hold_present(&mut self) -> Result<Held, AuditError> {
        let held = self.hold()?;
        if is_in(&self.lock, &self.folder)? {
            return Ok(held);
        }
        drop(held);
        let mut next = Self::open(self.folder.path(), self.settings, None)?;
        next.copy = self.copy.take();
        next.copy_fails = self.copy_fails;
        *self = next;
        self.hold()
    }
}
