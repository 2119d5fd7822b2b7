//! What an operator lets confined plugins use, whatever their authors ask for.

use rustix::process::{Resource, getrlimit};

use crate::settings::SandboxSettings;

/// A plugin that may hold fewer descriptors could not start.
const FILES_MIN: u64 = 64;

/// The most of one thing that a plugin may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ceiling {
    pub(super) most: u64,
    /// The key of the configuration that says so.
    pub(super) setting: &'static str,
}

/// The most that a plugin may use; what its manifest does not bound, it may use that much
/// of. `None` is left to the manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ceilings {
    pub(super) memory_bytes: Option<Ceiling>,
    pub(super) cpu_percent: Option<Ceiling>,
    pub(super) tasks: Option<Ceiling>,
    pub(super) files: Option<Ceiling>,
}

impl Ceilings {
    /// Those of confined plugins.
    pub(crate) fn of(settings: &SandboxSettings) -> Self {
        Self::beside(settings, getrlimit(Resource::Nofile).current)
    }

    /// Of a host that may have `files_of_host` descriptors open. The kernel counts those
    /// that are on their way through sockets by user: were a plugin allowed as many as its
    /// host, the host could send none, and so start nothing.
    fn beside(settings: &SandboxSettings, files_of_host: Option<u64>) -> Self {
        let half = files_of_host.map_or(u64::MAX, |files| (files / 2).max(FILES_MIN));
        let files = u64::from(settings.open_files_max).min(half);
        Self {
            memory_bytes: bound(settings.memory_max, "runtime.sandbox.memory_max"),
            cpu_percent: bound(
                settings.cpu_percent_max.into(),
                "runtime.sandbox.cpu_percent_max",
            ),
            tasks: bound(settings.tasks_max.into(), "runtime.sandbox.tasks_max"),
            files: bound(files, "runtime.sandbox.open_files_max"),
        }
    }
}

fn bound(most: u64, setting: &'static str) -> Option<Ceiling> {
    (most > 0).then_some(Ceiling { most, setting })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_never_has_as_many_descriptors_as_its_host() {
        let settings = SandboxSettings {
            open_files_max: 1024,
            ..SandboxSettings::default()
        };
        let of = |host| {
            let files = Ceilings::beside(&settings, host).files;
            files.map(|files| files.most)
        };
        assert_eq!(of(None), Some(1024));
        assert_eq!(of(Some(20_000)), Some(1024));
        assert_eq!(of(Some(1024)), Some(512));
        assert_eq!(of(Some(10)), Some(FILES_MIN));
    }

    #[test]
    fn zero_leaves_it_to_the_manifest() {
        let settings = SandboxSettings {
            memory_max: 0,
            cpu_percent_max: 0,
            tasks_max: 0,
            open_files_max: 0,
            ..SandboxSettings::default()
        };
        assert_eq!(Ceilings::of(&settings), Ceilings::default());
    }
}
