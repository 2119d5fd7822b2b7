//! A pipeline bound to the plugins that will run it.

use std::{collections::BTreeMap, sync::Arc};

use orchestrator_contract::{PhaseName, PluginId, StepId};
use orchestrator_manifest::{Effect, Phase};
use orchestrator_plugin_runtime::{PluginHandle, ResolveError, Runtime};
use semver::VersionReq;
use serde_json::Value;

use crate::{
    engine::Shared,
    error::EngineError,
    journal::{PinnedPlugin, RunState},
    pipeline::{FallbackSpec, Lookup, Pipeline, PluginLookup, Releases, StepSpec},
    stack::{PhaseStack, fallback::LastResults},
};

/// What a step may override of its phase's policies.
const STEP_OVERRIDES: [&str; 2] = ["deadline", "retry"];

/// A pipeline bound to the plugins that will run it.
pub(crate) struct Plan {
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) steps: Vec<PlannedStep>,
    /// Steps that may be in flight together.
    pub(crate) concurrency: usize,
}

/// A step with its plugin.
pub(crate) struct PlannedStep {
    pub(crate) handle: PluginHandle,
    pub(crate) stack: PhaseStack,
    pub(crate) version: Arc<str>,
    /// Whether doing it twice does no more than doing it once. A phase that
    /// calls itself transactional would need a transaction of ours, which it
    /// is not given, so it may not be repeated either.
    pub(crate) repeatable: bool,
    /// Whether a failed attempt that started may be followed by another. An
    /// author may say no to that and yes to going on after a crash.
    pub(crate) retryable: bool,
    pub(crate) fallback: Option<PlannedFallback>,
}

/// What a step falls back to.
pub(crate) enum PlannedFallback {
    /// The pipeline's value.
    Value,
    /// A phase of another plugin.
    Phase(PlannedPhase),
    /// The last good result.
    LastGood(LastResults),
}

/// A phase that a step falls back to.
pub(crate) struct PlannedPhase {
    pub(crate) handle: PluginHandle,
    pub(crate) phase: PhaseName,
    pub(crate) stack: PhaseStack,
    pub(crate) retryable: bool,
}

/// A plugin as a step names it.
#[derive(Clone, Copy)]
struct Named<'s> {
    step: &'s StepId,
    plugin: &'s PluginId,
    releases: &'s Releases,
    /// Whether the step only falls back to it.
    is_fallback: bool,
}

impl Plan {
    /// Binds every step to the best version that is there now.
    ///
    /// # Errors
    ///
    /// The plugin's own error when one cannot be used, so that a tampered one
    /// is called that; every unknown plugin and phase of the pipeline, with
    /// its place; a step's policy that does not fit.
    pub(crate) fn bind(shared: &Shared, pipeline: Arc<Pipeline>) -> Result<Self, EngineError> {
        for spec in pipeline.steps() {
            if let Err(error) = resolve(&shared.runtime, spec.plugin.as_str(), &spec.releases)
                && let ResolveError::Unusable(_) = &error
            {
                return Err(error.into());
            }
        }
        pipeline.check_against(&Registry(&shared.runtime))?;
        let bound = |named: Named<'_>| {
            let plugin = named.plugin.as_str();
            Ok(resolve(&shared.runtime, plugin, named.releases)?)
        };
        Self::with(shared, pipeline, bound)
    }

    /// Binds every step to exactly the plugin that its run began with.
    ///
    /// # Errors
    ///
    /// [`EngineError::PluginChanged`] when that is not there as it was.
    pub(crate) fn rebind(
        shared: &Shared,
        pipeline: Arc<Pipeline>,
        state: &RunState,
    ) -> Result<Self, EngineError> {
        let resolve = |named: Named<'_>| {
            let pins = match named.is_fallback {
                false => &state.created.plugins,
                true => &state.created.fallbacks,
            };
            let pinned = pins.get(named.step);
            let changed = || EngineError::PluginChanged {
                run: state.run,
                plugin: named.plugin.to_string(),
                version: pinned.map_or_else(String::new, |pinned| pinned.version.to_string()),
            };
            let pinned = pinned.ok_or_else(changed)?;
            let exactly =
                VersionReq::parse(&format!("={}", pinned.version)).map_err(|_| changed())?;
            let handle = shared.runtime.resolve(named.plugin.as_str(), &exactly)?;
            match *handle.digest() == *pinned.digest {
                true => Ok(handle),
                false => Err(changed()),
            }
        };
        Self::with(shared, pipeline, resolve)
    }

    fn with(
        shared: &Shared,
        pipeline: Arc<Pipeline>,
        resolve: impl Fn(Named<'_>) -> Result<PluginHandle, EngineError>,
    ) -> Result<Self, EngineError> {
        let steps = pipeline
            .steps()
            .iter()
            .map(|spec| PlannedStep::new(shared, spec, &resolve))
            .collect::<Result<Vec<_>, EngineError>>()?;
        let most = shared.config.run.concurrency.get();
        let concurrency = pipeline
            .concurrency()
            .map_or(most, |wanted| wanted.get().min(most));
        Ok(Self {
            pipeline,
            steps,
            concurrency,
        })
    }

    /// What the run's first record says about its plugins.
    pub(crate) fn pinned(&self) -> BTreeMap<StepId, PinnedPlugin> {
        let specs = self.pipeline.steps().iter();
        specs
            .zip(&self.steps)
            .map(|(spec, step)| (spec.id.clone(), pin(&step.handle)))
            .collect()
    }

    /// What it says about those that steps fall back to.
    pub(crate) fn pinned_fallbacks(&self) -> BTreeMap<StepId, PinnedPlugin> {
        let specs = self.pipeline.steps().iter();
        specs
            .zip(&self.steps)
            .filter_map(|(spec, step)| match &step.fallback {
                Some(PlannedFallback::Phase(phase)) => Some((spec.id.clone(), pin(&phase.handle))),
                _ => None,
            })
            .collect()
    }
}

fn resolve(runtime: &Runtime, id: &str, releases: &Releases) -> Result<PluginHandle, ResolveError> {
    runtime.resolve_in(id, &releases.range, releases.channel)
}

fn pin(handle: &PluginHandle) -> PinnedPlugin {
    PinnedPlugin {
        plugin: handle.id().clone(),
        version: handle.version().to_string().into(),
        digest: handle.digest().into(),
    }
}

impl PlannedStep {
    fn new(
        shared: &Shared,
        spec: &StepSpec,
        resolve: &impl Fn(Named<'_>) -> Result<PluginHandle, EngineError>,
    ) -> Result<Self, EngineError> {
        let refused = |message: String| EngineError::StepPolicy {
            step: spec.id.to_string(),
            message,
        };
        let handle = resolve(Named {
            step: &spec.id,
            plugin: &spec.plugin,
            releases: &spec.releases,
            is_fallback: false,
        })?;
        let phase = phase_of(&handle, &spec.phase).map_err(refused)?;
        not_sensitive(&handle, phase)?;
        check_overrides(&spec.policy).map_err(refused)?;
        let stack = shared
            .stacks
            .stack(&handle, phase, &spec.policy, spec.timeout)
            .map_err(|error| refused(error.to_string()))?;
        let repeatable = is_repeatable(phase);
        Ok(Self {
            fallback: planned_fallback(shared, spec, &stack, resolve)?,
            stack,
            version: handle.version().to_string().into(),
            retryable: repeatable && phase.retryable,
            repeatable,
            handle,
        })
    }
}

fn planned_fallback(
    shared: &Shared,
    spec: &StepSpec,
    stack: &PhaseStack,
    resolve: &impl Fn(Named<'_>) -> Result<PluginHandle, EngineError>,
) -> Result<Option<PlannedFallback>, EngineError> {
    let refused = |message: String| EngineError::StepFallback {
        step: spec.id.to_string(),
        message,
    };
    let Some(fallback) = &spec.fallback else {
        return Ok(None);
    };
    let Some(last_results) = &stack.last_results else {
        let message = format!("`policy.stack` leaves fallbacks out for `{}`", spec.plugin);
        return Err(refused(message));
    };
    Ok(Some(match fallback {
        FallbackSpec::Value(_) => PlannedFallback::Value,
        FallbackSpec::LastGood => PlannedFallback::LastGood(last_results.clone()),
        FallbackSpec::Phase {
            plugin,
            releases,
            phase,
        } => {
            let handle = resolve(Named {
                step: &spec.id,
                plugin,
                releases,
                is_fallback: true,
            })?;
            let name = phase;
            let phase = phase_of(&handle, name).map_err(refused)?;
            not_sensitive(&handle, phase)?;
            // After a crash the step begins anew, and it may come to this again.
            if !is_repeatable(phase) {
                let message = format!("phase `{name}` of `{plugin}` may happen only once");
                return Err(refused(message));
            }
            let stack = shared.stacks.stack(&handle, phase, &Value::Null, None);
            PlannedFallback::Phase(PlannedPhase {
                stack: stack.map_err(|error| refused(error.to_string()))?,
                phase: name.clone(),
                retryable: phase.retryable,
                handle,
            })
        }
    }))
}

fn phase_of<'h>(handle: &'h PluginHandle, name: &PhaseName) -> Result<&'h Phase, String> {
    let phase = handle.phase(name.as_str());
    phase.ok_or_else(|| format!("`{}` has no phase `{name}`", handle.id()))
}

fn not_sensitive(handle: &PluginHandle, phase: &Phase) -> Result<(), EngineError> {
    match phase.sensitive {
        false => Ok(()),
        true => Err(EngineError::SensitiveOutput {
            plugin: handle.id().to_string(),
            phase: phase.name.clone(),
        }),
    }
}

/// Whether doing it twice does no more than doing it once.
fn is_repeatable(phase: &Phase) -> bool {
    phase.effect.is_retry_safe() && phase.effect != Effect::Transactional
}

fn check_overrides(policy: &Value) -> Result<(), String> {
    let sections = match policy {
        Value::Null => return Ok(()),
        Value::Object(sections) => sections,
        _ => return Err("it is not a map".to_owned()),
    };
    let stray = sections
        .keys()
        .find(|key| !STEP_OVERRIDES.contains(&key.as_str()));
    if let Some(key) = stray {
        return Err(format!("`{key}` is not a step's to override"));
    }
    // One for all calls to the plugin, so no step has a say in it.
    match sections.get("retry").and_then(|retry| retry.get("budget")) {
        Some(_) => Err("`retry.budget` is not a step's to override".to_owned()),
        None => Ok(()),
    }
}

/// The plugins as a pipeline's check asks for them.
pub(crate) struct Registry<'a>(pub(crate) &'a Runtime);

impl PluginLookup for Registry<'_> {
    fn phases(&self, id: &str, releases: &Releases) -> Lookup {
        match resolve(self.0, id, releases) {
            Ok(handle) => {
                let names = handle.phases().iter().map(|phase| phase.name.clone());
                Lookup::Found(names.collect())
            }
            Err(error) => error.into(),
        }
    }
}
