//! SHA-256 as the journal uses it: names of blobs and definitions, the chain
//! over a run's records, and idempotency keys.

use std::{fmt, str::FromStr};

use orchestrator_contract::RunId;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// A SHA-256 digest ([FIPS 180-4](https://doi.org/10.6028/NIST.FIPS.180-4)),
/// written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// The text is not 64 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not a SHA-256 digest of 64 lower-case hex digits")]
pub struct DigestError;

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest as bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The reverse of [`Self::as_bytes`].
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(DigestError),
        };
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
            return Err(DigestError);
        };
        let mut bytes = [0; 32];
        if pairs.len() != bytes.len() {
            return Err(DigestError);
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Ties a record to every record before it in its run: the first eight bytes
/// of a digest over the link before it and the record. Enough to find
/// damage and mistakes; it is no seal against somebody who can write the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain(pub(super) [u8; 8]);

/// What of a record goes into its link, besides the link before it.
pub(super) struct Link<'a> {
    pub(super) run: RunId,
    pub(super) seq: u64,
    pub(super) epoch: u64,
    pub(super) at_ms: i64,
    pub(super) body: &'a [u8],
    pub(super) payload: Option<(&'a str, &'a Digest)>,
}

impl Chain {
    pub(super) fn then(self, link: &Link<'_>) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(link.run.to_bytes());
        hash.update(link.seq.to_be_bytes());
        hash.update(link.epoch.to_be_bytes());
        hash.update(link.at_ms.to_be_bytes());
        // Lengths go first, so that no two different records read the same.
        hash.update((link.body.len() as u64).to_be_bytes());
        hash.update(link.body);
        if let Some((content_type, digest)) = link.payload {
            hash.update((content_type.len() as u64).to_be_bytes());
            hash.update(content_type);
            hash.update(digest.as_bytes());
        }
        let mut first = [0; 8];
        first.copy_from_slice(&hash.finalize()[..8]);
        Self(first)
    }
}

/// The key a plugin may use to do a step's work once: the same for every
/// attempt and after every resume, another for another run or `generation`.
/// 32 hex digits.
///
/// `generation` counts how often a person reran the step within its run,
/// from 0.
pub fn idempotency_key(run: RunId, step_path: &str, generation: u32) -> String {
    let mut hash = Sha256::new();
    hash.update(run.to_bytes());
    hash.update(generation.to_be_bytes());
    hash.update(step_path);
    hex(&hash.finalize()[..16])
}

/// Written out, because formatting byte by byte takes longer than hashing.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_standards_and_round_trips_as_text() {
        let abc = Digest::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(abc.to_string(), text);
        assert_eq!(text.parse(), Ok(abc));
        for wrong in [
            "",
            "ab",
            &text.to_uppercase(),
            &text[1..],
            &format!("{text}0"),
        ] {
            assert_eq!(wrong.parse::<Digest>(), Err(DigestError), "{wrong}");
        }
    }

    #[test]
    fn a_link_depends_on_everything_in_the_record() {
        let run = RunId::from_parts(1, 1);
        let digest = Digest::of(b"x");
        let base = || Link {
            run,
            seq: 2,
            epoch: 1,
            at_ms: 5,
            body: b"{}",
            payload: Some(("text/plain", &digest)),
        };
        let other_run = RunId::from_parts(1, 2);
        let other_digest = Digest::of(b"y");
        let links = [
            base(),
            Link {
                run: other_run,
                ..base()
            },
            Link { seq: 3, ..base() },
            Link { epoch: 2, ..base() },
            Link { at_ms: 6, ..base() },
            Link {
                body: b"[]",
                ..base()
            },
            Link {
                payload: None,
                ..base()
            },
            Link {
                payload: Some(("text/css", &digest)),
                ..base()
            },
            Link {
                payload: Some(("text/plain", &other_digest)),
                ..base()
            },
        ];
        let mut seen: Vec<_> = links.iter().map(|l| Chain::default().then(l).0).collect();
        seen.push(Chain([1; 8]).then(&base()).0);
        seen.sort_unstable();
        let all = seen.len();
        seen.dedup();
        assert_eq!(seen.len(), all);
    }

    #[test]
    fn a_key_differs_by_run_step_and_generation_alone() {
        let run = RunId::from_parts(1, 1);
        let key = idempotency_key(run, "build", 0);
        assert_eq!(key.len(), 32);
        assert_eq!(key, idempotency_key(run, "build", 0));
        assert_ne!(key, idempotency_key(run, "build", 1));
        assert_ne!(key, idempotency_key(run, "test", 0));
        assert_ne!(key, idempotency_key(RunId::from_parts(1, 2), "build", 0));
    }
}
