//! Keys in files.
//!
//! A secret key file is TOML with one key in it, encrypted with
//! XChaCha20-Poly1305 under a key that Argon2id makes from a passphrase. All
//! parameters stand in the file and are part of what is authenticated. The
//! file is readable by its owner alone, or it is not read at all.

mod error;

use std::{io, path::Path};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use self::error::KeyFileError;
use crate::{
    durable::{self, ReadError, Want},
    key::{KeyError, PublicKey, SecretKey},
};

const FORMAT: &str = "orchestrator-secret-key-v1";
const SALT_LEN: usize = 16;
const NONCE_LEN: usize = 24;
const FILE_SIZE_MAX: u64 = 16 * 1024;
const PLAIN_WARNING: &str = "not encrypted: whoever reads this file can sign";

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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    format: String,
    name: String,
    key_id: String,
    public: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encrypted: Option<Encrypted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plain: Option<Plain>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encrypted {
    cipher: String,
    kdf: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    nonce: String,
    ciphertext: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    warning: String,
    secret: Zeroizing<String>,
}

const CIPHER: &str = "xchacha20poly1305";
const KDF: &str = "argon2id";

impl SecretKey {
    /// Writes the key to a new file with mode 0600. An existing file is never
    /// overwritten. Takes as long as the [`Kdf`] costs; call it where
    /// blocking is allowed.
    ///
    /// # Errors
    ///
    /// [`KeyFileError`]; nothing is left behind.
    pub fn write_file(&self, path: &Path, protection: &Protection) -> Result<(), KeyFileError> {
        let (encrypted, plain) = match protection {
            Protection::Passphrase(passphrase, kdf) => {
                let encrypted = encrypt(self, passphrase, *kdf);
                (Some(encrypted.map_err(|error| error.in_file(path))?), None)
            }
            Protection::None => {
                let secret = Zeroizing::new(BASE64.encode(*self.seed()));
                let warning = PLAIN_WARNING.to_owned();
                (None, Some(Plain { warning, secret }))
            }
        };
        let text = FileText {
            format: FORMAT.to_owned(),
            name: self.public().name().to_owned(),
            key_id: self.public().id().to_string(),
            public: self.public().to_base64(),
            encrypted,
            plain,
        };
        let text = toml::to_string(&text).map_err(|error| damaged(error).in_file(path))?;
        let text = Zeroizing::new(text);
        durable::create(path, text.as_bytes(), 0o600).map_err(|source| io_error(path, source))
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

impl FileText {
    fn read(path: &Path) -> Result<Self, KeyFileError> {
        let want = Want {
            size_max: FILE_SIZE_MAX,
            is_private: true,
        };
        let bytes = durable::read(path, want).map_err(|error| read_error(path, error))?;
        let bytes = Zeroizing::new(bytes);
        Self::parse(&bytes).map_err(|error| error.in_file(path))
    }

    fn parse(bytes: &[u8]) -> Result<Self, KeyFileError> {
        let text = std::str::from_utf8(bytes).map_err(damaged)?;
        // The error of the parser would quote the text, so it is not passed on.
        let file: Self = toml::from_str(text).map_err(|_| damaged("it does not parse"))?;
        match file.format == FORMAT {
            true => Ok(file),
            false => Err(damaged("unknown format")),
        }
    }

    /// The public half as the file states it.
    fn public(&self) -> Result<PublicKey, KeyFileError> {
        let key = PublicKey::from_base64(&self.public, &self.name)?;
        match key.id().to_string() == self.key_id {
            true => Ok(key),
            false => Err(halves_differ()),
        }
    }

    fn secret(
        &self,
        passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
    ) -> Result<SecretKey, KeyFileError> {
        let seed = match (&self.encrypted, &self.plain) {
            (Some(encrypted), None) => {
                let passphrase = passphrase().ok_or(KeyFileError::PassphraseNeeded)?;
                decrypt(self, encrypted, &passphrase)?
            }
            (None, Some(plain)) => {
                let secret =
                    Zeroizing::new(BASE64.decode(plain.secret.as_bytes()).map_err(damaged)?);
                seed_from(&secret)?
            }
            _ => return Err(damaged("neither encrypted nor plain")),
        };
        let key = SecretKey::from_seed(&seed, &self.name)?;
        let is_same =
            key.public().to_base64() == self.public && key.public().id().to_string() == self.key_id;
        if is_same {
            Ok(key)
        } else {
            Err(halves_differ())
        }
    }
}

impl PublicKey {
    /// Writes the key to a new file of one line. An existing file is never
    /// overwritten.
    ///
    /// # Errors
    ///
    /// [`KeyFileError::Io`].
    pub fn write_file(&self, path: &Path) -> Result<(), KeyFileError> {
        let line = format!("{}\n", self.to_line());
        durable::create(path, line.as_bytes(), 0o644).map_err(|source| io_error(path, source))
    }

    /// Reads a public key file.
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
        let line = std::str::from_utf8(&bytes).map_err(|_| KeyError::Line);
        let key = line.and_then(Self::from_line);
        key.map_err(|error| KeyFileError::from(error).in_file(path))
    }

    /// Reads the public half of a secret key file, without its passphrase: what
    /// the file says of itself. Good for showing a key and for writing its public
    /// file again; that the secret half belongs to it shows when it is read.
    ///
    /// # Errors
    ///
    /// As [`SecretKey::read_file`], but for those about the passphrase.
    pub fn read_secret_file(path: &Path) -> Result<Self, KeyFileError> {
        let public = FileText::read(path)?.public();
        public.map_err(|error| error.in_file(path))
    }
}

/// Removes what killed processes left unfinished in a folder of key files.
/// Holds nothing up: what cannot be removed stays until the next time.
pub fn clear_unfinished_keys(dir: &Path) {
    let _ = durable::sweep(dir);
}

fn encrypt(key: &SecretKey, passphrase: &str, kdf: Kdf) -> Result<Encrypted, KeyFileError> {
    let kdf = kdf.checked()?;
    if passphrase.is_empty() {
        return Err(KeyFileError::EmptyPassphrase);
    }
    let mut salt = [0; SALT_LEN];
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut salt).map_err(|_| KeyError::Random)?;
    getrandom::fill(&mut nonce).map_err(|_| KeyError::Random)?;
    let public = key.public();
    let aad = authenticated(public.name(), &public.to_base64(), kdf, &salt);
    let seed = key.seed();
    let payload = Payload {
        msg: &*seed,
        aad: aad.as_bytes(),
    };
    let ciphertext = cipher(passphrase, kdf, &salt)?
        .encrypt(&nonce.into(), payload)
        .map_err(|_| damaged("encryption failed"))?;
    Ok(Encrypted {
        cipher: CIPHER.to_owned(),
        kdf: KDF.to_owned(),
        memory_kib: kdf.memory_kib,
        passes: kdf.passes,
        lanes: kdf.lanes,
        salt: BASE64.encode(salt),
        nonce: BASE64.encode(nonce),
        ciphertext: BASE64.encode(ciphertext),
    })
}

fn decrypt(
    file: &FileText,
    encrypted: &Encrypted,
    passphrase: &str,
) -> Result<Zeroizing<[u8; 32]>, KeyFileError> {
    if encrypted.cipher != CIPHER || encrypted.kdf != KDF {
        return Err(damaged("unknown cipher or key derivation"));
    }
    let kdf = Kdf {
        memory_kib: encrypted.memory_kib,
        passes: encrypted.passes,
        lanes: encrypted.lanes,
    };
    let kdf = kdf.checked()?;
    let salt: [u8; SALT_LEN] = fixed(&encrypted.salt)?;
    let nonce: [u8; NONCE_LEN] = fixed(&encrypted.nonce)?;
    let ciphertext = BASE64.decode(&encrypted.ciphertext).map_err(damaged)?;
    let aad = authenticated(&file.name, &file.public, kdf, &salt);
    let payload = Payload {
        msg: &ciphertext,
        aad: aad.as_bytes(),
    };
    let seed = cipher(passphrase, kdf, &salt)?
        .decrypt(&nonce.into(), payload)
        .map_err(|_| KeyFileError::WrongPassphrase {
            path: String::new(),
        })?;
    seed_from(&Zeroizing::new(seed))
}

fn cipher(
    passphrase: &str,
    kdf: Kdf,
    salt: &[u8; SALT_LEN],
) -> Result<XChaCha20Poly1305, KeyFileError> {
    let params = Params::new(kdf.memory_kib, kdf.passes, kdf.lanes, Some(32))
        .map_err(|_| too_costly(kdf))?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|_| too_costly(kdf))?;
    Ok(XChaCha20Poly1305::new(&(*key).into()))
}

/// Everything in the file that is not secret, in one spelling.
fn authenticated(name: &str, public: &str, kdf: Kdf, salt: &[u8]) -> String {
    let Kdf {
        memory_kib,
        passes,
        lanes,
    } = kdf;
    let salt = BASE64.encode(salt);
    format!(
        "{FORMAT}\n{name}\n{public}\n{CIPHER}\n{KDF}\n{memory_kib}\n{passes}\n{lanes}\n{salt}\n"
    )
}

fn seed_from(bytes: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyFileError> {
    let seed = bytes
        .try_into()
        .map_err(|_| damaged("the secret is not 32 bytes"))?;
    Ok(Zeroizing::new(seed))
}

fn fixed<const N: usize>(text: &str) -> Result<[u8; N], KeyFileError> {
    let bytes = BASE64.decode(text).map_err(damaged)?;
    bytes
        .try_into()
        .map_err(|_| damaged("a field has the wrong length"))
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
