//! Whether the plugins that a pipeline names are there.

use orchestrator_contract::{PhaseName, PluginId};
use orchestrator_plugin_runtime::{PluginProblem, ResolveError};
use semver::Version;

use super::{
    Pipeline,
    fault::{Fault, PipelineErrors, Rule},
    located::Part,
    step::{FallbackSpec, Releases, StepSpec},
    words::{listed, quoted, suggest},
};

/// What there is to be said about a plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It can be used; these are the names of its phases.
    Found(Vec<String>),
    /// No plugin has this id.
    UnknownPlugin {
        /// The nearest id there is.
        nearest: Option<String>,
    },
    /// The plugin is there, in other versions.
    NoVersion {
        /// The versions there are.
        available: Vec<Version>,
    },
    /// The plugin is there and cannot be used.
    Unusable {
        /// The code of the reason, as `ORC-nnnn`.
        code: String,
        /// The reason.
        message: String,
    },
}

impl From<ResolveError> for Lookup {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::UnknownPlugin { nearest, .. } => Self::UnknownPlugin { nearest },
            ResolveError::NoVersion { available, .. } => Self::NoVersion { available },
            other => {
                let problem = PluginProblem::new(&other);
                Self::Unusable {
                    code: problem.code,
                    message: problem.message,
                }
            }
        }
    }
}

/// Knows the plugins that are installed.
pub trait PluginLookup {
    /// Looks for the best release of a plugin among those that will do.
    fn phases(&self, id: &str, releases: &Releases) -> Lookup;
}

/// A phase that a step calls, or falls back to.
struct Wanted<'s> {
    plugin: &'s PluginId,
    releases: &'s Releases,
    phase: &'s PhaseName,
    /// Where it is named.
    pointer: String,
}

impl<'s> Wanted<'s> {
    fn of(step: &'s StepSpec) -> impl Iterator<Item = Self> {
        let own = Wanted {
            plugin: &step.plugin,
            releases: &step.releases,
            phase: &step.phase,
            pointer: step.pointer(),
        };
        let fallback = match &step.fallback {
            Some(FallbackSpec::Phase {
                plugin,
                releases,
                phase,
            }) => Some(Wanted {
                plugin,
                releases,
                phase,
                pointer: format!("{}/fallback", step.pointer()),
            }),
            _ => None,
        };
        std::iter::once(own).chain(fallback)
    }
}

impl Pipeline {
    /// Checks every step's plugin and phase against what is installed.
    ///
    /// # Errors
    ///
    /// Every plugin, version and phase that is not there, with its place.
    pub fn check_against(&self, plugins: &dyn PluginLookup) -> Result<(), PipelineErrors> {
        let wanted = self.steps().iter().flat_map(Wanted::of);
        let faults: Vec<_> = wanted
            .filter_map(|wanted| {
                let found = plugins.phases(wanted.plugin.as_str(), wanted.releases);
                self.missing(&wanted, found)
            })
            .collect();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(self.located().errors(faults))
        }
    }

    fn missing(&self, wanted: &Wanted<'_>, found: Lookup) -> Option<Fault> {
        let plugin = quoted(wanted.plugin.as_str());
        let (key, rule, message, help) = match found {
            Lookup::Found(phases)
                if phases.iter().any(|phase| *phase == *wanted.phase.as_str()) =>
            {
                return None;
            }
            Lookup::Found(phases) => (
                "phase",
                Rule::UnknownPhase,
                format!("{plugin} has no phase {}", quoted(wanted.phase.as_str())),
                suggest(
                    wanted.phase.as_str(),
                    phases.iter().map(String::as_str),
                    || format!("it has {}", listed(phases.iter().map(String::as_str))),
                ),
            ),
            Lookup::UnknownPlugin { nearest } => (
                "plugin",
                Rule::UnknownPlugin,
                format!("there is no plugin {plugin}"),
                match nearest {
                    Some(nearest) => format!("did you mean {}?", quoted(&nearest)),
                    None => "`orchestrator plugin list` shows every plugin".to_owned(),
                },
            ),
            Lookup::NoVersion { available } => {
                let available: Vec<_> = available.iter().map(Version::to_string).collect();
                (
                    "plugin",
                    Rule::NoVersion,
                    format!("no version of {plugin} matches `{}`", wanted.releases),
                    format!("there is {}", listed(available.iter().map(String::as_str))),
                )
            }
            Lookup::Unusable { code, message } => (
                "plugin",
                Rule::UnusablePlugin,
                format!("{plugin} cannot be used: {message} ({code})"),
                format!("`orchestrator plugin info {}` tells more", wanted.plugin),
            ),
        };
        let at = format!("{}/{key}", wanted.pointer);
        Some(self.located().fault(&at, Part::Value, rule, message, help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
version: 1
name: p
steps:
  - { id: a, plugin: good, phase: run }
  - { id: b, plugin: good@^1, phase: rnu }
  - id: c
    plugin: goood
    phase: run
  - { id: d, plugin: old@^2, phase: run }
  - { id: e, plugin: bad, phase: run }
  - { id: f, plugin: good, phase: run, fallback: { plugin: good, phase: rnu } }
";

    struct Installed;

    impl PluginLookup for Installed {
        fn phases(&self, id: &str, releases: &Releases) -> Lookup {
            match id {
                "good" => Lookup::Found(vec!["run".to_owned(), "stop".to_owned()]),
                "goood" => Lookup::UnknownPlugin {
                    nearest: Some("good".to_owned()),
                },
                "old" => {
                    assert_eq!(releases.to_string(), "^2");
                    Lookup::NoVersion {
                        available: vec![Version::new(1, 2, 3)],
                    }
                }
                _ => Lookup::Unusable {
                    code: "ORC-2001".to_owned(),
                    message: "it is not signed".to_owned(),
                },
            }
        }
    }

    #[test]
    fn everything_that_is_not_there_is_told_with_its_place() {
        let pipeline = Pipeline::parse(TEXT, "p.yaml").unwrap();
        let errors = pipeline.check_against(&Installed).unwrap_err();
        let told: Vec<_> = errors
            .faults
            .iter()
            .map(|fault| format!("{} {fault} ({})", fault.code, fault.help))
            .collect();
        assert_eq!(
            told,
            [
                "ORC-1151 p.yaml:5:38: /steps/1/phase: `good` has no phase `rnu` (did you mean `run`?)",
                "ORC-1150 p.yaml:7:13: /steps/2/plugin: there is no plugin `goood` (did you mean `good`?)",
                "ORC-1152 p.yaml:9:22: /steps/3/plugin: no version of `old` matches `^2` (there is `1.2.3`)",
                "ORC-1153 p.yaml:10:22: /steps/4/plugin: `bad` cannot be used: it is not signed (ORC-2001) (`orchestrator plugin info bad` tells more)",
                "ORC-1151 p.yaml:11:73: /steps/5/fallback/phase: `good` has no phase `rnu` (did you mean `run`?)",
            ]
        );
    }

    #[test]
    fn a_pinned_definition_is_checked_without_places() {
        let pipeline = Pipeline::parse(TEXT, "p.yaml").unwrap();
        let again = Pipeline::from_definition(&pipeline.definition()).unwrap();
        let errors = again.check_against(&Installed).unwrap_err();
        assert_eq!(errors.faults.len(), 5);
        assert_eq!(errors.faults[0].line, None);
        assert_eq!(errors.faults[0].pointer, "/steps/1/phase");
    }
}
