//! Sections of the configuration that name no plugin and no phase.
//!
//! No error: one file may serve several homes, and a plugin may come later. But
//! a misspelt name must not pass in silence for a policy, or for a plugin that
//! is kept from running.

use std::collections::{BTreeMap, BTreeSet};

use orchestrator_plugin_runtime::PluginStatus;

use crate::{
    config::PluginConfig,
    pipeline::words::{nearest, quoted},
};

/// What to tell about sections that name nothing.
pub(super) fn strays(
    configured: &BTreeMap<String, PluginConfig>,
    found: &[PluginStatus],
) -> Vec<String> {
    let mut phases: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for plugin in found {
        let names = plugin.phases.iter().map(|phase| phase.name.as_str());
        phases.entry(&plugin.id).or_default().extend(names);
    }
    let mut strays = Vec::new();
    for (name, plugin) in configured {
        let Some(of_plugin) = phases.get(name.as_str()) else {
            let effect = match plugin.disabled {
                true => "nothing is disabled",
                false => "it has no effect",
            };
            let known = phases.keys().copied();
            strays.push(stray(&["plugins", name], "plugin", effect, known));
            continue;
        };
        for phase in plugin.phases.keys() {
            if !of_plugin.contains(phase.as_str()) {
                let place = ["plugins", name, "phases", phase];
                let known = of_plugin.iter().copied();
                strays.push(stray(&place, "phase", "it has no effect", known));
            }
        }
    }
    strays
}

fn stray<'a>(
    place: &[&str],
    kind: &str,
    effect: &str,
    known: impl Iterator<Item = &'a str>,
) -> String {
    let name = place.last().copied().unwrap_or_default();
    let section = quoted(&format!("[{}]", place.join(".")));
    let meant = match nearest(name, known) {
        Some(word) => format!("; did you mean `{word}`?"),
        None => String::new(),
    };
    format!("{section} names no {kind} that was found, so {effect}{meant}")
}
