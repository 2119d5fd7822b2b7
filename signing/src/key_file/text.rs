//! What stands in a secret key file.

use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{
    FILE_SIZE_MAX, Kdf, KeyFacts, KeyFileError, Protection, damaged, halves_differ, sealed,
};
use crate::{
    durable::{self, Want},
    key::{PublicKey, SecretKey},
    minisign::MinisignId,
};

pub(super) const FORMAT: &str = "orchestrator-secret-key-v1";
const PLAIN_WARNING: &str = "not encrypted: whoever reads this file can sign";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileText {
    format: String,
    pub(super) name: String,
    key_id: String,
    pub(super) public: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) comment: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) minisign_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encrypted: Option<Encrypted>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plain: Option<Plain>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoked: Option<Revocation>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Encrypted {
    pub(super) cipher: String,
    pub(super) kdf: String,
    pub(super) memory_kib: u32,
    pub(super) passes: u32,
    pub(super) lanes: u32,
    pub(super) salt: String,
    pub(super) nonce: String,
    pub(super) ciphertext: String,
}

impl Encrypted {
    pub(super) fn cost(&self) -> Kdf {
        Kdf {
            memory_kib: self.memory_kib,
            passes: self.passes,
            lanes: self.lanes,
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    warning: String,
    secret: Zeroizing<String>,
}

/// That a key is no longer used, as its owner noted in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// When it was noted.
    pub at: Timestamp,
    /// Why, for people.
    pub reason: String,
}

impl FileText {
    /// The text of a file that holds `key`.
    pub(super) fn of(key: &SecretKey, protection: &Protection) -> Result<Self, KeyFileError> {
        let public = key.public();
        let own = public.minisign_id();
        let mut file = Self {
            format: FORMAT.to_owned(),
            name: public.name().to_owned(),
            key_id: public.id().to_string(),
            public: public.to_base64(),
            created: key.created().map(|at| at.to_string()),
            comment: key.comment().map(str::to_owned),
            minisign_id: (own != public.id().minisign()).then(|| own.to_string()),
            encrypted: None,
            plain: None,
            revoked: None,
        };
        match protection {
            Protection::Passphrase(passphrase, kdf) => {
                let encrypted = sealed::encrypt(&file, &key.seed(), passphrase, *kdf)?;
                file.encrypted = Some(encrypted);
            }
            Protection::None => {
                file.plain = Some(Plain {
                    warning: PLAIN_WARNING.to_owned(),
                    secret: Zeroizing::new(BASE64.encode(*key.seed())),
                });
            }
        }
        Ok(file)
    }

    pub(super) fn to_toml(&self) -> Result<Zeroizing<String>, KeyFileError> {
        toml::to_string(self).map(Zeroizing::new).map_err(damaged)
    }

    pub(super) fn read(path: &Path) -> Result<Self, KeyFileError> {
        let want = Want {
            size_max: FILE_SIZE_MAX,
            is_private: true,
        };
        let bytes = durable::read(path, want).map_err(|error| super::read_error(path, error))?;
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
    pub(super) fn public(&self) -> Result<PublicKey, KeyFileError> {
        let key = PublicKey::from_base64(&self.public, &self.name)?;
        if key.id().to_string() != self.key_id {
            return Err(halves_differ());
        }
        Ok(match self.minisign_number()? {
            Some(id) => key.with_minisign_id(id),
            None => key,
        })
    }

    /// What the file says without its passphrase.
    pub(super) fn facts(&self) -> Result<KeyFacts, KeyFileError> {
        Ok(KeyFacts {
            public: self.public()?,
            created: self.made_at()?,
            comment: self.comment.clone(),
            kdf: self.encrypted.as_ref().map(Encrypted::cost),
            revoked: self.revoked.clone(),
        })
    }

    pub(super) fn secret(
        &self,
        passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
    ) -> Result<SecretKey, KeyFileError> {
        if let Some(revoked) = &self.revoked {
            return Err(KeyFileError::Revoked {
                path: String::new(),
                at: revoked.at,
                reason: revoked.reason.clone(),
            });
        }
        let seed = match (&self.encrypted, &self.plain) {
            (Some(encrypted), None) => {
                let passphrase = passphrase().ok_or(KeyFileError::PassphraseNeeded)?;
                sealed::decrypt(self, encrypted, &passphrase)?
            }
            (None, Some(plain)) => {
                let secret =
                    Zeroizing::new(BASE64.decode(plain.secret.as_bytes()).map_err(damaged)?);
                seed_from(&secret)?
            }
            _ => return Err(damaged("neither encrypted nor plain")),
        };
        let key = SecretKey::from_seed(&seed, &self.name)?;
        if key.public() != &self.public()? {
            return Err(halves_differ());
        }
        let mut key = key.made_at(self.made_at()?);
        if let Some(comment) = &self.comment {
            key = key.with_comment(comment)?;
        }
        Ok(match self.minisign_number()? {
            Some(id) => key.with_minisign_id(id),
            None => key,
        })
    }

    fn made_at(&self) -> Result<Option<Timestamp>, KeyFileError> {
        let created = self.created.as_deref();
        let created = created.map(|at| at.parse().map_err(|_| damaged("`created` is no time")));
        created.transpose()
    }

    fn minisign_number(&self) -> Result<Option<MinisignId>, KeyFileError> {
        let bad = || damaged("`minisign_id` is no number of minisign");
        let id = self.minisign_id.as_deref();
        id.map(|id| MinisignId::parse(id).ok_or_else(bad))
            .transpose()
    }
}

pub(super) fn seed_from(bytes: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyFileError> {
    let seed = bytes
        .try_into()
        .map_err(|_| damaged("the secret is not 32 bytes"))?;
    Ok(Zeroizing::new(seed))
}
