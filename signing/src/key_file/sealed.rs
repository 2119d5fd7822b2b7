//! The secret half of a key under a passphrase.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use zeroize::Zeroizing;

use super::{
    Kdf, KeyFileError, damaged,
    text::{Encrypted, FORMAT, FileText, seed_from},
    too_costly,
};
use crate::key::KeyError;

const SALT_LEN: usize = 16;
const NONCE_LEN: usize = 24;
const CIPHER: &str = "xchacha20poly1305";
const KDF: &str = "argon2id";

pub(super) fn encrypt(
    file: &FileText,
    seed: &[u8; 32],
    passphrase: &str,
    kdf: Kdf,
) -> Result<Encrypted, KeyFileError> {
    let kdf = kdf.checked()?;
    if passphrase.is_empty() {
        return Err(KeyFileError::EmptyPassphrase);
    }
    let mut salt = [0; SALT_LEN];
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut salt).map_err(|_| KeyError::Random)?;
    getrandom::fill(&mut nonce).map_err(|_| KeyError::Random)?;
    let aad = authenticated(file, kdf, &salt);
    let payload = Payload {
        msg: seed,
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

pub(super) fn decrypt(
    file: &FileText,
    encrypted: &Encrypted,
    passphrase: &str,
) -> Result<Zeroizing<[u8; 32]>, KeyFileError> {
    if encrypted.cipher != CIPHER || encrypted.kdf != KDF {
        return Err(damaged("unknown cipher or key derivation"));
    }
    let kdf = encrypted.cost().checked()?;
    let salt: [u8; SALT_LEN] = fixed(&encrypted.salt)?;
    let nonce: [u8; NONCE_LEN] = fixed(&encrypted.nonce)?;
    let ciphertext = BASE64.decode(&encrypted.ciphertext).map_err(damaged)?;
    let aad = authenticated(file, kdf, &salt);
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

/// Everything in the file that is not secret, in one spelling. What a file does
/// not have adds nothing, so files from before it was known still read.
fn authenticated(file: &FileText, kdf: Kdf, salt: &[u8]) -> String {
    let Kdf {
        memory_kib,
        passes,
        lanes,
    } = kdf;
    let (name, public) = (&file.name, &file.public);
    let salt = BASE64.encode(salt);
    let mut text = format!(
        "{FORMAT}\n{name}\n{public}\n{CIPHER}\n{KDF}\n{memory_kib}\n{passes}\n{lanes}\n{salt}\n"
    );
    let notes = [
        ("created", &file.created),
        ("comment", &file.comment),
        ("minisign_id", &file.minisign_id),
    ];
    for (field, value) in notes {
        if let Some(value) = value {
            text += &format!("{field} {value}\n");
        }
    }
    text
}

fn fixed<const N: usize>(text: &str) -> Result<[u8; N], KeyFileError> {
    let bytes = BASE64.decode(text).map_err(damaged)?;
    bytes
        .try_into()
        .map_err(|_| damaged("a field has the wrong length"))
}
