//! Whose signatures count, for which names, and how far they are trusted.
//!
//! A plugin never says how far it is trusted: the level comes from the
//! delegation of the key that signed it, and from nowhere else. [`TrustRoot`]
//! decides; [`TrustStore`] keeps the root on disk, beside a root key of this host
//! that is **not encrypted** (see [`TrustStore::add`]).

mod anchor;
mod delegation;
mod edit;
mod error;
mod file;
mod local_key;
mod root_file;
mod serials;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use orchestrator_manifest::PluginName;
use serde::{Deserialize, Serialize};

pub use self::{
    delegation::{Delegation, KeyStatus},
    edit::NextRoot,
    error::TrustError,
    file::RootFile,
    store::TrustStore,
};
pub(crate) use self::{root_file::RootDocument, serials::Serials};
use crate::{
    digest::Digest,
    key::{KeyId, PublicKey},
};

/// How far clocks may differ without a word.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_hours(24);

/// How far a plugin is trusted. It states the least confinement; a host that
/// cannot give that much does not start the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum TrustLevel {
    /// 1: anybody's code.
    Untrusted,
    /// 2: code of somebody we have a contract with.
    Partner,
    /// 3: our own code.
    Internal,
}

impl TrustLevel {
    /// 1, 2 or 3.
    pub const fn number(self) -> u8 {
        match self {
            Self::Untrusted => 1,
            Self::Partner => 2,
            Self::Internal => 3,
        }
    }

    /// The word used in listings and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted",
            Self::Partner => "partner",
            Self::Internal => "internal",
        }
    }
}

impl TryFrom<u8> for TrustLevel {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            1 => Ok(Self::Untrusted),
            2 => Ok(Self::Partner),
            3 => Ok(Self::Internal),
            _ => Err(format!("trust levels are 1, 2 and 3, not {number}")),
        }
    }
}

impl From<TrustLevel> for u8 {
    fn from(level: TrustLevel) -> Self {
        level.number()
    }
}

impl fmt::Display for TrustLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.number(), self.as_str())
    }
}

/// The plugin names that a key may sign: one name, `com.acme.*` for every
/// name beneath a label, or `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern(String);

impl NamePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// A sentence for people when the text is neither a name, nor a name
    /// followed by `.*`, nor `*`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = text.strip_suffix(".*").unwrap_or(text);
        if text != "*" {
            PluginName::parse(name).map_err(|error| {
                format!("`{}` is no name pattern: {error}", text.escape_debug())
            })?;
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns whether `name` may be signed. `com.acme.*` does not match
    /// `com.acme` itself, nor `com.acme-evil.x`.
    pub fn matches(&self, name: &PluginName) -> bool {
        match self.0.strip_suffix(".*") {
            Some(above) => name
                .as_str()
                .strip_prefix(above)
                .is_some_and(|rest| rest.starts_with('.')),
            None => self.0 == "*" || self.0 == name.as_str(),
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl TryFrom<String> for NamePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.0
    }
}

/// A snapshot of whom this host trusts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TrustRoot {
    document: Arc<RootDocument>,
    serials: Arc<Serials>,
    /// The clock when the root was stored.
    stored_at: Option<Timestamp>,
    /// In place of the system clock.
    clock: Option<Timestamp>,
}

/// What a package says about itself that trust depends on.
pub(crate) struct Release<'a> {
    pub(crate) name: &'a PluginName,
    pub(crate) serial: u64,
    pub(crate) digest: Digest,
}

/// Why signatures that hold do not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NotDelegated,
    Revoked { reason: Option<String> },
    Retired,
    BelowMinSerial(u64),
    Threshold { have: u32, need: u32 },
    RevokedDigest { reason: String },
}

/// What signatures are worth.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    pub(crate) trust_level: TrustLevel,
    pub(crate) key_id: KeyId,
    pub(crate) key_name: String,
    pub(crate) warnings: Vec<String>,
}

impl TrustRoot {
    /// The same trust at another time than the system clock's. For tools that
    /// ask what will happen, and for tests.
    pub fn at(self, now: Timestamp) -> Self {
        let clock = Some(now);
        Self { clock, ..self }
    }

    /// What the clock says, but not before the root was stored: a clock that
    /// went back makes nothing valid again.
    pub(crate) fn now(&self) -> Timestamp {
        let clock = self.clock();
        self.stored_at.map_or(clock, |stored| clock.max(stored))
    }

    fn clock(&self) -> Timestamp {
        self.clock.unwrap_or_else(Timestamp::now)
    }

    /// Whether new releases may be installed.
    ///
    /// # Errors
    ///
    /// [`TrustError::Expired`]: what was revoked since the root expired is not
    /// known here.
    pub fn check_not_expired(&self) -> Result<(), TrustError> {
        match self.document.expires {
            Some(end) if end < self.now() => Err(TrustError::Expired {
                end,
                now: self.clock(),
            }),
            _ => Ok(()),
        }
    }

    /// What an operator should know of the root itself, whatever is loaded.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Err(expired) = self.check_not_expired() {
            warnings.push(format!(
                "{expired}: fetch a new one, or check this host's clock; nothing new is installed"
            ));
        }
        if let Some(stored) = self.stored_at.filter(|it| *it > self.clock() + CLOCK_SLACK) {
            warnings.push(format!(
                "this host's clock says {}, and the trust root was stored at {stored}: what has expired since is not noticed before the clock is set",
                self.clock()
            ));
        }
        warnings
    }

    /// The version of the root; 0 when nobody is trusted yet.
    pub fn version(&self) -> u64 {
        self.document.version
    }

    /// The keys that sign roots.
    pub fn root_keys(&self) -> &[PublicKey] {
        &self.document.root_keys
    }

    /// How many of them have to sign a root.
    pub fn root_threshold(&self) -> u32 {
        self.document.root_threshold
    }

    /// Until when new releases may be installed; for ever without a time.
    pub fn expires(&self) -> Option<Timestamp> {
        self.document.expires
    }

    /// Releases that are refused whoever signed them, each with the reason.
    pub fn revoked_digests(&self) -> &BTreeMap<Digest, String> {
        &self.document.revoked_digests
    }

    /// Releases that are accepted although their key is retired or revoked.
    pub fn allowed_digests(&self) -> &BTreeSet<Digest> {
        &self.document.allowed_digests
    }

    /// Every key and what it may sign.
    pub fn delegations(&self) -> &[Delegation] {
        &self.document.release
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &PublicKey> {
        self.document
            .release
            .iter()
            .map(|delegation| &delegation.key)
    }

    /// The lowest serial number of `name` that is no step back.
    pub(crate) fn serial_floor(&self, name: &PluginName) -> u64 {
        self.serials.floor(name, self.min_serial(name))
    }

    /// Whether this host has had the release.
    pub(crate) fn is_known(&self, release: &Release<'_>) -> bool {
        self.serials
            .is_known(release, self.min_serial(release.name))
    }

    pub(crate) fn min_serial(&self, name: &PluginName) -> u64 {
        let delegations = self.document.release.iter();
        let for_name = delegations.filter(|delegation| delegation.may_sign(name));
        for_name
            .filter_map(|delegation| delegation.min_serial)
            .max()
            .unwrap_or(0)
    }

    /// Decides what the signatures of `signers` on a release are worth.
    pub(crate) fn decide(
        &self,
        release: &Release<'_>,
        signers: &[&PublicKey],
    ) -> Result<Decision, Refused> {
        if let Some(reason) = self.document.revoked_digests.get(&release.digest) {
            return Err(Refused::RevokedDigest {
                reason: reason.clone(),
            });
        }
        let has_signed = |delegation: &&Delegation| {
            delegation.may_sign(release.name)
                && signers
                    .iter()
                    .any(|signer| signer.id() == delegation.key.id())
        };
        let delegated: Vec<_> = self.document.release.iter().filter(has_signed).collect();
        let mut usable: Vec<&Delegation> = Vec::new();
        let mut refused = Refused::NotDelegated;
        for delegation in delegated {
            match self.counts(delegation, release) {
                Ok(()) => usable.push(delegation),
                Err(why) => refused = why,
            }
        }
        if usable.is_empty() {
            return Err(refused);
        }
        let signed_with = |delegation: &Delegation| -> u32 {
            let peers = usable
                .iter()
                .filter(|peer| peer.trust_level >= delegation.trust_level);
            u32::try_from(peers.count()).unwrap_or(u32::MAX)
        };
        let satisfied = usable
            .iter()
            .filter(|delegation| signed_with(delegation) >= delegation.threshold)
            .max_by_key(|delegation| delegation.trust_level);
        let Some(chosen) = satisfied else {
            let (have, need) = (signed_with(usable[0]), usable[0].threshold);
            return Err(Refused::Threshold { have, need });
        };
        Ok(Decision {
            trust_level: chosen.trust_level,
            key_id: chosen.key.id(),
            key_name: chosen.key.name().to_owned(),
            warnings: self.warnings_of(chosen),
        })
    }

    fn counts(&self, delegation: &Delegation, release: &Release<'_>) -> Result<(), Refused> {
        if self.document.allowed_digests.contains(&release.digest) {
            return Ok(());
        }
        if let Some(min) = delegation.min_serial.filter(|min| release.serial < *min) {
            return Err(Refused::BelowMinSerial(min));
        }
        let is_known = self.is_known(release);
        match delegation.status {
            KeyStatus::Revoked => Err(Refused::Revoked {
                reason: delegation.reason.clone(),
            }),
            KeyStatus::Retired if !is_known => Err(Refused::Retired),
            KeyStatus::Active if self.has_expired(delegation) && !is_known => Err(Refused::Retired),
            KeyStatus::Active | KeyStatus::Retired => Ok(()),
        }
    }

    fn has_expired(&self, delegation: &Delegation) -> bool {
        delegation.not_after.is_some_and(|end| end < self.now())
    }

    fn warnings_of(&self, chosen: &Delegation) -> Vec<String> {
        let mut warnings = Vec::new();
        let name = chosen.key.name();
        match chosen.status {
            KeyStatus::Active if self.has_expired(chosen) => {
                warnings.push(format!(
                    "the key `{name}` has expired; sign new releases with another"
                ));
            }
            KeyStatus::Active => {}
            KeyStatus::Retired => warnings.push(format!("signed by the retired key `{name}`")),
            KeyStatus::Revoked => {
                warnings.push(format!(
                    "signed by the revoked key `{name}`, allowed by digest"
                ));
            }
        }
        warnings.extend(self.warnings());
        warnings
    }
}

/// Reasons by digest.
pub(crate) type RevokedDigests = BTreeMap<Digest, String>;
