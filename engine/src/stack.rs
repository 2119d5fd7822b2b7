//! The path of a call, top to bottom.

mod classify;
mod current;
mod listener;
mod observe;
mod seam;
mod shared;

use orchestrator_contract::{CallError, PhaseReply};
use orchestrator_plugin_runtime::PluginHandle;
use orchestrator_policies::{
    AttemptDeadlineLayer, BreakerLayer, BulkheadLayer, CatchPanicLayer, ConfigError,
    RateLimitLayer, RetryLayer, TotalDeadlineLayer,
};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};

pub(crate) use self::classify::{Attempts, StackCall};
pub(crate) use self::shared::{SharedPolicies, Stacks};
use self::{
    classify::{PhaseClassify, StackError},
    listener::PolicyListener,
    observe::{AttemptLayer, ObserveLayer},
    seam::SeamLayer,
};
use crate::config::PolicyConfig;

/// A phase with its policies, ready to be called.
pub(crate) type PhaseStack = BoxCloneSyncService<StackCall, PhaseReply, CallError>;

/// What a stack is made of besides its configuration.
pub(crate) struct Ingredients<'a, S> {
    /// What the plugin's stacks share: breaker, bulkhead, rate limit, budget.
    pub(crate) shared: &'a SharedPolicies,
    /// The policies of this phase and step.
    pub(crate) policy: &'a PolicyConfig,
    /// How long the whole call may take.
    pub(crate) total: std::time::Duration,
    /// Where the phase's numbers go.
    pub(crate) metrics: orchestrator_observability::PhaseMetrics,
    /// Who hears of refusals and retries.
    pub(crate) listener: PolicyListener,
    /// The plugin.
    pub(crate) plugin: S,
}

/// Wraps a plugin's phase in the policies its calls meet.
///
/// Read the chain downwards: that is the way a call goes in. Its reply comes
/// back up through the same layers. A seam is no policy; see `seam.rs`.
///
/// # Errors
///
/// A policy whose values contradict each other.
pub(crate) fn build<S>(parts: Ingredients<'_, S>) -> Result<PhaseStack, ConfigError>
where
    S: tower::Service<StackCall, Response = PhaseReply, Error = StackError>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let Ingredients {
        shared,
        policy,
        total,
        metrics,
        listener,
        plugin,
    } = parts;
    let bus = listener.bus.clone();
    let listener = listener.shared();
    // An attempt that may take as long as the whole call needs no timer of its
    // own: the breaker counts a call that is dropped at its deadline as failed.
    let attempt = policy.deadline.attempt.filter(|attempt| *attempt < total);
    let attempt = attempt.map(|limit| {
        AttemptDeadlineLayer::new(limit, PhaseClassify).with_listener(listener.clone())
    });
    let retry =
        RetryLayer::with_budget(policy.retry.clone(), shared.budget.clone(), PhaseClassify)?;
    let chain = ServiceBuilder::new()
        // Outermost, so that refusals are counted and logged within the trace.
        .layer(ObserveLayer::new(metrics.clone()))
        // Everything below spends this time: waits, attempts, pauses.
        .layer(TotalDeadlineLayer::new(total, PhaseClassify).with_listener(listener.clone()))
        // One call is one token however often it is tried.
        .layer(
            RateLimitLayer::new(shared.rate_limit.clone(), PhaseClassify)
                .with_listener(listener.clone()),
        )
        // Outside the breaker, so that each attempt asks it anew.
        .layer(retry.with_listener(listener.clone()))
        .layer(SeamLayer)
        // Sees every attempt and how it ended; excludes what is refused below.
        .layer(
            BreakerLayer::new(shared.breaker.clone(), PhaseClassify)
                .with_listener(listener.clone()),
        )
        // Inside retry, so that a pause holds no slot; inside the breaker, so
        // that an open circuit takes none.
        .layer(
            BulkheadLayer::new(shared.bulkhead.clone(), PhaseClassify)
                .with_listener(listener.clone()),
        )
        .layer(SeamLayer)
        // Tells of each attempt, also when the call's own error hides it.
        .layer(AttemptLayer::new(metrics, bus))
        // Below the breaker, so that a plugin that hangs counts as failing.
        .option_layer(attempt)
        // A panic of a builtin is an error of its call and of nothing else.
        .layer(CatchPanicLayer::new().with_listener(listener))
        .service(plugin);
    Ok(BoxCloneSyncService::new(chain.map_err(CallError::from)))
}

/// The plugin as the innermost service of its stack.
pub(crate) fn innermost(
    handle: PluginHandle,
) -> impl tower::Service<StackCall, Response = PhaseReply, Error = StackError, Future: Send + 'static>
+ Clone
+ Send
+ Sync
+ 'static {
    handle
        .map_request(StackCall::into_call)
        .map_err(StackError::Plugin)
}

#[cfg(test)]
mod tests;
