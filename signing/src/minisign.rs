//! The files of minisign: keys and detached signatures that people have already,
//! and that tools other than ours check.
//!
//! Only prehashed signatures (`ED`) are made and accepted. A legacy one (`Ed`)
//! signs the bytes of a file as they are, so a file that looks like what a package
//! signature covers would make one key's signatures mean two things.

mod error;
mod secret;
mod signature;

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

pub use self::{error::MinisignError, signature::MinisignSignature};
use crate::{
    digest::Digest,
    key::{KeyError, PublicKey},
};

/// How the first line of every file of minisign begins.
const UNTRUSTED: &str = "untrusted comment: ";
/// The algorithm of keys, and of legacy signatures.
const ALGORITHM: &[u8; 2] = b"Ed";
/// Length of the number of a key, in bytes.
const ID_LEN: usize = 8;

/// What minisign calls a key: eight bytes that choose which key to try and prove
/// nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MinisignId([u8; ID_LEN]);

impl MinisignId {
    /// The beginning of the key's own identity.
    pub(crate) fn derived(digest: Digest) -> Self {
        let mut id = [0; ID_LEN];
        id.copy_from_slice(&digest.as_bytes()[..ID_LEN]);
        Self(id)
    }

    /// Reads what it shows as: 16 upper-case hex digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number = u64::from_str_radix(text, 16).ok()?;
        let id = Self(number.to_le_bytes());
        (id.to_string() == text).then_some(id)
    }
}

/// As minisign shows it: a number, its last byte first.
impl fmt::Display for MinisignId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016X}", u64::from_le_bytes(self.0))
    }
}

impl fmt::Debug for MinisignId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PublicKey {
    /// Reads a public key file of minisign: a comment and a line of base64.
    ///
    /// # Errors
    ///
    /// [`MinisignError`] for anything else, and for the keys that
    /// [`Self::from_bytes`] refuses.
    pub fn from_minisign(text: &str, name: &str) -> Result<Self, MinisignError> {
        let [comment, key] = lines(text)?;
        untrusted(comment)?;
        let [algorithm, id, point] = parts(key, [ALGORITHM.len(), ID_LEN, 32])?;
        if *algorithm != ALGORITHM {
            return Err(MinisignError::Format("an unknown algorithm"));
        }
        let key = Self::from_bytes(&array(&point)?, name)?;
        Ok(key.with_minisign_id(MinisignId(array(&id)?)))
    }

    /// Writes what minisign reads as a public key file.
    pub fn to_minisign(&self) -> String {
        let id = self.minisign_id();
        let bytes = [&ALGORITHM[..], &id.0, self.as_bytes()].concat();
        let key = BASE64.encode(bytes);
        format!("{UNTRUSTED}minisign public key {id}\n{key}\n")
    }
}

/// Whether a text wants to be a file of minisign.
pub(crate) fn is_minisign(text: &str) -> bool {
    text.starts_with(UNTRUSTED.trim_end())
}

/// The lines of a text, which has to have as many as this. Windows line ends are
/// taken, as minisign does.
fn lines<const N: usize>(text: &str) -> Result<[&str; N], MinisignError> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let lines: Vec<_> = text
        .split('\n')
        .map(|line| line.strip_suffix('\r').unwrap_or(line))
        .collect();
    let count = MinisignError::Format("another number of lines");
    lines.try_into().map_err(|_| count)
}

fn untrusted(line: &str) -> Result<&str, MinisignError> {
    let comment = line.strip_prefix(UNTRUSTED.trim_end());
    let comment = comment.ok_or(MinisignError::Format("no untrusted comment"))?;
    Ok(comment.trim_start_matches(' '))
}

/// The pieces of a line of base64, which has to consist of just these lengths.
fn parts<const N: usize>(
    line: &str,
    lengths: [usize; N],
) -> Result<[zeroize::Zeroizing<Vec<u8>>; N], MinisignError> {
    let bytes = BASE64.decode(line.as_bytes());
    let bytes = bytes.map_err(|_| MinisignError::Format("no base64"))?;
    let bytes = zeroize::Zeroizing::new(bytes);
    if bytes.len() != lengths.iter().sum::<usize>() {
        return Err(MinisignError::Format("a line of another length"));
    }
    let mut rest = &bytes[..];
    Ok(lengths.map(|length| {
        let (part, tail) = rest.split_at(length);
        rest = tail;
        zeroize::Zeroizing::new(part.to_vec())
    }))
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], MinisignError> {
    let wrong = MinisignError::Format("a part of another length");
    bytes.try_into().map_err(|_| wrong)
}

impl From<KeyError> for MinisignError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}
