//! Keys in files.
//!
//! A secret key file is TOML with one key in it, encrypted with
//! XChaCha20-Poly1305 under a key that Argon2id makes from a passphrase. All
//! parameters stand in the file and are part of what is authenticated. The
//! file is readable by its owner alone, or it is not read at all.

use std::{io, path::Path};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use miette::Diagnostic;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

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
            Err(KeyFileError::Cost(self))
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

/// Why a key file was not read or written.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The file cannot be read or written. The operating system says why: it is
    /// not there, it is there already, or this user may not.
    #[error("key file `{path}`")]
    #[diagnostic(
        code("ORC-2010"),
        help(
            "an existing key file is never overwritten; check the path and the folder's permissions"
        )
    )]
    Io {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Somebody else can read the file. Group or others have a right to it, or
    /// it belongs to another user.
    #[error("key file `{path}`: {reason}")]
    #[diagnostic(
        code("ORC-2011"),
        help("`chmod 600 {path}`, and think about whether the key has been copied")
    )]
    Exposed {
        /// The file.
        path: String,
        /// Who can read it.
        reason: String,
    },
    /// The file is no secret key file, or was cut off or altered.
    #[error("not a secret key file, or a damaged one: {0}")]
    #[diagnostic(code("ORC-2012"), help("restore it from a copy"))]
    Damaged(String),
    /// The passphrase is wrong or the file was altered; the two cannot be
    /// told apart.
    #[error("wrong passphrase, or the key file was altered")]
    #[diagnostic(
        code("ORC-2013"),
        help("try again; if you are sure, restore the file from a copy")
    )]
    WrongPassphrase,
    /// The file is encrypted and no passphrase was given.
    #[error("the key file is encrypted")]
    #[diagnostic(
        code("ORC-2014"),
        help("give its passphrase on a terminal, by descriptor or by agent command")
    )]
    PassphraseNeeded,
    /// The cost of trying a passphrase is too low or too high.
    #[error("key derivation with {} KiB, {} passes, {} lanes is out of bounds", .0.memory_kib, .0.passes, .0.lanes)]
    #[diagnostic(
        code("ORC-2015"),
        help(
            "8 MiB to 1 GiB, at most 16 passes and 16 lanes, and no cheaper than 8 MiB with 4 passes"
        )
    )]
    Cost(Kdf),
    /// The public half in the file does not belong to the secret half.
    #[error("the public key in the file is not the one of its secret key")]
    #[diagnostic(
        code("ORC-2016"),
        help("the file was altered; do not sign with it, restore it from a copy")
    )]
    HalvesDiffer,
    /// The passphrase is empty.
    #[error("the passphrase is empty")]
    #[diagnostic(
        code("ORC-2017"),
        help("choose one, or ask for a key file without a passphrase")
    )]
    EmptyPassphrase,
    /// The key itself is unusable.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Key(#[from] KeyError),
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
                (Some(encrypt(self, passphrase, *kdf)?), None)
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
        let text =
            toml::to_string(&text).map_err(|error| KeyFileError::Damaged(error.to_string()))?;
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
        let want = Want {
            size_max: FILE_SIZE_MAX,
            is_private: true,
        };
        let bytes = durable::read(path, want).map_err(|error| read_error(path, error))?;
        let bytes = Zeroizing::new(bytes);
        let text = std::str::from_utf8(&bytes).map_err(damaged)?;
        // The error of the parser would quote the text, so it is not passed on.
        let file: FileText = toml::from_str(text).map_err(|_| damaged("it does not parse"))?;
        if file.format != FORMAT {
            return Err(damaged("unknown format"));
        }
        let seed = match (&file.encrypted, &file.plain) {
            (Some(encrypted), None) => {
                let passphrase = passphrase().ok_or(KeyFileError::PassphraseNeeded)?;
                decrypt(&file, encrypted, &passphrase)?
            }
            (None, Some(plain)) => {
                let secret =
                    Zeroizing::new(BASE64.decode(plain.secret.as_bytes()).map_err(damaged)?);
                seed_from(&secret)?
            }
            _ => return Err(damaged("neither encrypted nor plain")),
        };
        let key = Self::from_seed(&seed, &file.name)?;
        let is_same =
            key.public().to_base64() == file.public && key.public().id().to_string() == file.key_id;
        if is_same {
            Ok(key)
        } else {
            Err(KeyFileError::HalvesDiffer)
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
        let line = std::str::from_utf8(&bytes).map_err(|_| KeyError::Line)?;
        Ok(Self::from_line(line)?)
    }
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
        .map_err(|_| KeyFileError::WrongPassphrase)?;
    seed_from(&Zeroizing::new(seed))
}

fn cipher(
    passphrase: &str,
    kdf: Kdf,
    salt: &[u8; SALT_LEN],
) -> Result<XChaCha20Poly1305, KeyFileError> {
    let params = Params::new(kdf.memory_kib, kdf.passes, kdf.lanes, Some(32))
        .map_err(|_| KeyFileError::Cost(kdf))?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(|_| KeyFileError::Cost(kdf))?;
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

fn damaged(reason: impl ToString) -> KeyFileError {
    KeyFileError::Damaged(reason.to_string())
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
        ReadError::Special | ReadError::TooLarge(_) => damaged(error),
    }
}
