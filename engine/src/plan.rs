//! A pipeline bound to the plugins that will run it.

use std::{collections::BTreeMap, sync::Arc};

use orchestrator_contract::StepId;
use orchestrator_manifest::Effect;
use orchestrator_plugin_runtime::{PluginHandle, ResolveError, Runtime};
use semver::VersionReq;
use serde_json::Value;

use crate::{
    engine::Shared,
    error::EngineError,
    journal::{PinnedPlugin, RunState},
    pipeline::{Lookup, Pipeline, PluginLookup, StepSpec},
    stack::PhaseStack,
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
            if let Err(error) = shared.runtime.resolve(spec.plugin.as_str(), &spec.range)
                && let ResolveError::Unusable(_) = &error
            {
                return Err(error.into());
            }
        }
        pipeline.check_against(&Registry(&shared.runtime))?;
        let resolve = |spec: &StepSpec| {
            let handle = shared.runtime.resolve(spec.plugin.as_str(), &spec.range)?;
            Ok(handle)
        };
        Self::with(shared, pipeline, resolve)
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
        let resolve = |spec: &StepSpec| {
            let pinned = state.created.plugins.get(&spec.id);
            let changed = || EngineError::PluginChanged {
                run: state.run,
                plugin: spec.plugin.to_string(),
                version: pinned.map_or_else(String::new, |pinned| pinned.version.to_string()),
            };
            let pinned = pinned.ok_or_else(changed)?;
            let exactly =
                VersionReq::parse(&format!("={}", pinned.version)).map_err(|_| changed())?;
            let handle = shared.runtime.resolve(spec.plugin.as_str(), &exactly)?;
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
        resolve: impl Fn(&StepSpec) -> Result<PluginHandle, EngineError>,
    ) -> Result<Self, EngineError> {
        let steps = pipeline
            .steps()
            .iter()
            .map(|spec| PlannedStep::new(shared, spec, resolve(spec)?))
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
            .map(|(spec, step)| {
                let pinned = PinnedPlugin {
                    plugin: step.handle.id().clone(),
                    version: step.version.clone(),
                    digest: step.handle.digest().into(),
                };
                (spec.id.clone(), pinned)
            })
            .collect()
    }
}

impl PlannedStep {
    fn new(shared: &Shared, spec: &StepSpec, handle: PluginHandle) -> Result<Self, EngineError> {
        let refused = |message: String| EngineError::StepPolicy {
            step: spec.id.to_string(),
            message,
        };
        let Some(phase) = handle.phase(spec.phase.as_str()) else {
            return Err(refused(format!(
                "`{}` has no phase `{}`",
                handle.id(),
                spec.phase
            )));
        };
        if phase.sensitive {
            return Err(EngineError::SensitiveOutput {
                plugin: spec.plugin.to_string(),
                phase: phase.name.clone(),
            });
        }
        check_overrides(&spec.policy).map_err(refused)?;
        let stack = shared
            .stacks
            .stack(&handle, phase, &spec.policy, spec.timeout);
        let repeatable = phase.effect.is_retry_safe() && phase.effect != Effect::Transactional;
        Ok(Self {
            stack: stack.map_err(|error| refused(error.to_string()))?,
            version: handle.version().to_string().into(),
            retryable: repeatable && phase.retryable,
            repeatable,
            handle,
        })
    }
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
    fn phases(&self, id: &str, range: &VersionReq) -> Lookup {
        match self.0.resolve(id, range) {
            Ok(handle) => {
                let names = handle.phases().iter().map(|phase| phase.name.clone());
                Lookup::Found(names.collect())
            }
            Err(error) => error.into(),
        }
    }
}
