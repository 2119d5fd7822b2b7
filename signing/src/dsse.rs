//! DSSE envelopes: what was signed, and for which purpose.
//!
//! The signature covers the payload *and* its type through PAE, so bytes that
//! were signed as one thing cannot be shown as another. The payload is parsed
//! only after a signature over those very bytes held.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use miette::Diagnostic;
use serde::{Deserialize, Serialize};

use crate::key::{KeyId, PublicKey, SIGNATURE_LEN, SecretKey};

/// Largest envelope in bytes.
pub const ENVELOPE_SIZE_MAX: usize = 4 * 1024 * 1024;
/// Most signatures in one envelope.
pub const SIGNATURES_MAX: usize = 16;
/// How many bytes may be hashed to find out whose the signatures are that name no
/// key: enough to try sixteen with a thousand keys on most payloads, and no more than
/// a second's work on the largest.
const NAMELESS_BYTES_MAX: usize = 256 << 20;

/// The bytes that are signed: DSSE v1 pre-authentication encoding.
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    );
    [head.as_bytes(), payload].concat()
}

/// A payload and its signatures, as yet unchecked.
#[derive(Clone, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<EnvelopeSignature>,
}

#[derive(Clone, PartialEq, Eq)]
struct EnvelopeSignature {
    /// A hint of which key to try; decides nothing.
    key_id: Option<KeyId>,
    bytes: [u8; SIGNATURE_LEN],
}

/// Why a text is no envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// More bytes or signatures than are read. It is not read, whoever made it.
    #[error(
        "the signature file is too large: at most {ENVELOPE_SIZE_MAX} bytes and {SIGNATURES_MAX} signatures"
    )]
    #[diagnostic(
        code("ORC-2020"),
        help("download the package again; if it stays, its publisher made it wrongly")
    )]
    TooLarge,
    /// Not JSON of the wanted shape, or more than one value.
    #[error("the signature file is damaged: {0}")]
    #[diagnostic(
        code("ORC-2021"),
        help(
            "download the package again; this looks like an incomplete download, not like an attack"
        )
    )]
    Damaged(String),
    /// A signature of something else, or by another key.
    #[error("it is not the signature of the key `{key}` over this payload")]
    #[diagnostic(
        code("ORC-2023"),
        help("sign this very payload, with the key that the public key belongs to")
    )]
    Foreign {
        /// The key's name.
        key: String,
    },
    /// An envelope without signatures.
    #[error("the signature file holds no signature")]
    #[diagnostic(
        code("ORC-2022"),
        help("sign the package with `orchestrator plugin sign`")
    )]
    NoSignatures,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeText {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: String,
    signatures: Vec<SignatureText>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureText {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keyid: Option<String>,
    sig: String,
}

impl Envelope {
    /// Signs `payload` with every key.
    pub fn sign(payload_type: &str, payload: Vec<u8>, keys: &[&SecretKey]) -> Self {
        let message = pae(payload_type, &payload);
        let signatures = keys.iter().map(|key| EnvelopeSignature {
            key_id: Some(key.public().id()),
            bytes: key.sign(&message),
        });
        Self {
            payload_type: payload_type.to_owned(),
            signatures: signatures.collect(),
            payload,
        }
    }

    /// A payload that nobody has signed yet.
    pub fn unsigned(payload_type: &str, payload: Vec<u8>) -> Self {
        Self::sign(payload_type, payload, &[])
    }

    /// Adds the signature of one more key, wherever it was made, in place of any
    /// that claims to be of this key.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Foreign`] when it is no signature of this payload by this
    /// key, [`EnvelopeError::TooLarge`] when there are as many as may be. The
    /// envelope is then as it was.
    pub fn add(
        &mut self,
        key: &PublicKey,
        signature: &[u8; SIGNATURE_LEN],
    ) -> Result<(), EnvelopeError> {
        if !key.verifies(&pae(&self.payload_type, &self.payload), signature) {
            return Err(EnvelopeError::Foreign {
                key: key.name().to_owned(),
            });
        }
        let others = |it: &&EnvelopeSignature| it.key_id != Some(key.id());
        let mut signatures: Vec<_> = self.signatures.iter().filter(others).cloned().collect();
        if signatures.len() >= SIGNATURES_MAX {
            return Err(EnvelopeError::TooLarge);
        }
        signatures.push(EnvelopeSignature {
            key_id: Some(key.id()),
            bytes: *signature,
        });
        self.signatures = signatures;
        Ok(())
    }

    /// Signs it with one more key, likewise.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::TooLarge`] when there are as many signatures as may be.
    pub fn countersign(&mut self, key: &SecretKey) -> Result<(), EnvelopeError> {
        let signature = key.sign(&pae(&self.payload_type, &self.payload));
        self.add(key.public(), &signature)
    }

    /// The first signature that is this key's.
    pub(crate) fn signature_of(&self, key: &PublicKey) -> Option<[u8; SIGNATURE_LEN]> {
        let message = pae(&self.payload_type, &self.payload);
        let mut all = self.signatures.iter().map(|signature| signature.bytes);
        all.find(|signature| key.verifies(&message, signature))
    }

    /// Reads an envelope. Strict: one JSON value and nothing around it, no
    /// unknown or repeated keys, one base64 spelling.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > ENVELOPE_SIZE_MAX {
            return Err(EnvelopeError::TooLarge);
        }
        let text: EnvelopeText = serde_json::from_slice(bytes).map_err(damaged)?;
        if text.signatures.is_empty() {
            return Err(EnvelopeError::NoSignatures);
        }
        if text.signatures.len() > SIGNATURES_MAX {
            return Err(EnvelopeError::TooLarge);
        }
        let signatures = text.signatures.into_iter().map(|signature| {
            let key_id = signature.keyid.filter(|id| !id.is_empty());
            let bytes = BASE64.decode(signature.sig).map_err(damaged)?;
            Ok(EnvelopeSignature {
                key_id: key_id
                    .map(|id| KeyId::parse(&id))
                    .transpose()
                    .map_err(damaged)?,
                bytes: bytes
                    .try_into()
                    .map_err(|_| damaged("a signature is not 64 bytes"))?,
            })
        });
        Ok(Self {
            payload: BASE64.decode(text.payload).map_err(damaged)?,
            signatures: signatures.collect::<Result<_, EnvelopeError>>()?,
            payload_type: text.payload_type,
        })
    }

    /// Writes what [`Self::parse`] reads, as one line without blanks.
    pub fn to_json(&self) -> String {
        let signatures = self.signatures.iter().map(|signature| SignatureText {
            keyid: signature.key_id.map(|id| id.to_string()),
            sig: BASE64.encode(signature.bytes),
        });
        let text = EnvelopeText {
            payload: BASE64.encode(&self.payload),
            payload_type: self.payload_type.clone(),
            signatures: signatures.collect(),
        };
        serde_json::to_string(&text).expect("texts alone always serialise")
    }

    /// What the signatures are said to be for.
    pub fn payload_type(&self) -> &str {
        &self.payload_type
    }

    /// The payload before any signature was checked.
    pub(crate) fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The identities that the signatures claim; they prove nothing.
    pub fn claimed_keys(&self) -> impl Iterator<Item = KeyId> + '_ {
        self.signatures
            .iter()
            .filter_map(|signature| signature.key_id)
    }

    /// The payload and those of `keys` that signed it as `payload_type`: each
    /// key once, whatever the signatures say about their keys. A signature
    /// that names a key is tried with that key alone, one that names none
    /// with all of them, as long as that costs no more than a bound. `None` when no
    /// key signed it.
    pub fn verified_by<'k>(
        &self,
        payload_type: &str,
        keys: impl IntoIterator<Item = &'k PublicKey>,
    ) -> Option<(&[u8], Vec<&'k PublicKey>)> {
        if self.payload_type != payload_type {
            return None;
        }
        let message = pae(payload_type, &self.payload);
        let mut nameless_tries = NAMELESS_BYTES_MAX / message.len();
        let mut signers: Vec<&PublicKey> = Vec::new();
        for key in keys {
            let mut tried = self
                .signatures
                .iter()
                .filter(|signature| match signature.key_id {
                    Some(id) => id == key.id(),
                    None if nameless_tries == 0 => false,
                    None => {
                        nameless_tries -= 1;
                        true
                    }
                });
            let is_new = signers.iter().all(|signer| signer.id() != key.id());
            if is_new && tried.any(|signature| key.verifies(&message, &signature.bytes)) {
                signers.push(key);
            }
        }
        (!signers.is_empty()).then_some((&self.payload, signers))
    }
}

impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope")
            .field("payload_type", &self.payload_type)
            .field("payload_bytes", &self.payload.len())
            .field("signatures", &self.signatures.len())
            .finish()
    }
}

fn damaged(reason: impl ToString) -> EnvelopeError {
    EnvelopeError::Damaged(reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "application/test";

    fn key(name: &str) -> SecretKey {
        SecretKey::generate(name).unwrap()
    }

    /// The vector of the DSSE specification.
    #[test]
    fn pae_as_specified() {
        let signed = pae("http://example.com/HelloWorld", b"hello world");
        assert_eq!(
            signed,
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    #[test]
    fn what_was_signed_verifies_and_nothing_else() {
        let (a, b, other) = (key("a"), key("b"), key("other"));
        let envelope = Envelope::sign(TYPE, b"payload".to_vec(), &[&a, &b]);
        let read = Envelope::parse(envelope.to_json().as_bytes()).unwrap();
        assert_eq!(read, envelope);

        let (payload, signers) = read
            .verified_by(TYPE, [a.public(), b.public(), other.public(), a.public()])
            .unwrap();
        assert_eq!(payload, b"payload");
        assert_eq!(signers, [a.public(), b.public()], "each key counts once");
        assert!(
            read.verified_by("application/other", [a.public()])
                .is_none()
        );
        assert!(read.verified_by(TYPE, [other.public()]).is_none());
    }

    #[test]
    fn a_key_id_is_a_hint_and_never_decides() {
        let (a, b) = (key("a"), key("b"));
        let mut envelope = Envelope::sign(TYPE, b"payload".to_vec(), &[&a]);
        envelope.signatures[0].key_id = None;
        assert!(
            envelope
                .verified_by(TYPE, [b.public(), a.public()])
                .is_some()
        );
        envelope.signatures[0].key_id = Some(b.public().id());
        assert!(
            envelope
                .verified_by(TYPE, [b.public(), a.public()])
                .is_none()
        );
    }

    #[test]
    fn only_strict_json_is_read() {
        let good = Envelope::sign(TYPE, b"payload".to_vec(), &[&key("a")]).to_json();
        Envelope::parse(good.as_bytes()).unwrap();
        let bad = [
            format!("\u{feff}{good}"),
            format!("{good}x"),
            format!("{good}{good}"),
            good.replacen('{', "{\"payload\":\"\",", 1),
            good.replacen('{', "{\"extra\":1,", 1),
            good.replacen("cGF5bG9hZA==", "cGF5bG9hZB==", 1),
            good.replacen("cGF5bG9hZA==", "cGF5bG9hZA", 1),
            good.replacen("cGF5bG9hZA==", "cGF5bG9h\\nZA==", 1),
            good.replacen("\"keyid\":\"", "\"keyid\":\"A", 1),
            "[".repeat(10_000),
            String::new(),
        ];
        for text in bad {
            let error = Envelope::parse(text.as_bytes()).unwrap_err();
            assert!(
                matches!(error, EnvelopeError::Damaged(_)),
                "{error}: {text:.80}"
            );
        }
        let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
        Envelope::parse(&utf16).unwrap_err();
    }

    #[test]
    fn too_much_is_refused_before_it_costs_anything() {
        let huge = vec![b' '; ENVELOPE_SIZE_MAX + 1];
        assert_eq!(Envelope::parse(&huge), Err(EnvelopeError::TooLarge));
        let a = key("a");
        let many = Envelope::sign(TYPE, Vec::new(), &[&a; SIGNATURES_MAX + 1]).to_json();
        assert_eq!(
            Envelope::parse(many.as_bytes()),
            Err(EnvelopeError::TooLarge)
        );
        let none = Envelope::sign(TYPE, Vec::new(), &[]).to_json();
        assert_eq!(
            Envelope::parse(none.as_bytes()),
            Err(EnvelopeError::NoSignatures)
        );
    }

    #[test]
    fn a_signature_too_many_is_refused_and_not_written() {
        let (a, b) = (key("a"), key("b"));
        let mut full = Envelope::sign(TYPE, b"payload".to_vec(), &[&a; SIGNATURES_MAX]);
        for signature in &mut full.signatures {
            signature.key_id = None;
        }
        let before = full.clone();
        assert_eq!(full.countersign(&b), Err(EnvelopeError::TooLarge));
        assert_eq!(full, before);
    }

    /// Sixteen signatures without a name, over the largest payload, are no reason to
    /// hash it for every key there is.
    #[test]
    fn signatures_without_a_name_are_not_tried_for_ever() {
        let signer = key("signer");
        let strangers: Vec<_> = (0..200).map(|number| key(&format!("k{number}"))).collect();
        let keys = || {
            let strangers = strangers.iter().map(SecretKey::public);
            strangers.chain([signer.public()])
        };
        let is_found = |bytes: usize, is_named: bool| {
            let mut envelope = Envelope::sign(TYPE, vec![b'x'; bytes], &[&signer]);
            if !is_named {
                envelope.signatures[0].key_id = None;
            }
            envelope.verified_by(TYPE, keys()).is_some()
        };
        assert!(is_found(3 << 20, true));
        assert!(is_found(16 << 10, false));
        assert!(!is_found(3 << 20, false));
    }
}
