//! The state of a plugin of which several versions are known.

use std::collections::{BTreeMap, HashMap};

use orchestrator_contract::PluginState;

/// How many versions are remembered, of all plugins together.
const VERSIONS_MAX: usize = 10_000;

/// The last state of every version of every plugin.
#[derive(Default)]
pub(super) struct PluginStates {
    of: HashMap<String, BTreeMap<String, PluginState>>,
    versions: usize,
}

impl PluginStates {
    /// Takes note of a change and returns the state that stands for the plugin: the
    /// best one among its versions, because one that runs is enough to be of use.
    pub(super) fn change(&mut self, plugin: &str, version: &str, now: PluginState) -> PluginState {
        let known = self
            .of
            .get_mut(plugin)
            .and_then(|versions| versions.get_mut(version));
        match known {
            Some(state) => *state = now,
            None if self.versions < VERSIONS_MAX => {
                let versions = self.of.entry(plugin.to_owned()).or_default();
                versions.insert(version.to_owned(), now);
                self.versions += 1;
            }
            None => {}
        }
        let versions = self.of.get(plugin).into_iter().flat_map(BTreeMap::values);
        versions
            .copied()
            .max_by_key(|state| rank(*state))
            .unwrap_or(now)
    }
}

/// The more use a plugin in this state is, the higher.
fn rank(state: PluginState) -> usize {
    use PluginState::{
        CrashLoop, Disabled, Discovered, Error, Initialized, Loaded, Running, Starting, Stopped,
        Stopping, Unloaded, Verified,
    };
    const WORST_FIRST: [PluginState; 12] = [
        Error,
        Unloaded,
        Stopped,
        Discovered,
        Verified,
        CrashLoop,
        Stopping,
        Disabled,
        Loaded,
        Initialized,
        Starting,
        Running,
    ];
    WORST_FIRST
        .iter()
        .position(|listed| *listed == state)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_state_of_all_versions_stands_for_the_plugin() {
        use PluginState::{CrashLoop, Error, Running, Stopped};
        let mut states = PluginStates::default();
        assert_eq!(states.change("p", "1.0.0", Running), Running);
        assert_eq!(states.change("p", "9.0.0", Error), Running);
        assert_eq!(states.change("q", "1.0.0", Error), Error);
        assert_eq!(states.change("p", "1.0.0", CrashLoop), CrashLoop);
        assert_eq!(states.change("p", "1.0.0", Stopped), Stopped);
        assert_eq!(states.change("p", "1.0.0", Error), Error);
    }

    #[test]
    fn every_state_has_a_rank_of_its_own() {
        let ranks: std::collections::BTreeSet<_> =
            PluginState::ALL.iter().map(|state| rank(*state)).collect();
        assert_eq!(ranks.len(), PluginState::ALL.len());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut states = PluginStates::default();
        for number in 0..VERSIONS_MAX + 5 {
            let state = states.change("p", &number.to_string(), PluginState::Loaded);
            assert_eq!(state, PluginState::Loaded);
        }
        assert_eq!(states.versions, VERSIONS_MAX);
        assert_eq!(
            states.change("new", "1", PluginState::Error),
            PluginState::Error
        );
        assert_eq!(states.of.len(), 1);
    }
}
