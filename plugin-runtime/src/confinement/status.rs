//! What people and programs see of a plugin's confinement.

use orchestrator_sandbox::{Layer, Layers, SandboxReport};
use serde::Serialize;

/// What holds a native plugin to its grants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SandboxStatus {
    /// Whether it is confined at all.
    pub state: Sandbox,
    /// The layers in force, weakest first: `landlock`, `seccomp`, `processes`, `network`,
    /// `root`.
    pub in_force: Vec<&'static str>,
    /// The layers that were wanted and are not there.
    pub absent: Vec<AbsentLayer>,
}

/// Whether a native plugin is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sandbox {
    /// By the layers in force.
    Confined,
    /// It has the rights of the host's user, because it is trusted so far.
    Unconfined,
    /// It cannot be, and is not started.
    Refused,
}

/// A layer that was wanted and is not in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AbsentLayer {
    /// Which one.
    pub layer: &'static str,
    /// Why not.
    pub reason: String,
    /// What to change on the host; empty when nothing is wrong there.
    pub help: &'static str,
}

impl SandboxStatus {
    pub(crate) fn unconfined() -> Self {
        Self::without_layers(Sandbox::Unconfined)
    }

    pub(crate) fn refused() -> Self {
        Self::without_layers(Sandbox::Refused)
    }

    fn without_layers(state: Sandbox) -> Self {
        Self {
            state,
            in_force: Vec::new(),
            absent: Vec::new(),
        }
    }

    pub(super) fn of(report: &SandboxReport) -> Self {
        let absent = report.absent().iter().map(|absent| AbsentLayer {
            layer: name(absent.layer),
            reason: absent.reason.clone(),
            help: absent.help,
        });
        Self {
            state: Sandbox::Confined,
            in_force: each(report.in_force()).map(name).collect(),
            absent: absent.collect(),
        }
    }
}

/// Those of `layers`, weakest first.
pub(super) fn each(layers: Layers) -> impl Iterator<Item = Layer> {
    let all = Layer::ALL.into_iter();
    all.filter(move |layer| layers.contains(*layer))
}

/// As programs read it.
pub(super) fn name(layer: Layer) -> &'static str {
    match layer {
        Layer::Landlock => "landlock",
        Layer::Seccomp => "seccomp",
        Layer::Processes => "processes",
        Layer::Network => "network",
        Layer::Root => "root",
        _ => "other",
    }
}
