//! The highest serial number of every plugin this host has installed.
//!
//! It is what makes an old, correctly signed release recognisable as a step
//! back. It survives the removal of the plugin.

use std::collections::BTreeMap;

use orchestrator_manifest::PluginName;
use serde::{Deserialize, Serialize};

/// Serial numbers by plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Serials {
    plugins: BTreeMap<PluginName, Seen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seen {
    highest: u64,
    /// The root's minimum at that time. A higher one later replaces `highest`.
    min_serial: u64,
}

impl Serials {
    /// Whether this host has had that release or a later one. What a stolen
    /// key made it believe before the minimum rose does not count.
    pub(crate) fn is_known(&self, name: &PluginName, serial: u64, min_serial: u64) -> bool {
        self.plugins.contains_key(name) && serial <= self.floor(name, min_serial)
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
    pub(crate) fn record(&mut self, name: &PluginName, serial: u64, min_serial: u64) {
        let highest = self.floor(name, min_serial).max(serial);
        let highest = match self.plugins.get(name) {
            Some(seen) if min_serial > seen.min_serial => serial,
            _ => highest,
        };
        self.plugins.insert(
            name.clone(),
            Seen {
                highest,
                min_serial,
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_minimum_recovers_from_an_enormous_serial() {
        let name = PluginName::parse("p").unwrap();
        let mut serials = Serials::default();
        serials.record(&name, 3, 0);
        assert_eq!(serials.floor(&name, 0), 3);
        serials.record(&name, u64::MAX, 0);
        assert_eq!(serials.floor(&name, 0), u64::MAX);
        assert_eq!(serials.floor(&name, 10), 10, "a new minimum replaces it");
        serials.record(&name, 12, 10);
        assert_eq!(
            serials.floor(&name, 10),
            12,
            "the same minimum does not do so again"
        );
        serials.record(&name, 11, 10);
        assert_eq!(
            serials.floor(&name, 10),
            12,
            "an allowed step back lowers nothing"
        );
    }
}
