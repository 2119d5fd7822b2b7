//! The path of a call, top to bottom.

pub(crate) mod cap;
mod classify;
pub(crate) mod fallback;
mod listener;
mod observe;
mod shared;

use std::num::NonZeroU32;

use orchestrator_contract::{CallError, PhaseReply};
use orchestrator_plugin_runtime::PluginHandle;
use orchestrator_policies::{
    AttemptDeadline, CatchPanic, ConfigError, Policies, PolicyKind, Retry, RetryConfig,
    TotalDeadline,
};
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};

pub(crate) use self::classify::{Attempts, StackCall};
pub(crate) use self::listener::Teller;
pub(crate) use self::shared::{SharedPolicies, Stacks};
use self::{
    classify::{PhaseClassify, StackError},
    fallback::LastResults,
    listener::BreakerListener,
    observe::{ObserveAttempts, ObserveCalls},
};
use crate::config::PolicyConfig;

type Service = BoxCloneSyncService<StackCall, PhaseReply, CallError>;

/// A phase with its policies, ready to be called.
#[derive(Clone)]
pub(crate) struct PhaseStack {
    pub(crate) service: Service,
    /// What a step may fall back to, where a step may fall back.
    pub(crate) last_results: Option<LastResults>,
    /// Tries at one call altogether.
    pub(crate) max_attempts: NonZeroU32,
}

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
    /// Tells of refusals, retries and failed attempts.
    pub(crate) teller: Teller,
    /// The plugin.
    pub(crate) plugin: S,
}

/// Wraps a plugin's phase in the policies its calls meet.
///
/// Read the chain downwards: that is the way a call goes in. Its reply comes
/// back up through the same policies. What `policy.stack` leaves out is not there.
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
        teller,
        plugin,
    } = parts;
    let uses = |kind| policy.stack.has(kind);
    // An attempt that may take as long as the whole call needs no limit of its
    // own: the breaker counts a call that ends at its deadline as failed.
    let attempt = policy.deadline.attempt.filter(|attempt| *attempt < total);
    let attempt = attempt.filter(|_| uses(PolicyKind::AttemptDeadline));
    let retry = RetryConfig {
        max_attempts: policy.max_attempts(),
        ..policy.retry.clone()
    };
    let retry = Retry::with_budget(retry, shared.budget.clone())?;
    let policies = Policies::with(PhaseClassify)
        // Outermost, so that refusals are counted and logged within the trace.
        .per_call(ObserveCalls::new(metrics.clone(), teller.clone()))
        // Everything below spends this time: waits, attempts, pauses.
        .per_call(TotalDeadline::new(total))
        // Before anything is spent on a call that is turned away.
        .per_call(uses(PolicyKind::Shed).then(|| shared.shed.clone()))
        // One call is one token however often it is tried.
        .per_call(uses(PolicyKind::RateLimit).then(|| shared.rate_limit.clone()))
        // Outside the breaker, so that each attempt asks it anew.
        .retry(retry)
        // Sees every attempt and how it ended; excludes what is refused below.
        .per_attempt(uses(PolicyKind::Breaker).then(|| shared.breaker.clone()))
        // Inside retry, so that a pause holds no slot; inside the breaker, so
        // that an open circuit takes none.
        .per_attempt(uses(PolicyKind::Bulkhead).then(|| shared.bulkhead.clone()))
        // Tells of each attempt, also when the call's own error hides it.
        .per_attempt(ObserveAttempts::new(metrics, teller))
        // Below the breaker, so that a plugin that hangs counts as failing.
        .per_attempt(attempt.map(AttemptDeadline::new))
        // A panic of a builtin is an error of its call and of nothing else.
        .per_attempt(CatchPanic);
    let stack = policies.layer(plugin).map_err(CallError::from);
    Ok(PhaseStack {
        service: BoxCloneSyncService::new(stack),
        last_results: uses(PolicyKind::Fallback).then(|| shared.last_results.clone()),
        max_attempts: policy.max_attempts(),
    })
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
