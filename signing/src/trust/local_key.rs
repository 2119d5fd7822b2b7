//! The key that a host signs its own root with. It lies unencrypted in the
//! store: whoever runs as this user could change the store anyway.

use std::{fs, io, path::Path};

use super::{RootDocument, TrustError};
use crate::{
    durable,
    key::SecretKey,
    key_file::{KeyFileError, Protection},
};

const KEY_FILE: &str = "root.key";
/// The key that is about to take its place.
const STAGED_FILE: &str = "root.key.next";

/// Makes the key of a host that has no root yet. One that an interrupted
/// attempt left is as good.
pub(super) fn make(dir: &Path) -> Result<SecretKey, TrustError> {
    let path = dir.join(KEY_FILE);
    match path.symlink_metadata() {
        Ok(_) => Ok(SecretKey::read_file(&path, || None)?),
        Err(_) => generate(&path),
    }
}

/// Whether there is a key, of this root or of one before.
pub(super) fn is_there(dir: &Path) -> bool {
    [KEY_FILE, STAGED_FILE]
        .iter()
        .any(|file| dir.join(file).exists())
}

/// The key, if it is one of the root keys of `document`.
pub(super) fn read(dir: &Path, document: &RootDocument) -> Result<SecretKey, TrustError> {
    for file in [KEY_FILE, STAGED_FILE] {
        let path = dir.join(file);
        if path.symlink_metadata().is_err() {
            continue;
        }
        let key = SecretKey::read_file(&path, || None)?;
        let mut root_keys = document.root_keys.iter();
        if root_keys.any(|known| known.id() == key.public().id()) {
            if file == STAGED_FILE {
                // Killed between the root that names it and this.
                settle(dir)?;
            }
            return Ok(key);
        }
    }
    Err(TrustError::ForeignRoot)
}

/// Makes the key that will replace the present one.
pub(super) fn stage(dir: &Path) -> Result<SecretKey, TrustError> {
    let path = dir.join(STAGED_FILE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&path, error)),
        _ => generate(&path),
    }
}

/// Puts the staged key in place, once a root names it.
pub(super) fn settle(dir: &Path) -> Result<(), TrustError> {
    let path = dir.join(STAGED_FILE);
    durable::rename(&path, &dir.join(KEY_FILE)).map_err(|error| failed(&path, error))
}

fn generate(path: &Path) -> Result<SecretKey, TrustError> {
    let key = SecretKey::generate("local-root")?;
    key.write_file(path, &Protection::None)?;
    Ok(key)
}

fn failed(path: &Path, source: io::Error) -> TrustError {
    let path = path.display().to_string();
    TrustError::RootKey(KeyFileError::Io { path, source })
}
