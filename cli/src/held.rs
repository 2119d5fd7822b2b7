//! Who holds a plugin to what it was granted.

use orchestrator_plugin_runtime::{PluginStatus, Sandbox, SandboxStatus};

/// Who holds a plugin to one of its grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// The kernel refuses more.
    Kernel,
    /// It has what the host gives it, and no other way to it.
    Host,
    /// It could do more.
    Nobody,
}

impl Holder {
    pub(crate) fn of(plugin: &PluginStatus, grant: &str) -> Self {
        let is_in = |list: &[String]| list.iter().any(|it| it == grant);
        match () {
            () if is_in(&plugin.not_enforced) => Self::Nobody,
            () if is_in(&plugin.enforced_by_kernel) => Self::Kernel,
            () => Self::Host,
        }
    }

    /// As programs read it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Host => "host",
            Self::Nobody => "nobody",
        }
    }

    pub(crate) fn in_words(self) -> &'static str {
        match self {
            Self::Kernel => "held by the kernel",
            Self::Host => "held by the host",
            Self::Nobody => "relied upon, not enforced",
        }
    }
}

/// What holds a plugin to its grants, for people.
pub(crate) fn layers_in_words(sandbox: &SandboxStatus) -> String {
    match sandbox.state {
        Sandbox::Unconfined => "nothing: it has the rights of the engine's user".to_owned(),
        Sandbox::Refused => "nothing, so it is not started".to_owned(),
        _ if sandbox.in_force.is_empty() => "nothing that this host has".to_owned(),
        _ => sandbox.in_force.join(", "),
    }
}
