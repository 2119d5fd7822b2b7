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

/// Releases that are remembered of a plugin, the newest: well more than lie in a home.
const RELEASES_MAX: usize = 1_024;
/// What all releases may take in the file, in bytes: half of what is read of it.
const SIZE_MAX: usize = 64 * 1024 * 1024;
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
    /// No fewer bytes than it takes in the file.
    fn size(&self) -> usize {
        match self {
            Self::Digest(_) => 160,
            Self::Release(had) => 160 + 80 * had.keys.len(),
        }
    }

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
    /// its minimum, those that only a revoked key vouches for go with it. One of which
    /// nobody knows who vouches for it, from a file of version 1, stays.
    fn highest(&self, numbers: &Numbers<'_>) -> u64 {
        let is_undone = |had: &Had| {
            let has_number = matches!(had, Had::Release(it) if it.serial == self.highest);
            has_number && !had.stands(numbers)
        };
        if numbers.min_serial <= self.min_serial || !self.releases.iter().any(is_undone) {
            return self.highest;
        }
        let standing = self.releases.iter().filter_map(|had| match had {
            Had::Release(release) if had.stands(numbers) => Some(release.serial),
            _ => None,
        });
        standing.max().unwrap_or(0)
    }

    /// Forgets the oldest, but rather not the one with the highest number: it says
    /// whose the number is. There has to be one.
    fn forget_oldest(&mut self) -> Had {
        let has_number = |had: &Had| matches!(had, Had::Release(it) if it.serial == self.highest);
        let oldest = self.releases.iter().position(|had| !has_number(had));
        self.releases.remove(oldest.unwrap_or(0))
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

    /// Whether this host has had that release.
    pub(crate) fn has_had(&self, release: &Release<'_>) -> bool {
        let seen = self.plugins.get(release.name);
        seen.is_some_and(|seen| seen.find(release.digest).is_some())
    }

    pub(crate) fn remembers(&self) -> bool {
        !self.plugins.is_empty()
    }

    /// Whether there is nothing to [record](Self::record).
    pub(crate) fn is_recorded(&self, release: &Release<'_>, keys: &[KeyId]) -> bool {
        let seen = self.plugins.get(release.name);
        match seen.and_then(|seen| seen.find(release.digest)) {
            Some(Had::Release(had)) => keys.iter().all(|key| had.keys.contains(key)),
            Some(Had::Digest(_)) | None => false,
        }
    }

    /// Whether it is among those that are forgotten next, unless it is recorded again.
    pub(crate) fn is_going(&self, release: &Release<'_>) -> bool {
        let Some(seen) = self.plugins.get(release.name) else {
            return false;
        };
        let mut releases = seen.releases.iter();
        let position = releases.position(|had| had.digest() == release.digest);
        position.is_some_and(|at| at + RELEASES_MAX / 2 < seen.releases.len())
    }

    /// Whether this host has had newer releases of the plugin, and never this one.
    pub(crate) fn is_step_back(&self, release: &Release<'_>, numbers: &Numbers<'_>) -> bool {
        let Some(seen) = self.plugins.get(release.name) else {
            return false;
        };
        // Before this host has loaded anything, only what was installed is known here,
        // and of an earlier release of it nothing at all.
        let is_release = |had: &Had| matches!(had, Had::Release(_));
        seen.releases.iter().any(is_release)
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
        while seen.releases.len() > RELEASES_MAX {
            seen.forget_oldest();
        }
    }

    /// Remembers these releases of a plugin, where they are known, as long as what is
    /// recorded next.
    pub(crate) fn keep(&mut self, name: &PluginName, present: &[Digest]) {
        if let Some(seen) = self.plugins.get_mut(name) {
            let is_present = |had: &Had| present.contains(&had.digest());
            seen.releases.sort_by_cached_key(is_present);
        }
    }

    /// Forgets the oldest releases of the plugins with the most, until the file can be
    /// read again.
    pub(crate) fn fit(&mut self) {
        self.fit_in(SIZE_MAX);
    }

    fn fit_in(&mut self, size_max: usize) {
        let releases = self.plugins.values().flat_map(|seen| &seen.releases);
        let mut size: usize = releases.map(Had::size).sum();
        while size > size_max {
            let plugins = self.plugins.values_mut();
            match plugins.max_by_key(|seen| seen.releases.len()) {
                Some(seen) if seen.releases.len() > 1 => size -= seen.forget_oldest().size(),
                _ => return,
            }
        }
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
        let last = 100_000;
        record(&mut serials, last);
        for serial in 0..RELEASES_MAX as u64 {
            record(&mut serials, serial);
        }
        assert!(is_known(&serials, last) && !is_known(&serials, 0));
        assert!(is_known(&serials, 1));
        record(&mut serials, 1);
        record(&mut serials, last - 1);
        assert!(is_known(&serials, 1), "had again");
        assert!(!is_known(&serials, 2));
        assert_eq!(serials.plugins[&name].releases.len(), RELEASES_MAX);
    }

    #[test]
    fn too_many_are_forgotten_where_there_are_most() {
        let [few, many] = ["few", "many"].map(|name| PluginName::parse(name).unwrap());
        let it = key("it");
        let mut serials = Serials::default();
        for (name, count) in [(&few, 5), (&many, 50)] {
            for serial in 0..count {
                with(0, &[], |numbers| {
                    serials.record(&release(name, serial), &[it], numbers);
                });
            }
        }
        let empty = serde_json::to_vec(&Serials::default()).unwrap().len() + 200;
        serials.fit_in(20 * 240);
        let size = serde_json::to_vec(&serials).unwrap().len();
        assert!(size < 20 * 240 + empty, "{size}");
        assert_eq!(serials.plugins[&few].releases.len(), 5);
        assert_eq!(serials.plugins[&many].releases.len(), 15);
        assert!(serials.is_known_by(&release(&many, 49), it));
        serials.fit_in(0);
        assert_eq!(serials.plugins[&many].releases.len(), 1);
        assert!(serials.is_known_by(&release(&many, 49), it));
    }

    /// A plugin with the highest number 50, as a file of version 1 has it.
    fn old(name: &PluginName, had: u64) -> Serials {
        let had = Digest::of(&had.to_be_bytes());
        let seen = serde_json::json!({ "highest": 50, "min_serial": 0, "releases": [had] });
        serde_json::from_value(serde_json::json!({ "plugins": { name.as_str(): seen } })).unwrap()
    }

    #[test]
    fn a_number_of_which_nobody_knows_who_vouches_for_it_stays() {
        let name = PluginName::parse("p").unwrap();
        let (stolen, other) = (key("stolen"), key("other"));
        let mut serials = old(&name, 50);
        let floor = |serials: &Serials, min, revoked: &[KeyId]| {
            with(min, revoked, |numbers| serials.floor(&name, numbers))
        };
        assert_eq!(floor(&serials, 10, &[stolen]), 50);
        with(10, &[stolen], |numbers| {
            serials.record(&release(&name, 11), &[other], numbers);
        });
        assert_eq!(floor(&serials, 20, &[stolen]), 50);
        with(10, &[], |numbers| {
            serials.record(&release(&name, u64::MAX), &[stolen], numbers);
        });
        assert_eq!(floor(&serials, 20, &[]), u64::MAX);
        assert_eq!(floor(&serials, 20, &[stolen]), 20, "a thief's is known");
    }

    /// A version beside the newest was never written down by a host that did not yet
    /// do so when it loads.
    #[test]
    fn nothing_is_a_step_back_before_a_host_of_an_earlier_release_has_loaded() {
        let name = PluginName::parse("p").unwrap();
        let mut serials = old(&name, 50);
        let is_step_back = |serials: &Serials, serial| {
            with(0, &[], |numbers| {
                serials.is_step_back(&release(&name, serial), numbers)
            })
        };
        assert!(!is_step_back(&serials, 40));
        for serial in [40, 50] {
            with(0, &[], |numbers| {
                serials.record(&release(&name, serial), &[key("it")], numbers);
            });
        }
        assert!(is_step_back(&serials, 39) && !is_step_back(&serials, 40));
    }
}
