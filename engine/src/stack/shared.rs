//! What the stacks of one plugin have in common.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use orchestrator_contract::{BreakerState, PhaseName, PluginId};
use orchestrator_policies::{
    Breaker, Bulkhead, ConfigError as PolicyError, Listener, RateLimiter, RetryBudget,
};

use super::{Ingredients, PhaseStack, PolicyListener, build, innermost};
use crate::{
    bus::Bus,
    config::{Config, ConfigError, PolicyConfig},
};
use orchestrator_manifest::Phase;
use orchestrator_observability::Telemetry;
use orchestrator_plugin_runtime::PluginHandle;
use serde_json::Value;

/// The policies that know of all calls to a plugin, or to one of its phases
/// where that phase is configured by itself.
#[derive(Clone)]
pub(crate) struct SharedPolicies {
    pub(crate) rate_limit: RateLimiter,
    pub(crate) budget: RetryBudget,
    pub(crate) breaker: Breaker,
    pub(crate) bulkhead: Bulkhead,
}

impl SharedPolicies {
    /// `listener` hears of the breaker's changes.
    pub(crate) fn new(
        policy: &PolicyConfig,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, PolicyError> {
        Ok(Self {
            rate_limit: RateLimiter::new(policy.rate_limit.clone())?,
            budget: RetryBudget::new(policy.retry.budget.clone())?,
            breaker: Breaker::with_listener(policy.breaker.clone(), listener)?,
            bulkhead: Bulkhead::new(policy.bulkhead.clone())?,
        })
    }
}

/// A plugin, and a phase where the phase has policies of its own.
type Scope = (PluginId, Option<PhaseName>);

/// Builds stacks. Runs come and go; what their stacks share stays, so that the
/// second run meets the breaker that the first one opened.
pub(crate) struct Stacks {
    bus: Bus,
    shared: Mutex<HashMap<Scope, SharedPolicies>>,
}

impl Stacks {
    pub(crate) fn new(bus: Bus) -> Self {
        Self {
            bus,
            shared: Mutex::default(),
        }
    }

    /// The stack of one phase, under the policies that the operator set for it
    /// and what a step overrides of them. The overrides are this stack's alone.
    pub(crate) fn stack(
        &self,
        config: &Config,
        telemetry: &Telemetry,
        handle: &PluginHandle,
        phase: &Phase,
        step: Option<&Value>,
        timeout: Option<std::time::Duration>,
    ) -> Result<PhaseStack, ConfigError> {
        let plugin = handle.id().clone();
        let name = PhaseName::new(phase.name.as_str());
        let misfit = |error| ConfigError::Policy {
            section: format!("plugins.{plugin}.phases.{name}"),
            error,
        };
        let own = config.has_own_policies(plugin.as_str(), name.as_str());
        let scope = (plugin.clone(), own.then(|| name.clone()));
        let mut policy = config.phase_policy(plugin.as_str(), phase, None)?;
        // Before the overrides: what is shared must not depend on who comes first.
        let shared = self.shared(scope, &policy, telemetry).map_err(misfit)?;
        if let Some(step) = step.filter(|step| !step.is_null()) {
            policy = config.phase_policy(plugin.as_str(), phase, Some(step))?;
        }
        let listener = PolicyListener {
            bus: self.bus.clone(),
            plugin: plugin.clone(),
            phase: Some(name.clone()),
        };
        let stack = build(Ingredients {
            shared: &shared,
            policy: &policy,
            total: timeout.or(policy.deadline.total).unwrap_or(phase.timeout),
            metrics: telemetry.phase(plugin.as_str(), &phase.name),
            listener,
            plugin: innermost(handle.clone()),
        });
        stack.map_err(misfit)
    }

    fn shared(
        &self,
        scope: Scope,
        policy: &PolicyConfig,
        telemetry: &Telemetry,
    ) -> Result<SharedPolicies, PolicyError> {
        // Only whole entries are ever put in, so a panic elsewhere does no harm.
        let mut all = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&scope) {
            return Ok(known.clone());
        }
        let listener = PolicyListener {
            bus: self.bus.clone(),
            plugin: scope.0.clone(),
            phase: scope.1.clone(),
        };
        let made = SharedPolicies::new(policy, listener.shared())?;
        let phase = scope.1.as_ref().map_or("", PhaseName::as_str);
        telemetry.breaker(scope.0.as_str(), phase, BreakerState::Closed);
        all.insert(scope, made.clone());
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    use semver::VersionReq;
    use serde_json::json;

    use super::*;
    use crate::Engine;

    /// Whoever comes first, what the plugin's stacks share is the operator's.
    #[tokio::test]
    async fn a_steps_overrides_are_its_own() {
        let home = tempfile::tempdir().unwrap();
        let builder = Engine::builder().home(home.path()).unwrap();
        let config = Config::defaults().unwrap();
        let engine = builder.config(config.clone()).start().await.unwrap();
        let any = VersionReq::STAR;
        let handle = engine.runtime().resolve("template", &any).unwrap();
        let phase = handle.phase("render").unwrap();
        let (stacks, telemetry) = (&engine.shared().stacks, engine.telemetry());

        let step = json!({ "retry": { "budget": { "reserve": 3 } } });
        let stack = stacks.stack(&config, telemetry, &handle, phase, Some(&step), None);
        stack.unwrap();

        let all = stacks.shared.lock().unwrap();
        let shared = all.values().next().unwrap();
        let left = shared.budget.snapshot(tokio::time::Instant::now()).left;
        assert_eq!(left, u64::from(config.policy.retry.budget.reserve));
    }
}
