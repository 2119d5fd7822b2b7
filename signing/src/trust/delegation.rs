//! What one key may sign.

use jiff::Timestamp;
use orchestrator_manifest::PluginName;
use serde::{Deserialize, Serialize};

use super::{NamePattern, TrustLevel};
use crate::key::PublicKey;

/// Whether a key's signatures still count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyStatus {
    /// They do.
    Active,
    /// Those on releases this host has had, made while the key was active, do; new
    /// ones do not.
    Retired,
    /// None does, but for releases that are allowed by digest.
    Revoked,
}

impl KeyStatus {
    /// The word used in listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retired => "retired",
            Self::Revoked => "revoked",
        }
    }
}

/// What a key may sign and what its signature is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// The key.
    pub key: PublicKey,
    /// The names it may sign.
    pub names: Vec<NamePattern>,
    /// How many keys, at least as trusted as this one, have to sign.
    pub threshold: u32,
    /// How far what it signs is trusted.
    pub trust_level: TrustLevel,
    /// When the key retires by itself.
    pub not_after: Option<Timestamp>,
    /// Whether its signatures still count.
    pub status: KeyStatus,
    /// Releases below this serial number are refused. When it rises, numbers that
    /// only revoked keys vouch for no longer count, which is how a host recovers
    /// from a stolen key that signed an enormous one.
    pub min_serial: Option<u64>,
    /// Why the key was retired or revoked, for whoever meets its signatures.
    pub reason: Option<String>,
}

impl Delegation {
    /// An active key that signs alone.
    pub fn new(key: PublicKey, trust_level: TrustLevel, names: Vec<NamePattern>) -> Self {
        Self {
            key,
            names,
            threshold: 1,
            trust_level,
            not_after: None,
            status: KeyStatus::Active,
            min_serial: None,
            reason: None,
        }
    }

    /// What would change with other terms for the same key, each as
    /// `what before → after`.
    pub fn changes(&self, to: &Self) -> Vec<String> {
        let names = |of: &Self| {
            let names: Vec<_> = of.names.iter().map(ToString::to_string).collect();
            names.join(", ")
        };
        let or_none = |number: Option<String>| number.unwrap_or_else(|| "none".to_owned());
        let rows = [
            ("name", [self, to].map(|it| it.key.name().to_owned())),
            ("level", [self, to].map(|it| it.trust_level.to_string())),
            ("names", [self, to].map(names)),
            ("threshold", [self, to].map(|it| it.threshold.to_string())),
            ("status", [self, to].map(|it| it.status.as_str().to_owned())),
            (
                "valid until",
                [self, to].map(|it| or_none(it.not_after.map(|end| end.to_string()))),
            ),
            ("reason", [self, to].map(|it| or_none(it.reason.clone()))),
            (
                "oldest release",
                [self, to].map(|it| or_none(it.min_serial.map(|serial| serial.to_string()))),
            ),
        ];
        rows.into_iter()
            .filter(|(_, [before, after])| before != after)
            .map(|(what, [before, after])| format!("{what} {before} → {after}"))
            .collect()
    }

    /// Whether every name that `pattern` matches may be signed by one of the
    /// patterns of this key.
    pub fn covers(&self, pattern: &NamePattern) -> bool {
        self.names.iter().any(|own| own.covers(pattern))
    }

    /// Whether there are names that both keys may sign.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.names.iter().any(|own| other.covers(own))
            || other.names.iter().any(|theirs| self.covers(theirs))
    }

    pub(super) fn may_sign(&self, name: &PluginName) -> bool {
        self.names.iter().any(|pattern| pattern.matches(name))
    }
}
