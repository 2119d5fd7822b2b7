//! Statements that one key has taken the place of another.

use jiff::Timestamp;
use miette::Diagnostic;
use serde::{Deserialize, Serialize};

use crate::{
    dsse::{Envelope, EnvelopeError},
    key::{KeyError, KeyId, PublicKey, SecretKey},
};

/// The payload type of rotation statements.
const ROTATION_TYPE: &str = "application/vnd.orchestrator.key-rotation.v1+json";

/// That one key has taken the place of another, signed by both: the holder of the
/// old key says who comes next, and the holder of the new one agrees.
///
/// It lets people who know the old key check the new one. It changes no trust:
/// whoever has stolen the old key can write one as well.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rotation {
    /// The key that retires.
    pub from: KeyId,
    /// The key that comes next.
    pub to: PublicKey,
    /// When it was written.
    pub created: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotationText {
    from: KeyId,
    to: String,
    created: Timestamp,
}

/// Why a rotation statement is not taken.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum RotationError {
    /// Not an envelope.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The key that is known did not sign it, or the new one did not.
    #[error("it is not signed by both the key `{key}` and the key it names as the next")]
    #[diagnostic(
        code("ORC-2037"),
        help("get the new key from somebody you know; this file does not vouch for it")
    )]
    NotSigned {
        /// The key that is known.
        key: String,
    },
    /// Signed, and yet no rotation statement.
    #[error("it is no rotation statement: {0}")]
    #[diagnostic(
        code("ORC-2038"),
        help("give the file that `orchestrator key rotate` wrote")
    )]
    Malformed(String),
    /// The key it names is unusable.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Key(#[from] KeyError),
}

impl Rotation {
    /// Writes that `new` takes the place of `old`, now.
    pub fn sign(old: &SecretKey, new: &SecretKey) -> Envelope {
        let text = RotationText {
            from: old.public().id(),
            to: new.public().to_line(),
            created: Timestamp::now(),
        };
        let payload = serde_json::to_vec(&text).expect("texts alone always serialise");
        Envelope::sign(ROTATION_TYPE, payload, &[old, new])
    }

    /// Reads what takes the place of `old`.
    ///
    /// # Errors
    ///
    /// [`RotationError`] for a file that the holders of both keys did not sign.
    pub fn read(bytes: &[u8], old: &PublicKey) -> Result<Self, RotationError> {
        let not_signed = || RotationError::NotSigned {
            key: old.name().to_owned(),
        };
        let malformed = |error: String| RotationError::Malformed(error);
        let envelope = Envelope::parse(bytes)?;
        let (payload, _) = envelope
            .verified_by(ROTATION_TYPE, [old])
            .ok_or_else(not_signed)?;
        let text: RotationText =
            serde_json::from_slice(payload).map_err(|error| malformed(error.to_string()))?;
        if text.from != old.id() {
            return Err(malformed("it is about another key".to_owned()));
        }
        let to = PublicKey::from_line(&text.to)?;
        envelope
            .verified_by(ROTATION_TYPE, [&to])
            .ok_or_else(not_signed)?;
        Ok(Self {
            from: text.from,
            to,
            created: text.created,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> SecretKey {
        SecretKey::generate(name).unwrap()
    }

    #[test]
    fn both_keys_have_to_sign() {
        let (old, new, other) = (key("old"), key("new"), key("other"));
        let written = Rotation::sign(&old, &new).to_json();
        let read = Rotation::read(written.as_bytes(), old.public()).unwrap();
        assert_eq!((read.from, &read.to), (old.public().id(), new.public()));

        let text = RotationText {
            from: old.public().id(),
            to: new.public().to_line(),
            created: Timestamp::now(),
        };
        let payload = serde_json::to_vec(&text).unwrap();
        for signers in [vec![&old], vec![&new], vec![&old, &other]] {
            let forged = Envelope::sign(ROTATION_TYPE, payload.clone(), &signers).to_json();
            let error = Rotation::read(forged.as_bytes(), old.public()).unwrap_err();
            assert!(matches!(error, RotationError::NotSigned { .. }), "{error}");
        }
        let error = Rotation::read(written.as_bytes(), other.public()).unwrap_err();
        assert!(matches!(error, RotationError::NotSigned { .. }), "{error}");
        // Signed by both, for another purpose.
        let other = Envelope::sign("application/json", payload, &[&old, &new]).to_json();
        Rotation::read(other.as_bytes(), old.public()).unwrap_err();
        let about_another = Rotation::sign(&new, &old).to_json();
        let error = Rotation::read(about_another.as_bytes(), old.public()).unwrap_err();
        assert!(matches!(error, RotationError::Malformed(_)), "{error}");
    }
}
