//! Keys in files.
//!
//! A secret key file is TOML with one key in it, encrypted with
//! XChaCha20-Poly1305 under a key that Argon2id makes from a passphrase. All
//! parameters stand in the file and are part of what is authenticated. The
//! file is readable by its owner alone, or it is not read at all.

mod error;
mod sealed;
mod text;

use std::{io, path::Path};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use self::text::FileText;
pub use self::{error::KeyFileError, text::Revocation};
use crate::{
    durable::{self, ReadError, Want},
    key::{KeyError, PublicKey, SecretKey, check_comment},
    minisign::{MinisignError, is_minisign},
};

const FILE_SIZE_MAX: u64 = 16 * 1024;

/// What it costs to try one passphrase (Argon2id, RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kdf {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over that memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Kdf {
    /// The second recommendation of RFC 9106 §4, for machines that cannot
    /// spare 2 GiB: 64 MiB, three passes.
    pub const RECOMMENDED: Self = Self {
        memory_kib: 64 * 1024,
        passes: 3,
        lanes: 4,
    };

    /// The least that is written or read: 8 MiB, four passes. Below it, a
    /// stolen file is too cheap to attack.
    pub const LEAST: Self = Self {
        memory_kib: 8 * 1024,
        passes: 4,
        lanes: 1,
    };

    /// The most: 1 GiB, 16 passes. Above it, reading a hostile file would
    /// take the machine down.
    pub const MOST: Self = Self {
        memory_kib: 1024 * 1024,
        passes: 16,
        lanes: 16,
    };

    fn checked(self) -> Result<Self, KeyFileError> {
        let within = (Self::LEAST.memory_kib..=Self::MOST.memory_kib).contains(&self.memory_kib)
            && (1..=Self::MOST.passes).contains(&self.passes)
            && (Self::LEAST.lanes..=Self::MOST.lanes).contains(&self.lanes)
            && self.work() >= Self::LEAST.work();
        if within {
            Ok(self)
        } else {
            Err(too_costly(self))
        }
    }

    fn work(self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }
}

/// How a secret key file is protected.
pub enum Protection {
    /// By a passphrase, which costs [`Kdf`] to try.
    Passphrase(Zeroizing<String>, Kdf),
    /// Not at all, besides the mode of the file, which says so in itself.
    None,
}

/// What a secret key file says of itself, without its passphrase. That the
/// secret half belongs to it shows when the key is read.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct KeyFacts {
    /// The public half.
    pub public: PublicKey,
    /// When the key was made, if the file says so.
    pub created: Option<Timestamp>,
    /// What its owner wrote beside it.
    pub comment: Option<String>,
    /// What it costs to try a passphrase; `None` when there is none.
    pub kdf: Option<Kdf>,
    /// That it is no longer used.
    pub revoked: Option<Revocation>,
}

impl KeyFacts {
    /// Reads what the file says of itself.
    ///
    /// # Errors
    ///
    /// As [`SecretKey::read_file`], but for those about the passphrase.
    pub fn read_file(path: &Path) -> Result<Self, KeyFileError> {
        let facts = FileText::read(path)?.facts();
        facts.map_err(|error| error.in_file(path))
    }

    /// Notes in the file that the key is no longer used; from then on it cannot
    /// be read. Needs no passphrase, since one revokes what one has lost, so the
    /// note is not authenticated: it keeps its owner from a mistake, and nobody
    /// else from anything. A file that says so already stays as it is.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`]; the file is then as it was.
    pub fn revoke_file(path: &Path, reason: &str) -> Result<Self, KeyFileError> {
        check_comment(reason)?;
        let mut file = FileText::read(path)?;
        let facts = file.facts().map_err(|error| error.in_file(path))?;
        if facts.revoked.is_some() {
            return Ok(facts);
        }
        let at = Timestamp::now();
        let revoked = Some(Revocation {
            at: Timestamp::from_second(at.as_second()).unwrap_or(at),
            reason: reason.to_owned(),
        });
        file.revoked.clone_from(&revoked);
        let text = file.to_toml()?;
        durable::replace(path, text.as_bytes(), 0o600).map_err(|source| io_error(path, source))?;
        Ok(Self { revoked, ..facts })
    }
}

impl SecretKey {
    /// Writes the key to a new file with mode 0600. An existing file is never
    /// overwritten. Takes as long as the [`Kdf`] costs; call it where
    /// blocking is allowed.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`]; nothing is left behind.
    pub fn write_file(&self, path: &Path, protection: &Protection) -> Result<(), KeyFileError> {
        let text = self.text(path, protection)?;
        durable::create(path, text.as_bytes(), 0o600).map_err(|source| io_error(path, source))
    }

    /// Writes the key in place of the file that is there, under another
    /// protection. Killed at any moment it leaves the old file or the new one.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`]; the old file is then still there.
    pub fn replace_file(&self, path: &Path, protection: &Protection) -> Result<(), KeyFileError> {
        let text = self.text(path, protection)?;
        durable::replace(path, text.as_bytes(), 0o600).map_err(|source| io_error(path, source))
    }

    fn text(
        &self,
        path: &Path,
        protection: &Protection,
    ) -> Result<Zeroizing<String>, KeyFileError> {
        let text = FileText::of(self, protection).and_then(|file| file.to_toml());
        text.map_err(|error| error.in_file(path))
    }

    /// Reads a key from its file. `passphrase` is asked for only when the
    /// file is encrypted. Takes as long as the file's [`Kdf`] costs.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`] says which of: no file, readable by others, damaged,
    /// wrong passphrase, out of bounds, altered.
    pub fn read_file(
        path: &Path,
        passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
    ) -> Result<Self, KeyFileError> {
        let file = FileText::read(path)?;
        file.secret(passphrase).map_err(|error| error.in_file(path))
    }
}

impl PublicKey {
    /// Writes the key to a new file: one line, or a file of minisign where the key
    /// has a number there of its own, which no line has room for. Such a file has to
    /// be called like the key. An existing file is never overwritten.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::Io`].
    pub fn write_file(&self, path: &Path) -> Result<(), KeyFileError> {
        let text = match self.minisign_id() == self.id().minisign() {
            true => format!("{}\n", self.to_line()),
            false => self.to_minisign(),
        };
        durable::create(path, text.as_bytes(), 0o644).map_err(|source| io_error(path, source))
    }

    /// Reads a public key file, of ours or of minisign. One of minisign does not
    /// say what the key is called: its own name does, without the ending.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`] for a file that cannot be read or holds no usable key.
    pub fn read_file(path: &Path) -> Result<Self, KeyFileError> {
        let want = Want {
            size_max: FILE_SIZE_MAX,
            is_private: false,
        };
        let bytes = durable::read(path, want).map_err(|error| read_error(path, error))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| KeyError::Line);
        let text = text.map_err(|error| KeyFileError::from(error).in_file(path))?;
        if is_minisign(text) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            let key = Self::from_minisign(text, &name);
            return key.map_err(|source| foreign(path, source));
        }
        Self::from_line(text).map_err(|error| KeyFileError::from(error).in_file(path))
    }
}

impl SecretKey {
    /// Reads a secret key file of minisign, to be written anew as one of ours. As
    /// [`Self::from_minisign`]; the file has to be its owner's alone too.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`] says which of: no file, readable by others, damaged,
    /// wrong passphrase, too costly.
    pub fn read_minisign_file(
        path: &Path,
        name: &str,
        passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
    ) -> Result<Self, KeyFileError> {
        let want = Want {
            size_max: FILE_SIZE_MAX,
            is_private: true,
        };
        let bytes = durable::read(path, want).map_err(|error| read_error(path, error))?;
        let bytes = Zeroizing::new(bytes);
        let text = std::str::from_utf8(&bytes).map_err(|error| damaged(error).in_file(path))?;
        Self::from_minisign(text, name, passphrase).map_err(|source| foreign(path, source))
    }
}

/// What a file with a key in it is, as far as its first line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFileKind {
    /// A secret key of ours.
    Secret,
    /// A public key of ours.
    Public,
    /// A secret key of minisign.
    MinisignSecret,
    /// A public key of minisign.
    MinisignPublic,
}

impl KeyFileKind {
    /// Looks at the file.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`] for a file that cannot be read or is none of these.
    pub fn of_file(path: &Path) -> Result<Self, KeyFileError> {
        let want = Want {
            size_max: FILE_SIZE_MAX,
            is_private: false,
        };
        let bytes = durable::read(path, want).map_err(|error| read_error(path, error))?;
        let bytes = Zeroizing::new(bytes);
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        // A secret key of minisign is nearly four times as long as a public one.
        let key_len = text.lines().nth(1).map_or(0, str::len);
        match text {
            text if is_minisign(text) && key_len > 100 => Ok(Self::MinisignSecret),
            text if is_minisign(text) => Ok(Self::MinisignPublic),
            text if text.starts_with("format = ") => Ok(Self::Secret),
            text if PublicKey::from_line(text).is_ok() => Ok(Self::Public),
            _ => Err(KeyFileError::from(KeyError::Line).in_file(path)),
        }
    }
}

/// Removes what killed processes left unfinished in a folder of key files.
/// Holds nothing up: what cannot be removed stays until the next time.
pub fn clear_unfinished_keys(dir: &Path) {
    let _ = durable::sweep(dir);
}

fn too_costly(kdf: Kdf) -> KeyFileError {
    let path = String::new();
    KeyFileError::Cost { path, kdf }
}

fn halves_differ() -> KeyFileError {
    let path = String::new();
    KeyFileError::HalvesDiffer { path }
}

fn damaged(reason: impl ToString) -> KeyFileError {
    KeyFileError::Damaged {
        path: String::new(),
        reason: reason.to_string(),
    }
}

fn foreign(path: &Path, source: MinisignError) -> KeyFileError {
    let path = path.display().to_string();
    match source {
        MinisignError::PassphraseNeeded => KeyFileError::PassphraseNeeded,
        source => KeyFileError::Foreign { path, source },
    }
}

fn io_error(path: &Path, source: io::Error) -> KeyFileError {
    let path = path.display().to_string();
    KeyFileError::Io { path, source }
}

fn read_error(path: &Path, error: ReadError) -> KeyFileError {
    match error {
        ReadError::Io(source) => io_error(path, source),
        ReadError::NotPrivate { .. } | ReadError::Foreign(_) => KeyFileError::Exposed {
            path: path.display().to_string(),
            reason: error.to_string(),
        },
        ReadError::Special | ReadError::TooLarge(_) => damaged(error).in_file(path),
    }
}
