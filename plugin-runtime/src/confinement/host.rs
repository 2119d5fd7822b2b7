//! What this host can enforce, and so which plugins it can run.

use orchestrator_sandbox::{Layer, Layers, SandboxReport, probe};
use orchestrator_signing::TrustLevel;
use serde::Serialize;

use super::{
    minimum,
    status::{each, name},
    terms,
};
use crate::settings::SandboxSettings;

/// What this host can enforce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HostConfinement {
    /// Every layer, weakest first.
    pub layers: Vec<LayerOfHost>,
    /// Every trust level, least trusted first.
    pub levels: Vec<LevelOfHost>,
}

/// A layer, as this host has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LayerOfHost {
    /// `landlock`, `seccomp`, `processes`, `network` or `root`.
    pub layer: &'static str,
    /// What it is, in words.
    pub description: String,
    /// Whether the host can put it in force.
    pub works: bool,
    /// Why it cannot; empty when it can.
    pub reason: String,
    /// What to change; empty when it can.
    pub help: &'static str,
}

/// A trust level, as this host can run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LevelOfHost {
    /// 1, 2 or 3.
    pub level: u8,
    /// Whether its native plugins can run.
    pub runs: bool,
    /// Whether they are confined when they do.
    pub confined: bool,
    /// The layers without which none of them runs.
    pub needs: Vec<&'static str>,
    /// Those of them that the host does not have.
    pub missing: Vec<&'static str>,
    /// The layers that they get.
    pub gets: Vec<&'static str>,
}

/// What this host can enforce. Blocks, the first time for some milliseconds: layers are
/// tried, each on a process that ends at once.
pub fn confinement_of_host(settings: &SandboxSettings) -> HostConfinement {
    of_report(&probe(), settings)
}

fn of_report(report: &SandboxReport, settings: &SandboxSettings) -> HostConfinement {
    let there = report.in_force();
    let layer = |layer: Layer| {
        let mut absent = report.absent().iter();
        let absent = absent.find(|absent| absent.layer == layer);
        LayerOfHost {
            layer: name(layer),
            description: layer.to_string(),
            works: there.contains(layer),
            reason: absent.map_or_else(String::new, |absent| absent.reason.clone()),
            help: absent.map_or("", |absent| absent.help),
        }
    };
    let level = |level: TrustLevel| {
        let terms = terms(level, settings);
        let given = |wanted: Layers| each(wanted).filter(|it| there.contains(*it)).map(name);
        let missing = each(minimum(level)).filter(|it| !there.contains(*it));
        let missing: Vec<_> = missing.map(name).collect();
        LevelOfHost {
            level: level.number(),
            runs: missing.is_empty(),
            confined: terms.is_some(),
            needs: each(minimum(level)).map(name).collect(),
            missing,
            gets: terms.map_or_else(Vec::new, |terms| given(terms.wanted).collect()),
        }
    };
    HostConfinement {
        layers: Layer::ALL.map(layer).into(),
        levels: [
            TrustLevel::Untrusted,
            TrustLevel::Partner,
            TrustLevel::Internal,
        ]
        .map(level)
        .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_layers_runs_what_it_trusts_and_nothing_else() {
        let host = of_report(&SandboxReport::default(), &SandboxSettings::default());
        let runs: Vec<_> = host.levels.iter().map(|it| (it.level, it.runs)).collect();
        assert_eq!(runs, [(1, false), (2, false), (3, true)]);
        assert_eq!(host.levels[0].missing, host.levels[0].needs);
        assert_eq!(host.levels[1].missing, ["landlock", "seccomp"]);
        assert!(!host.levels[2].confined);
        assert!(host.layers.iter().all(|layer| !layer.works));
    }
}
