//! The highest serial number of every plugin this host has had, and its
//! releases.
//!
//! The number is what makes an old, correctly signed release recognisable as a
//! step back. The releases, each with the keys that counted for it, are what a
//! retired key goes on vouching for: whoever stole it may choose a number and
//! sign what the host has had, but not what the key had signed by then. Both
//! survive the removal of the plugin. `docs/adr/0015-what-a-host-has-had.md`
//! has the rules.

use std::collections::BTreeMap;

use orchestrator_manifest::PluginName;
use serde::{Deserialize, Serialize};

use super::Release;
use crate::{digest::Digest, dsse::SIGNATURES_MAX, key::KeyId};

/// Releases that are remembered of a plugin, the newest.
const RELEASES_MAX: usize = 64;
/// Of the file. Version 1 had none, and knew releases by their digest alone.
const VERSION: u32 = 2;

/// Serial numbers by plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Serials {
    #[serde(default = "first_version")]
    version: u32,
    plugins: BTreeMap<PluginName, Seen>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    highest: u64,
    /// The root's minimum at that time. A higher one asks anew whose numbers count.
    min_serial: u64,
    /// The newest at the end.
    #[serde(default)]
    releases: Vec<Had>,
}

/// A release that this host has had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Had {
    /// From a file of version 1: who signed it is not known before it is
    /// verified again.
    Digest(Digest),
    Release(HadRelease),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HadRelease {
    /// Of the statement.
    sha256: Digest,
    serial: u64,
    /// Those that counted while they were active. None where it was only allowed by
    /// its digest.
    keys: Vec<KeyId>,
}

/// What the root says of numbers.
pub(crate) struct Numbers<'a> {
    /// The lowest number that it accepts for the plugin.
    pub(crate) min_serial: u64,
    /// Whether a release with that digest, for which those keys counted, is more
    /// than the work of a thief.
    pub(crate) stands: &'a dyn Fn(&Digest, &[KeyId]) -> bool,
}

fn first_version() -> u32 {
    1
}

impl Default for Serials {
    fn default() -> Self {
        Self {
            version: VERSION,
            plugins: BTreeMap::new(),
        }
    }
}

impl Had {
    fn digest(&self) -> Digest {
        match self {
            Self::Digest(digest) => *digest,
            Self::Release(release) => release.sha256,
        }
    }

    fn stands(&self, numbers: &Numbers<'_>) -> bool {
        match self {
            Self::Digest(_) => true,
            Self::Release(had) => (numbers.stands)(&had.sha256, &had.keys),
        }
    }
}

impl Seen {
    fn find(&self, digest: Digest) -> Option<&Had> {
        self.releases.iter().find(|had| had.digest() == digest)
    }

    /// The highest number that counts. Numbers only rise, but when the root raises
    /// its minimum, those that only a revoked key vouches for go with it.
    fn highest(&self, numbers: &Numbers<'_>) -> u64 {
        if numbers.min_serial <= self.min_serial {
            return self.highest;
        }
        let standing = self.releases.iter().filter_map(|had| match had {
            Had::Release(release) if had.stands(numbers) => Some(release.serial),
            _ => None,
        });
        standing.max().unwrap_or(0)
    }

    /// Forgets the oldest of too many, never the one with the highest number: it
    /// says whose the number is.
    fn forget_oldest(&mut self) {
        while self.releases.len() > RELEASES_MAX {
            let highest = self.highest;
            let has_number = |had: &Had| matches!(had, Had::Release(it) if it.serial == highest);
            let oldest = self.releases.iter().position(|had| !has_number(had));
            self.releases.remove(oldest.unwrap_or(0));
        }
    }
}

impl Serials {
    /// Why a file cannot be used, although it can be read.
    pub(crate) fn check(&self) -> Result<(), String> {
        match self.version {
            1..=VERSION => Ok(()),
            version => Err(format!("version {version}")),
        }
    }

    /// Whether this host has had that release while `key` counted for it.
    pub(crate) fn is_known_by(&self, release: &Release<'_>, key: KeyId) -> bool {
        let seen = self.plugins.get(release.name);
        match seen.and_then(|seen| seen.find(release.digest)) {
            Some(Had::Release(had)) => had.keys.contains(&key),
            Some(Had::Digest(_)) => true,
            None => false,
        }
    }

    /// Whether there is nothing to [record](Self::record).
    pub(crate) fn is_recorded(&self, release: &Release<'_>, keys: &[KeyId]) -> bool {
        let seen = self.plugins.get(release.name);
        match seen.and_then(|seen| seen.find(release.digest)) {
            Some(Had::Release(had)) => keys.iter().all(|key| had.keys.contains(key)),
            Some(Had::Digest(_)) | None => false,
        }
    }

    /// Whether this host has had newer releases of the plugin, and never this one.
    pub(crate) fn is_step_back(&self, release: &Release<'_>, numbers: &Numbers<'_>) -> bool {
        let Some(seen) = self.plugins.get(release.name) else {
            return false;
        };
        // A host of an earlier release remembered no digests.
        !seen.releases.is_empty()
            && release.serial < seen.highest(numbers)
            && seen.find(release.digest).is_none()
    }

    /// Whether this host has had another release of the plugin with the same number,
    /// and never this one.
    pub(crate) fn has_another_of_its_number(
        &self,
        release: &Release<'_>,
        numbers: &Numbers<'_>,
    ) -> bool {
        let Some(seen) = self.plugins.get(release.name) else {
            return false;
        };
        let has_number = |had: &Had| {
            let has_it = matches!(had, Had::Release(it) if it.serial == release.serial);
            has_it && had.stands(numbers)
        };
        seen.find(release.digest).is_none() && seen.releases.iter().any(has_number)
    }

    /// The lowest serial number of `name` that is no step back.
    pub(crate) fn floor(&self, name: &PluginName, numbers: &Numbers<'_>) -> u64 {
        let highest = self.plugins.get(name).map(|seen| seen.highest(numbers));
        highest.unwrap_or(0).max(numbers.min_serial)
    }

    /// Remembers a release that was accepted, and the keys that counted for it. A
    /// step back that was allowed lowers no number.
    pub(crate) fn record(&mut self, release: &Release<'_>, keys: &[KeyId], numbers: &Numbers<'_>) {
        self.version = VERSION;
        let seen = self.plugins.entry(release.name.clone()).or_default();
        let highest = seen.highest(numbers).max(release.serial);
        if numbers.min_serial > seen.min_serial {
            // A key that is trusted again must not bring its numbers back.
            seen.releases.retain(|had| had.stands(numbers));
        }
        let mut all = match seen.find(release.digest) {
            Some(Had::Release(had)) => had.keys.clone(),
            Some(Had::Digest(_)) | None => Vec::new(),
        };
        all.extend(keys);
        all.sort_unstable();
        all.dedup();
        all.truncate(SIGNATURES_MAX);
        seen.highest = highest;
        seen.min_serial = numbers.min_serial.max(seen.min_serial);
        seen.releases.retain(|had| had.digest() != release.digest);
        seen.releases.push(Had::Release(HadRelease {
            sha256: release.digest,
            serial: release.serial,
            keys: all,
        }));
        seen.forget_oldest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(name: &PluginName, serial: u64) -> Release<'_> {
        Release {
            name,
            serial,
            digest: Digest::of(&serial.to_be_bytes()),
        }
    }

    fn key(of: &str) -> KeyId {
        KeyId::parse(&Digest::of(of.as_bytes()).to_string()).unwrap()
    }

    /// What a root says that revokes the keys named `revoked`.
    fn with<T>(min_serial: u64, revoked: &[KeyId], ask: impl FnOnce(&Numbers<'_>) -> T) -> T {
        let stands = |_: &Digest, keys: &[KeyId]| !keys.iter().all(|key| revoked.contains(key));
        ask(&Numbers {
            min_serial,
            stands: &stands,
        })
    }

    #[test]
    fn only_what_revoked_keys_vouch_for_goes_when_the_minimum_rises() {
        let name = PluginName::parse("p").unwrap();
        let (stolen, other) = (key("stolen"), key("other"));
        let mut serials = Serials::default();
        with(0, &[], |numbers| {
            serials.record(&release(&name, 50), &[other, stolen], numbers);
            serials.record(&release(&name, u64::MAX), &[stolen], numbers);
        });
        let floor = |serials: &Serials, min, revoked: &[KeyId]| {
            with(min, revoked, |numbers| serials.floor(&name, numbers))
        };
        assert_eq!(floor(&serials, 10, &[]), u64::MAX, "a minimum alone");
        assert_eq!(
            floor(&serials, 0, &[stolen]),
            u64::MAX,
            "a revocation alone"
        );
        assert_eq!(
            floor(&serials, 10, &[stolen]),
            50,
            "another vouches for it too"
        );
        assert_eq!(floor(&serials, 60, &[stolen]), 60);
        with(10, &[stolen], |numbers| {
            serials.record(&release(&name, 51), &[other], numbers);
            serials.record(&release(&name, 49), &[other], numbers);
        });
        assert_eq!(floor(&serials, 10, &[]), 51, "nothing comes back");
        assert_eq!(floor(&serials, 20, &[]), 51);
        assert_eq!(floor(&serials, 0, &[]), 51, "nor falls with the minimum");
        assert!(!serials.is_known_by(&release(&name, u64::MAX), stolen));
        assert!(serials.is_known_by(&release(&name, 50), stolen));
    }

    #[test]
    fn the_newest_releases_are_remembered_and_the_one_with_the_highest_number() {
        let name = PluginName::parse("p").unwrap();
        let it = key("it");
        let mut serials = Serials::default();
        let is_known = |serials: &Serials, serial| serials.is_known_by(&release(&name, serial), it);
        let record = |serials: &mut Serials, serial| {
            with(0, &[], |numbers| {
                serials.record(&release(&name, serial), &[it], numbers);
            });
        };
        let last = 1_000;
        record(&mut serials, last);
        for serial in 0..RELEASES_MAX as u64 {
            record(&mut serials, serial);
        }
        assert!(is_known(&serials, last) && !is_known(&serials, 0));
        assert!(is_known(&serials, 1));
        record(&mut serials, 1);
        record(&mut serials, 100);
        assert!(is_known(&serials, 1), "had again");
        assert!(!is_known(&serials, 2));
        assert_eq!(serials.plugins[&name].releases.len(), RELEASES_MAX);
        let step_back = |serial| {
            with(0, &[], |numbers| {
                serials.is_step_back(&release(&name, serial), numbers)
            })
        };
        assert!(step_back(2) && !step_back(1) && !step_back(last));
    }
}
