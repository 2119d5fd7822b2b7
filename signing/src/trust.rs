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
mod name_pattern;
mod root_file;
mod serials;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
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
    name_pattern::NamePattern,
    store::TrustStore,
};
pub(crate) use self::{
    root_file::RootDocument,
    serials::{Numbers, Serials},
};
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

/// Why signatures that hold do not count. Where several keys signed, what weighs
/// most is told, of the key it is true of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    NotDelegated { key: String },
    Revoked { key: String, reason: Option<String> },
    Retired { key: String },
    BelowMinSerial(u64),
    Threshold { have: u32, need: u32 },
    RevokedDigest { reason: String },
}

impl Refused {
    fn weight(&self) -> u8 {
        match self {
            Self::NotDelegated { .. } => 0,
            Self::BelowMinSerial(_) => 1,
            Self::Retired { .. } => 2,
            Self::Revoked { .. } => 3,
            Self::Threshold { .. } => 4,
            Self::RevokedDigest { .. } => 5,
        }
    }
}

/// What signatures are worth.
#[derive(Clone, Debug)]
pub(crate) struct Decision {
    pub(crate) trust_level: TrustLevel,
    /// The keys that each give it this level, sorted; the first stands for them.
    pub(crate) publishers: Vec<KeyId>,
    pub(crate) key_name: String,
    /// The names of all keys whose signatures count, of any level, sorted.
    pub(crate) signers: Vec<String>,
    /// The keys, of any level, that count for what they are and not because the
    /// release is allowed by its digest.
    pub(crate) vouchers: Vec<KeyId>,
    pub(crate) warnings: Vec<String>,
}

fn names_of(delegations: &[&Delegation]) -> Vec<String> {
    let names = delegations.iter().map(|it| it.key.name().to_owned());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
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

    /// Whether new releases may come to this host.
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
                "{expired}: fetch a new one, or check this host's clock; nothing new is installed or loaded"
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
        self.with_numbers(name, |numbers| self.serials.floor(name, numbers))
    }

    /// Whether everything that is to be remembered of a release is.
    pub(crate) fn is_recorded(&self, release: &Release<'_>, keys: &[KeyId]) -> bool {
        self.serials.is_recorded(release, keys)
    }

    /// Whether it would soon be forgotten.
    pub(crate) fn is_going(&self, release: &Release<'_>) -> bool {
        self.serials.is_going(release)
    }

    /// Whether this host has had that release.
    pub(crate) fn has_had(&self, release: &Release<'_>) -> bool {
        self.serials.has_had(release)
    }

    /// Whether this host has had any release at all: one that cannot write down what it
    /// has had never has.
    pub(crate) fn remembers(&self) -> bool {
        self.serials.remembers()
    }

    /// Whether this host has had newer releases of the plugin, and never this one.
    pub(crate) fn is_step_back(&self, release: &Release<'_>) -> bool {
        self.with_numbers(release.name, |numbers| {
            self.serials.is_step_back(release, numbers)
        })
    }

    /// Whether this host has had another release of the plugin with the same number.
    pub(crate) fn has_another_of_its_number(&self, release: &Release<'_>) -> bool {
        self.with_numbers(release.name, |numbers| {
            self.serials.has_another_of_its_number(release, numbers)
        })
    }

    fn with_numbers<T>(&self, name: &PluginName, ask: impl FnOnce(&Numbers<'_>) -> T) -> T {
        ask(&Numbers {
            min_serial: self.min_serial(name),
            stands: &|digest, keys| self.stands(digest, keys),
        })
    }

    /// Whether a release is more than what a thief made: it is not revoked, nor are
    /// all keys that counted for it.
    fn stands(&self, digest: &Digest, keys: &[KeyId]) -> bool {
        let is_revoked = |key: &KeyId| {
            let mut delegations = self.document.release.iter();
            delegations.any(|it| it.key.id() == *key && it.status == KeyStatus::Revoked)
        };
        !self.document.revoked_digests.contains_key(digest)
            && (keys.is_empty() || !keys.iter().all(is_revoked))
    }

    fn min_serial(&self, name: &PluginName) -> u64 {
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
        let usable = self.usable(release, signers)?;
        let signed_with = |delegation: &Delegation| -> u32 {
            let peers = usable
                .iter()
                .filter(|peer| peer.trust_level >= delegation.trust_level);
            u32::try_from(peers.count()).unwrap_or(u32::MAX)
        };
        let is_satisfied = |it: &&&Delegation| signed_with(it) >= it.threshold;
        let satisfied: Vec<_> = usable.iter().filter(is_satisfied).copied().collect();
        let Some(trust_level) = satisfied.iter().map(|it| it.trust_level).max() else {
            let (have, need) = (signed_with(usable[0]), usable[0].threshold);
            return Err(Refused::Threshold { have, need });
        };
        let highest = satisfied.iter().filter(|it| it.trust_level == trust_level);
        let mut publishers: Vec<&Delegation> = highest.copied().collect();
        // Of the key alone, so that no change of the root makes another the first.
        publishers.sort_by_key(|it| it.key.id());
        let vouchers = usable.iter().filter(|it| self.vouches(it, release).is_ok());
        Ok(Decision {
            trust_level,
            publishers: publishers.iter().map(|it| it.key.id()).collect(),
            key_name: publishers[0].key.name().to_owned(),
            signers: names_of(&usable),
            vouchers: vouchers.map(|it| it.key.id()).collect(),
            warnings: self.warnings_of(&publishers),
        })
    }

    /// The delegations by which the signatures of `signers` on a release count; at
    /// least one.
    fn usable(
        &self,
        release: &Release<'_>,
        signers: &[&PublicKey],
    ) -> Result<Vec<&Delegation>, Refused> {
        let has_signed =
            |delegation: &Delegation| signers.iter().any(|it| it.id() == delegation.key.id());
        let key = signers.first().map_or("", |key| key.name()).to_owned();
        let mut refused = Refused::NotDelegated { key };
        let mut usable = Vec::new();
        for delegation in &self.document.release {
            if !has_signed(delegation) || !delegation.may_sign(release.name) {
                continue;
            }
            match self.counts(delegation, release) {
                Ok(()) => usable.push(delegation),
                Err(why) if why.weight() > refused.weight() => refused = why,
                Err(_) => {}
            }
        }
        match usable.is_empty() {
            true => Err(refused),
            false => Ok(usable),
        }
    }

    fn counts(&self, delegation: &Delegation, release: &Release<'_>) -> Result<(), Refused> {
        match self.document.allowed_digests.contains(&release.digest) {
            true => Ok(()),
            false => self.vouches(delegation, release),
        }
    }

    fn vouches(&self, delegation: &Delegation, release: &Release<'_>) -> Result<(), Refused> {
        if let Some(min) = delegation.min_serial.filter(|min| release.serial < *min) {
            return Err(Refused::BelowMinSerial(min));
        }
        let key = &delegation.key;
        let name = key.name().to_owned();
        match delegation.status {
            KeyStatus::Revoked => Err(Refused::Revoked {
                key: name,
                reason: delegation.reason.clone(),
            }),
            KeyStatus::Active if !self.has_expired(delegation) => Ok(()),
            // What else it signs by now may be a thief's.
            KeyStatus::Active | KeyStatus::Retired => {
                match self.serials.is_known_by(release, key.id()) {
                    true => Ok(()),
                    false => Err(Refused::Retired { key: name }),
                }
            }
        }
    }

    fn has_expired(&self, delegation: &Delegation) -> bool {
        delegation.not_after.is_some_and(|end| end < self.now())
    }

    /// Nothing needs to be said of a key that has come to its end beside one that
    /// has not.
    fn warnings_of(&self, publishers: &[&Delegation]) -> Vec<String> {
        let end_of = |publisher: &Delegation| {
            let name = publisher.key.name();
            match publisher.status {
                KeyStatus::Active if self.has_expired(publisher) => Some(format!(
                    "the key `{name}` has expired; sign new releases with another"
                )),
                KeyStatus::Active => None,
                KeyStatus::Retired => Some(format!("signed by the retired key `{name}`")),
                KeyStatus::Revoked => Some(format!(
                    "signed by the revoked key `{name}`, allowed by digest"
                )),
            }
        };
        let ends: Option<Vec<_>> = publishers.iter().map(|it| end_of(it)).collect();
        let mut warnings: Vec<_> = ends.into_iter().flatten().take(1).collect();
        warnings.extend(self.warnings());
        warnings
    }
}

/// Reasons by digest.
pub(crate) type RevokedDigests = BTreeMap<Digest, String>;
