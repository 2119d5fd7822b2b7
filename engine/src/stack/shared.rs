//! The stacks of an engine, and what those of one plugin have in common.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use orchestrator_contract::{BreakerState, PhaseName, PluginId};
use orchestrator_policies::{
    Breaker, Bulkhead, ConfigError as PolicyError, Listener, PolicyKind, RateLimiter, RetryBudget,
    Shed,
};

use super::{BreakerListener, Ingredients, LastResults, PhaseStack, Teller, build, innermost};
use crate::{
    bus::Bus,
    config::{Config, ConfigError, PolicyConfig},
};
use orchestrator_manifest::{Manifest, Phase};
use orchestrator_observability::Telemetry;
use orchestrator_plugin_runtime::PluginHandle;
use semver::Version;
use serde_json::Value;

/// The policies that know of all calls to a plugin, or to one of its phases
/// where that phase is configured by itself.
#[derive(Clone)]
pub(crate) struct SharedPolicies {
    pub(crate) shed: Shed,
    pub(crate) rate_limit: RateLimiter,
    pub(crate) budget: RetryBudget,
    pub(crate) breaker: Breaker,
    pub(crate) bulkhead: Bulkhead,
    pub(crate) last_results: LastResults,
}

impl SharedPolicies {
    /// `listener` hears of the breaker's changes.
    pub(crate) fn new(
        policy: &PolicyConfig,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, PolicyError> {
        Ok(Self {
            shed: Shed::new(policy.shed.clone())?,
            rate_limit: RateLimiter::new(policy.rate_limit.clone())?,
            budget: RetryBudget::new(policy.retry.budget.clone())?,
            breaker: Breaker::with_listener(policy.breaker.clone(), listener)?,
            bulkhead: Bulkhead::new(policy.bulkhead.clone())?,
            last_results: LastResults::new(&policy.fallback)?,
        })
    }
}

/// A plugin, and a phase where the phase has policies of its own.
type Scope = (PluginId, Option<PhaseName>);

/// Builds stacks. Runs come and go; what their stacks share stays, so that the
/// second run meets the breaker that the first one opened.
pub(crate) struct Stacks {
    bus: Bus,
    config: Arc<Config>,
    telemetry: Arc<Telemetry>,
    shared: Mutex<HashMap<Scope, SharedPolicies>>,
    built: Mutex<HashMap<Asked, Built>>,
}

/// What a stack is built for, besides the plugin itself.
#[derive(PartialEq, Eq, Hash)]
struct Asked {
    plugin: PluginId,
    version: Version,
    phase: String,
    /// What a step overrides; null for nothing.
    step: Value,
    timeout: Option<Duration>,
}

/// A stack that was built. Building one costs a hundred times as much as
/// finding it, and the steps of all runs ask for the same few.
struct Built {
    /// Tells whether it is the same plugin still, for one that was loaded
    /// anew has another.
    manifest: Arc<Manifest>,
    stack: PhaseStack,
}

/// How many stacks are kept. Pipelines that come over the network may ask for
/// any number; those that are forgotten are built again.
const BUILT_MAX: usize = 1_024;

impl Stacks {
    pub(crate) fn new(bus: Bus, config: Arc<Config>, telemetry: Arc<Telemetry>) -> Self {
        Self {
            bus,
            config,
            telemetry,
            shared: Mutex::default(),
            built: Mutex::default(),
        }
    }

    /// The stack of one phase, under the policies that the operator set for it
    /// and what a step overrides of them. The overrides are this stack's alone.
    pub(crate) fn stack(
        &self,
        handle: &PluginHandle,
        phase: &Phase,
        step: &Value,
        timeout: Option<Duration>,
    ) -> Result<PhaseStack, ConfigError> {
        let asked = Asked {
            plugin: handle.id().clone(),
            version: handle.version().clone(),
            phase: phase.name.clone(),
            step: step.clone(),
            timeout,
        };
        let is_same = |built: &&Built| Arc::ptr_eq(&built.manifest, handle.manifest());
        if let Some(built) = self.built().get(&asked).filter(is_same) {
            return Ok(built.stack.clone());
        }
        let stack = self.build(handle, phase, step, timeout)?;
        let built = Built {
            manifest: Arc::clone(handle.manifest()),
            stack: stack.clone(),
        };
        let mut all = self.built();
        if all.len() >= BUILT_MAX {
            all.clear();
        }
        all.insert(asked, built);
        Ok(stack)
    }

    fn built(&self) -> MutexGuard<'_, HashMap<Asked, Built>> {
        // Only whole entries are ever put in, so a panic elsewhere does no harm.
        self.built.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The breaker of all phases of a plugin that have no policies of their own;
    /// nothing when each of them has.
    pub(crate) fn breaker_of(&self, handle: &PluginHandle) -> Option<Breaker> {
        let id = handle.id().as_str();
        let mut phases = handle.phases().iter();
        let phase = phases.find(|phase| !self.config.has_own_policies(id, &phase.name))?;
        let policy = self.config.phase_policy(id, phase, None).ok()?;
        let shared = self.shared((handle.id().clone(), None), &policy).ok()?;
        Some(shared.breaker)
    }

    fn build(
        &self,
        handle: &PluginHandle,
        phase: &Phase,
        step: &Value,
        timeout: Option<Duration>,
    ) -> Result<PhaseStack, ConfigError> {
        let (config, telemetry) = (&*self.config, &*self.telemetry);
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
        let shared = self.shared(scope, &policy).map_err(misfit)?;
        if !step.is_null() {
            policy = config.phase_policy(plugin.as_str(), phase, Some(step))?;
        }
        let stack = build(Ingredients {
            shared: &shared,
            policy: &policy,
            total: timeout.or(policy.deadline.total).unwrap_or(phase.timeout),
            metrics: telemetry.phase(plugin.as_str(), &phase.name),
            teller: Teller::new(self.bus.clone()),
            // Kept for runs to come, which have handles of their own that count.
            plugin: innermost(handle.uncounted()),
        });
        stack.map_err(misfit)
    }

    fn shared(&self, scope: Scope, policy: &PolicyConfig) -> Result<SharedPolicies, PolicyError> {
        // Only whole entries are ever put in, so a panic elsewhere does no harm.
        let mut all = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&scope) {
            return Ok(known.clone());
        }
        let listener = BreakerListener {
            bus: self.bus.clone(),
            plugin: scope.0.clone(),
            phase: scope.1.clone(),
        };
        let made = SharedPolicies::new(policy, listener.shared())?;
        let phase = scope.1.as_ref().map_or("", PhaseName::as_str);
        if policy.stack.has(PolicyKind::Breaker) {
            self.telemetry
                .breaker(scope.0.as_str(), phase, BreakerState::Closed);
        }
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

    async fn engine(home: &tempfile::TempDir) -> Engine {
        let builder = Engine::builder().home(home.path()).unwrap();
        let config = Config::defaults().unwrap();
        builder.config(config).start().await.unwrap()
    }

    fn template(engine: &Engine) -> PluginHandle {
        let any = VersionReq::STAR;
        engine.runtime().resolve("template", &any).unwrap()
    }

    #[tokio::test]
    async fn a_stack_is_built_once_for_all_who_ask_for_the_same() {
        let home = tempfile::tempdir().unwrap();
        let engine = engine(&home).await;
        let handle = template(&engine);
        let phase = handle.phase("render").unwrap();
        let stacks = &engine.shared().stacks;
        let count = || stacks.built().len();
        let tries = |most: usize| json!({ "retry": { "max_attempts": most } });
        let second = Some(Duration::from_secs(1));
        for _ in 0..2 {
            stacks.stack(&handle, phase, &Value::Null, None).unwrap();
            stacks.stack(&handle, phase, &Value::Null, second).unwrap();
            stacks.stack(&handle, phase, &tries(1), None).unwrap();
            stacks.stack(&handle, phase, &tries(2), None).unwrap();
        }
        assert_eq!(count(), 4);
        let wrong = json!({ "retry": { "max_attempts": 0 } });
        assert!(stacks.stack(&handle, phase, &wrong, None).is_err());
        assert_eq!(count(), 4);

        // The same plugin loaded anew is another one.
        let other_home = tempfile::tempdir().unwrap();
        let other = self::engine(&other_home).await;
        let handle = template(&other);
        let phase = handle.phase("render").unwrap();
        stacks.stack(&handle, phase, &Value::Null, None).unwrap();
        let all = stacks.built();
        let is_new = |built: &&Built| Arc::ptr_eq(&built.manifest, handle.manifest());
        assert_eq!((all.len(), all.values().filter(is_new).count()), (4, 1));
        drop(all);

        for most in 1..=2 * BUILT_MAX {
            stacks.stack(&handle, phase, &tries(most), None).unwrap();
            assert!(count() <= BUILT_MAX);
        }
    }

    /// Whoever comes first, what the plugin's stacks share is the operator's.
    #[tokio::test]
    async fn a_steps_overrides_are_its_own() {
        let home = tempfile::tempdir().unwrap();
        let engine = engine(&home).await;
        let handle = template(&engine);
        let phase = handle.phase("render").unwrap();
        let stacks = &engine.shared().stacks;
        let config = engine.config();

        let step = json!({ "retry": { "budget": { "reserve": 3 } } });
        stacks.stack(&handle, phase, &step, None).unwrap();

        let all = stacks.shared.lock().unwrap();
        let shared = all.values().next().unwrap();
        let left = shared
            .budget
            .snapshot(orchestrator_policies::clock::now())
            .left;
        assert_eq!(left, u64::from(config.policy.retry.budget.reserve));
    }
}
