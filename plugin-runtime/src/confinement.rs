//! What holds a native plugin to what it was granted.
//!
//! ```text
//! grants ── granted.rs ──► what the kernel shall allow ──┐
//! trust level ── terms ──► layers: at least, at best ────┴─► Hold ──► every process
//! ```
//!
//! | trust level | at least | at best |
//! |---|---|---|
//! | 1 | every layer | every layer |
//! | 2 | landlock and the filter of system calls | every layer |
//! | 3 | nothing | nothing; every layer with `runtime.sandbox.level3 = "confined"` |

mod granted;
mod host;
mod status;

use std::{ffi::OsString, fmt};

use orchestrator_manifest::{Capability, Destination, Token};
use orchestrator_sandbox::{
    Confinement, ConfinementError, Grants, Layer, Layers, Network, SandboxReport, Spec,
    counts_processes,
};
use orchestrator_signing::TrustLevel;

use self::{
    granted::{Allowed, Holder, Reach, holder},
    status::each,
};
pub use self::{
    host::{HostConfinement, LayerOfHost, LevelOfHost, confinement_of_host},
    status::{AbsentLayer, Sandbox, SandboxStatus},
};
use crate::{
    egress::egress_variables,
    learn::Lessons,
    settings::{Level3, SandboxSettings},
};

/// What holds the processes of one plugin to its grants. Made once, for any number of
/// processes.
pub(crate) struct Hold {
    confinement: Option<Confinement>,
    /// Of the host's environment, what was granted.
    variables: Vec<(String, OsString)>,
    /// What it reaches by the proxy; empty where it needs none.
    destinations: Vec<Destination>,
    /// Where it is not held but observed: who takes note.
    lessons: Option<Lessons>,
    has_proxy: bool,
    /// The lowest trust level that this is enough for.
    pub(crate) enough_for: TrustLevel,
    pub(crate) status: SandboxStatus,
    /// The grants that the kernel holds the plugin to.
    pub(crate) by_kernel: Vec<Capability>,
    /// Those that nothing holds it to.
    pub(crate) by_nobody: Vec<Capability>,
}

/// Which layers a plugin gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Terms {
    minimum: Layers,
    wanted: Layers,
}

/// `None` is no confinement at all.
fn terms(level: TrustLevel, settings: &SandboxSettings) -> Option<Terms> {
    let wanted = Layers::ALL;
    let minimum = minimum(level);
    match (level, settings.level3) {
        (TrustLevel::Internal, Level3::Unconfined) => None,
        _ => Some(Terms { minimum, wanted }),
    }
}

/// Whether native plugins of the level are confined.
pub(crate) fn is_confined(level: TrustLevel, settings: &SandboxSettings) -> bool {
    terms(level, settings).is_some()
}

/// Without these no plugin of the level starts.
fn minimum(level: TrustLevel) -> Layers {
    match level {
        TrustLevel::Untrusted => Layers::ALL,
        TrustLevel::Partner => Layers::FILTERS,
        TrustLevel::Internal => Layers::NONE,
    }
}

impl Hold {
    /// Opens what was granted to a plugin of this trust level, besides what its program
    /// `needs`. Blocks, the first time for some milliseconds.
    ///
    /// # Errors
    ///
    /// When the host cannot give the layers that the trust level asks for, and when a
    /// grant cannot be enforced or a granted path cannot be opened.
    pub(crate) fn new(
        level: TrustLevel,
        settings: &SandboxSettings,
        capabilities: &[Capability],
        needs: Grants,
    ) -> Result<Self, ConfinementError> {
        let held = match terms(level, settings) {
            Some(terms) => Some(confine(terms, Allowed::new(needs, capabilities))?),
            None => None,
        };
        let (confinement, allowed) = held.unzip();
        let report = confinement.as_ref().map(Confinement::report);
        let layers = report.map_or(Layers::NONE, SandboxReport::in_force);
        let holds = |wanted: Holder| -> Vec<Capability> {
            let of = |capability: &&Capability| holder(capability, layers) == wanted;
            capabilities.iter().filter(of).cloned().collect()
        };
        Ok(Self {
            by_kernel: holds(Holder::Kernel),
            by_nobody: holds(Holder::Nobody),
            enough_for: enough_for(layers, allowed.as_ref().map(|it| &it.reach)),
            status: report.map_or_else(SandboxStatus::unconfined, SandboxStatus::of),
            variables: granted::variables(capabilities),
            has_proxy: matches!(
                &allowed,
                Some(Allowed {
                    reach: Reach::Granted(_),
                    ..
                })
            ),
            destinations: match allowed.map(|allowed| allowed.reach) {
                Some(Reach::Granted(destinations)) => destinations,
                _ => Vec::new(),
            },
            lessons: None,
            confinement,
        })
    }

    /// Holds a plugin to nothing, and has `lessons` take note of what it does. It gets what
    /// `capabilities` name of the host's environment. Blocks, the first time for some
    /// milliseconds.
    ///
    /// # Errors
    ///
    /// When the host cannot filter system calls.
    pub(crate) fn observing(
        lessons: &Lessons,
        capabilities: &[Capability],
        needs: Grants,
    ) -> Result<Self, ConfinementError> {
        let (minimum, wanted) = (Layers::NONE, Layers::ALL);
        let observed = |network| {
            let grants = needs.clone().observed().network(network);
            Confinement::new(&grants, minimum, wanted)
        };
        let (confinement, has_proxy) = match observed(Network::Gateway) {
            Ok(confinement) => (confinement, true),
            // Then connections are seen, and no names.
            Err(ConfinementError::Layer { .. }) => (observed(Network::Unrestricted)?, false),
            Err(error) => return Err(error),
        };
        Ok(Self {
            by_kernel: Vec::new(),
            by_nobody: capabilities.to_vec(),
            // It is not for trust to take it away.
            enough_for: TrustLevel::Untrusted,
            status: SandboxStatus::unconfined(),
            variables: granted::variables(capabilities),
            destinations: Vec::new(),
            lessons: Some(lessons.clone()),
            has_proxy,
            confinement: Some(confinement),
        })
    }

    /// The same process, held to what was granted.
    pub(crate) fn onto(&self, mut spec: Spec) -> Spec {
        for (name, value) in &self.variables {
            spec = spec.variable(name, value);
        }
        if self.has_proxy {
            for (name, value) in egress_variables() {
                spec = spec.variable(name, value);
            }
        }
        match &self.confinement {
            Some(confinement) => spec.confinement(confinement),
            None => spec,
        }
    }

    /// Whether its processes have a way out by the proxy.
    pub(crate) fn has_proxy(&self) -> bool {
        self.has_proxy
    }

    /// Who takes note of what its processes do.
    pub(crate) fn lessons(&self) -> Option<&Lessons> {
        self.lessons.as_ref()
    }

    /// What its processes reach by the proxy; empty where they need none.
    pub(crate) fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// Whether the kernel ends its processes at calls that nothing grants.
    pub(crate) fn filters_calls(&self) -> bool {
        self.has(Layer::Seccomp)
    }

    /// Whether its processes have their own count of processes, which the kernel bounds.
    pub(crate) fn counts_processes(&self) -> bool {
        self.has(Layer::Processes) && counts_processes()
    }

    /// Whether its processes have room for files of their own and nowhere else to write.
    ///
    /// # Errors
    ///
    /// Where else they can.
    pub(crate) fn holds_disk(&self, granted: &[Capability]) -> Result<(), &'static str> {
        if self.lessons.is_some() {
            // It is held to nothing, and uses what it would have.
            return Ok(());
        }
        if !self.has(Layer::Root) {
            return Err("without a private root the plugin can write elsewhere");
        }
        if granted.iter().any(|it| it.token() == Token::FileWrite) {
            return Err(
                "it was granted `file:write`, and files there are on a disk that others \
                        use too; give it a directory on a file system with a quota",
            );
        }
        Ok(())
    }

    /// Whether the room for files that its processes have is nobody else's: where they are
    /// observed, they have the machine's.
    pub(crate) fn has_own_disk(&self) -> bool {
        self.lessons.is_none() && self.has(Layer::Root)
    }

    fn has(&self, layer: Layer) -> bool {
        let report = self.confinement.as_ref().map(Confinement::report);
        report.is_some_and(|report| report.in_force().contains(layer))
    }
}

impl fmt::Debug for Hold {
    /// Without the values of variables, which may be secrets.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Hold")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Puts layers in force. Where none is needed, a host without networks to give lets a
/// plugin have its own.
fn confine(terms: Terms, allowed: Allowed) -> Result<(Confinement, Allowed), ConfinementError> {
    let Terms { minimum, wanted } = terms;
    match Confinement::new(&allowed.grants, minimum, wanted) {
        Err(ConfinementError::Layer { .. }) if minimum == Layers::NONE => {
            let allowed = allowed.without_proxy();
            let confinement = Confinement::new(&allowed.grants, minimum, wanted)?;
            Ok((confinement, allowed))
        }
        confinement => Ok((confinement?, allowed)),
    }
}

/// The lowest level whose least layers are all in force. What was granted the whole
/// network needs none of its own.
fn enough_for(layers: Layers, reach: Option<&Reach>) -> TrustLevel {
    let layers = match reach {
        Some(Reach::Everything) => layers.with(Layer::Network),
        _ => layers,
    };
    let is_enough = |level: &TrustLevel| each(minimum(*level)).all(|it| layers.contains(it));
    [TrustLevel::Untrusted, TrustLevel::Partner]
        .into_iter()
        .find(is_enough)
        .filter(|_| reach != Some(&Reach::MoreThanGranted))
        .unwrap_or(TrustLevel::Internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lower_level_has_more_layers_and_only_the_third_may_have_none() {
        let unconfined = SandboxSettings::default();
        let confined = SandboxSettings {
            level3: Level3::Confined,
            ..SandboxSettings::default()
        };
        let of = |level, settings| terms(level, settings).map(|terms| terms.minimum);
        for settings in [&unconfined, &confined] {
            assert_eq!(of(TrustLevel::Untrusted, settings), Some(Layers::ALL));
            assert_eq!(of(TrustLevel::Partner, settings), Some(Layers::FILTERS));
        }
        assert_eq!(of(TrustLevel::Internal, &unconfined), None);
        assert_eq!(of(TrustLevel::Internal, &confined), Some(Layers::NONE));
    }

    #[test]
    fn what_is_in_force_says_how_little_a_plugin_may_be_trusted() {
        use Reach::{Everything, MoreThanGranted, Nothing};
        let but_network = Layers::ALL.without(Layer::Network);
        for (layers, reach, enough) in [
            (Layers::ALL, Some(Nothing), TrustLevel::Untrusted),
            (but_network, Some(Nothing), TrustLevel::Partner),
            (but_network, Some(Everything), TrustLevel::Untrusted),
            (but_network, Some(MoreThanGranted), TrustLevel::Internal),
            (Layers::FILTERS, Some(Everything), TrustLevel::Partner),
            (Layers::NONE, Some(Nothing), TrustLevel::Internal),
            (Layers::NONE, None, TrustLevel::Internal),
        ] {
            assert_eq!(enough_for(layers, reach.as_ref()), enough, "{layers:?}");
        }
    }
}
