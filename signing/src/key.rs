//! Ed25519 keys (RFC 8032), strict in every respect.
//!
//! Signatures are checked with `verify_strict` and in no other way, and a key
//! of small order is refused when it is read, so no signature holds for more
//! than one message. Strict checking is cofactorless and no torsion check: a
//! key with a torsion part is accepted, and gives the same answer everywhere,
//! because this is the only place that checks.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use jiff::Timestamp;
use miette::Diagnostic;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    digest::{BadDigest, Digest},
    minisign::MinisignId,
};

/// Length of a signature in bytes.
pub const SIGNATURE_LEN: usize = 64;

/// Longest name of a key, in characters.
const NAME_MAX: usize = 64;

/// What a public key starts with when it is written on a line.
const PUBLIC_PREFIX: &str = "orchestrator-key-v1";

/// The algorithm of a key in a signed note.
const NOTE_ED25519: u8 = 1;

/// Identifies a key: the SHA-256 of `"ed25519\n"` and the public key. It is
/// derived, so a key that is swapped cannot keep its identity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(Digest);

impl KeyId {
    /// Reads 64 lower-case hex digits.
    ///
    /// # Errors
    ///
    /// [`BadDigest`] for anything else.
    pub fn parse(text: &str) -> Result<Self, BadDigest> {
        Digest::parse(text).map(Self)
    }

    /// What minisign calls a key that has no number of its own.
    pub(crate) fn minisign(self) -> MinisignId {
        MinisignId::derived(self.0)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why bytes or a text are no usable key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum KeyError {
    /// Not 32 bytes, or not in base64. Mostly a line that was copied in part.
    #[error("a key is 32 bytes, written as 44 characters of base64")]
    #[diagnostic(code("ORC-2001"), help("copy the whole line of the public key file"))]
    Length,
    /// Not the one encoding of a point on the curve. Mostly a line that was
    /// copied with a letter wrong.
    #[error("these 32 bytes are no Ed25519 public key")]
    #[diagnostic(code("ORC-2002"), help("copy the whole line of the public key file"))]
    NoPoint,
    /// A key for which anybody can make signatures.
    #[error("the key is of small order: its signatures prove nothing")]
    #[diagnostic(
        code("ORC-2003"),
        help("do not use this key; make one with `orchestrator key generate`")
    )]
    Weak,
    /// Not a line as a public key file holds it. Mostly a file of another tool,
    /// or the secret file instead of the `.pub` one.
    #[error("not a public key: wanted `{PUBLIC_PREFIX} <base64> <name>`")]
    #[diagnostic(
        code("ORC-2004"),
        help("give the .pub file that `orchestrator key generate` wrote")
    )]
    Line,
    /// A name that would not survive being written down.
    #[error("a key's name has 1 to {NAME_MAX} letters, digits and any of `. _ @ -`")]
    #[diagnostic(code("ORC-2005"), help("for example `release-2026`"))]
    Name,
    /// A comment that would not survive being written down.
    #[error(
        "a key's comment is one line of at most {COMMENT_MAX} bytes without control characters"
    )]
    #[diagnostic(code("ORC-2007"), help("for example `offline, in the safe`"))]
    Comment,
    /// The operating system has no random numbers to give.
    #[error("the operating system gives no random numbers")]
    #[diagnostic(code("ORC-2006"), help("check that getrandom(2) works here"))]
    Random,
}

/// A public key that is safe to trust, and the name its owner gave it.
#[derive(Clone)]
pub struct PublicKey {
    point: VerifyingKey,
    id: KeyId,
    name: String,
    minisign_id: MinisignId,
}

/// What minisign calls the key is no part of what it is.
impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.name == other.name
    }
}

impl Eq for PublicKey {}

impl PublicKey {
    /// Reads the 32 bytes of a public key.
    ///
    /// # Errors
    ///
    /// [`KeyError`] for bytes that are no canonical point, for keys of small
    /// order and for names that do not fit on a line.
    pub fn from_bytes(bytes: &[u8; 32], name: &str) -> Result<Self, KeyError> {
        check_name(name)?;
        let point = VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::NoPoint)?;
        // Some points can be written in two ways; only one is accepted.
        if point.to_edwards().compress().as_bytes() != bytes {
            return Err(KeyError::NoPoint);
        }
        if point.is_weak() {
            return Err(KeyError::Weak);
        }
        let id = KeyId(Digest::of_parts([&b"ed25519\n"[..], bytes]));
        Ok(Self {
            point,
            id,
            name: name.to_owned(),
            minisign_id: id.minisign(),
        })
    }

    /// Reads base64 of the 32 bytes.
    ///
    /// # Errors
    ///
    /// As [`Self::from_bytes`], and [`KeyError::Length`].
    pub fn from_base64(text: &str, name: &str) -> Result<Self, KeyError> {
        let bytes = BASE64.decode(text).map_err(|_| KeyError::Length)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyError::Length)?;
        Self::from_bytes(&bytes, name)
    }

    /// Reads the one line of a public key file:
    /// `orchestrator-key-v1 <base64> <name>`.
    ///
    /// # Errors
    ///
    /// As [`Self::from_base64`], and [`KeyError::Line`].
    pub fn from_line(line: &str) -> Result<Self, KeyError> {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let parts: Vec<_> = line.split(' ').collect();
        match parts.as_slice() {
            [prefix, key, name] if *prefix == PUBLIC_PREFIX => Self::from_base64(key, name),
            _ => Err(KeyError::Line),
        }
    }

    /// Writes what [`Self::from_line`] reads, without a line break.
    pub fn to_line(&self) -> String {
        format!("{PUBLIC_PREFIX} {} {}", self.to_base64(), self.name)
    }

    /// The key in base64.
    pub fn to_base64(&self) -> String {
        BASE64.encode(self.point.as_bytes())
    }

    /// The key's identity.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// The name its owner gave it; proves nothing.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The 32 bytes of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.point.as_bytes()
    }

    /// The key as the C2SP's signed notes name it: a name, four bytes of a hash of
    /// both, and the key.
    pub fn to_note(&self) -> String {
        let key = [&[NOTE_ED25519], &self.as_bytes()[..]].concat();
        let name = format!("{}\n", self.name);
        let hash = Digest::of_parts([name.as_bytes(), &key]).to_string();
        format!("{}+{}+{}", self.name, &hash[..8], BASE64.encode(key))
    }

    /// The first half of the identity in groups of four digits, to be read aloud.
    pub fn fingerprint(&self) -> String {
        let id = self.id.to_string();
        let groups: Vec<_> = (0..8).map(|group| &id[group * 4..group * 4 + 4]).collect();
        groups.join(" ")
    }

    /// What minisign calls this key: derived from the key, unless the key came
    /// from minisign with a number of its own.
    pub fn minisign_id(&self) -> MinisignId {
        self.minisign_id
    }

    pub(crate) fn with_minisign_id(mut self, id: MinisignId) -> Self {
        self.minisign_id = id;
        self
    }

    /// The same key under another name.
    ///
    /// # Errors
    ///
    /// [`KeyError::Name`].
    pub fn renamed(mut self, name: &str) -> Result<Self, KeyError> {
        check_name(name)?;
        name.clone_into(&mut self.name);
        Ok(self)
    }

    /// Returns whether `signature` is this key's signature of `message`.
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        let signature = Signature::from_bytes(signature);
        self.point.verify_strict(message, &signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.name, self.id)
    }
}

/// Longest comment of a key, in bytes.
const COMMENT_MAX: usize = 256;

/// A secret key. Its bytes are wiped from memory when it is dropped.
pub struct SecretKey {
    key: SigningKey,
    public: PublicKey,
    created: Option<Timestamp>,
    comment: Option<String>,
}

impl SecretKey {
    /// Makes a new key from the operating system's random numbers.
    ///
    /// # Errors
    ///
    /// [`KeyError::Random`] when there are none, [`KeyError::Name`] for a bad
    /// name.
    pub fn generate(name: &str) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|_| KeyError::Random)?;
        // Seconds are enough, and all that a person reads.
        let now = Timestamp::from_second(Timestamp::now().as_second());
        Ok(Self::from_seed(&seed, name)?.made_at(now.ok()))
    }

    /// The key that belongs to a 32-byte seed (RFC 8032 §5.1.5). The public
    /// half is computed, never taken from elsewhere: signing with a wrong one
    /// would give the secret away.
    ///
    /// # Errors
    ///
    /// [`KeyError::Name`] for a bad name.
    pub fn from_seed(seed: &[u8; 32], name: &str) -> Result<Self, KeyError> {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey::from_bytes(key.verifying_key().as_bytes(), name)?;
        Ok(Self {
            key,
            public,
            created: None,
            comment: None,
        })
    }

    pub(crate) fn made_at(mut self, created: Option<Timestamp>) -> Self {
        self.created = created;
        self
    }

    /// The key with a comment for people, which proves nothing.
    ///
    /// # Errors
    ///
    /// [`KeyError::Comment`] when it is too long or not one line of text.
    pub fn with_comment(mut self, comment: &str) -> Result<Self, KeyError> {
        check_comment(comment)?;
        self.comment = Some(comment.to_owned());
        Ok(self)
    }

    /// The same key under another name.
    ///
    /// # Errors
    ///
    /// [`KeyError::Name`].
    pub fn renamed(mut self, name: &str) -> Result<Self, KeyError> {
        self.public = self.public.renamed(name)?;
        Ok(self)
    }

    pub(crate) fn with_minisign_id(mut self, id: MinisignId) -> Self {
        self.public = self.public.with_minisign_id(id);
        self
    }

    /// When it was made, if its file says so.
    pub fn created(&self) -> Option<Timestamp> {
        self.created
    }

    /// What its owner wrote beside it.
    pub fn comment(&self) -> Option<&str> {
        self.comment.as_deref()
    }

    /// The public half.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.key.sign(message).to_bytes()
    }

    pub(crate) fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.key.to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({} {})", self.public.name, self.public.id)
    }
}

/// One line that shows as what it is: nothing that moves a cursor, turns text
/// around or is not there to the eye.
pub(crate) fn check_comment(comment: &str) -> Result<(), KeyError> {
    let hides = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    match comment.len() > COMMENT_MAX || comment.chars().any(hides) {
        true => Err(KeyError::Comment),
        false => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), KeyError> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-');
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(is_plain) {
        return Err(KeyError::Name);
    }
    Ok(())
}
