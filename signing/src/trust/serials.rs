//! The highest serial number of every plugin this host has installed, and its
//! releases.
//!
//! The number is what makes an old, correctly signed release recognisable as a
//! step back. The releases are what a retired key goes on vouching for: whoever
//! stole it may choose a number, but not what the host has had. Both survive
//! the removal of the plugin.

use std::collections::BTreeMap;

use orchestrator_manifest::PluginName;
use serde::{Deserialize, Serialize};

use super::Release;
use crate::digest::Digest;

/// Releases that are remembered of a plugin, the newest.
const RELEASES_MAX: usize = 64;

/// Serial numbers by plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Serials {
    plugins: BTreeMap<PluginName, Seen>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    highest: u64,
    /// The root's minimum at that time. A higher one later replaces `highest`.
    min_serial: u64,
    /// The digests of the releases' statements, the newest at the end.
    #[serde(default)]
    releases: Vec<Digest>,
}

impl Serials {
    /// Whether this host has had that release. What a stolen key made it
    /// believe before the minimum rose does not count.
    pub(crate) fn is_known(&self, release: &Release<'_>, min_serial: u64) -> bool {
        let seen = self.plugins.get(release.name);
        seen.is_some_and(|seen| seen.releases.contains(&release.digest))
            && release.serial <= self.floor(release.name, min_serial)
    }

    /// The lowest serial number of `name` that is no step back, given the
    /// root's minimum for it.
    pub(crate) fn floor(&self, name: &PluginName, min_serial: u64) -> u64 {
        match self.plugins.get(name) {
            Some(seen) if min_serial > seen.min_serial => min_serial,
            Some(seen) => seen.highest.max(min_serial),
            None => min_serial,
        }
    }

    /// Remembers an installed release. A step back that was allowed becomes
    /// the new highest only when the root's minimum asked for it.
    pub(crate) fn record(&mut self, release: &Release<'_>, min_serial: u64) {
        let floor = self.floor(release.name, min_serial);
        let highest = match self.plugins.get(release.name) {
            Some(seen) if min_serial > seen.min_serial => release.serial,
            _ => floor.max(release.serial),
        };
        let seen = self.plugins.entry(release.name.clone()).or_default();
        seen.highest = highest;
        seen.min_serial = min_serial;
        seen.releases.retain(|digest| *digest != release.digest);
        seen.releases.push(release.digest);
        let surplus = seen.releases.len().saturating_sub(RELEASES_MAX);
        seen.releases.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_minimum_recovers_from_an_enormous_serial() {
        let name = PluginName::parse("p").unwrap();
        let mut serials = Serials::default();
        let release = |serial| Release {
            name: &name,
            serial,
            digest: Digest::of(b"it"),
        };
        serials.record(&release(3), 0);
        assert_eq!(serials.floor(&name, 0), 3);
        serials.record(&release(u64::MAX), 0);
        assert_eq!(serials.floor(&name, 0), u64::MAX);
        assert_eq!(serials.floor(&name, 10), 10, "a new minimum replaces it");
        serials.record(&release(12), 10);
        assert_eq!(
            serials.floor(&name, 10),
            12,
            "the same minimum does not do so again"
        );
        serials.record(&release(11), 10);
        assert_eq!(
            serials.floor(&name, 10),
            12,
            "an allowed step back lowers nothing"
        );
    }

    #[test]
    fn the_newest_releases_are_remembered_and_no_others() {
        let name = PluginName::parse("p").unwrap();
        let release = |serial: u64| Release {
            name: &name,
            serial,
            digest: Digest::of(&serial.to_be_bytes()),
        };
        let mut serials = Serials::default();
        for serial in 0..=RELEASES_MAX as u64 {
            serials.record(&release(serial), 0);
        }
        assert!(!serials.is_known(&release(0), 0));
        assert!(serials.is_known(&release(1), 0));
        serials.record(&release(1), 0);
        serials.record(&release(100), 0);
        assert!(serials.is_known(&release(1), 0), "installed again");
        assert!(!serials.is_known(&release(2), 0));
        assert!(!serials.is_known(&release(100), 50), "a new minimum");
        assert_eq!(serials.plugins[&name].releases.len(), RELEASES_MAX);
    }
}
