//! How many attempts does a request cost while its service fails?

use std::{
    future::{Ready, ready},
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use orchestrator_benches::policies::{Ask, Asks, Failure, call};
use orchestrator_policies::{RetryConfig, RetryLayer};
use tokio::{
    task::JoinSet,
    time::{Sleep, interval, sleep},
};
use tower::{
    Layer, Service,
    retry::budget::{Budget, TpsBudget},
};
use tower_resilience::retry::{RetryBudgetBuilder, RetryLayer as ResilienceLayer};

use crate::{BenchError, contender::runtime};

/// How many of a hundred attempts fail.
pub(crate) const FAILING: [u64; 3] = [50, 90, 100];
/// Attempts at most, the first included.
const ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);
const DELAY: Duration = Duration::from_millis(1);
/// Requests come in groups, a millisecond apart; so all of it takes half a
/// second, in which budgets earn nothing worth mentioning by time alone.
const GROUPS: u64 = 500;
const GROUP: u64 = 100;

/// Attempts a request, for each of [`FAILING`].
#[derive(Clone, Debug)]
pub(crate) struct Attempts {
    pub(crate) name: &'static str,
    pub(crate) a_request: [f64; FAILING.len()],
}

pub(crate) fn count() -> Result<Vec<Attempts>, BenchError> {
    Ok(vec![
        attempts("ours", |flaky| {
            let config = RetryConfig {
                max_attempts: ATTEMPTS,
                base_delay: DELAY,
                max_delay: DELAY,
                ..RetryConfig::default()
            };
            Ok(RetryLayer::new(config, Asks)?.layer(flaky))
        })?,
        attempts("tower, `TpsBudget`", |flaky| {
            let policy = Policy {
                budget: Arc::new(TpsBudget::default()),
                left: ATTEMPTS.get() - 1,
            };
            Ok(tower::retry::RetryLayer::new(policy).layer(flaky))
        })?,
        attempts("tower-resilience", |flaky| {
            Ok(resilience().build().layer(flaky))
        })?,
        attempts("tower-resilience, token bucket", |flaky| {
            let budget = RetryBudgetBuilder::new().token_bucket().build()?;
            Ok(resilience().budget(budget).build().layer(flaky))
        })?,
    ])
}

fn resilience() -> tower_resilience::retry::RetryConfigBuilder<Ask, u64, Failure> {
    let builder = ResilienceLayer::builder().max_attempts(ATTEMPTS.get() as usize);
    builder.fixed_backoff(DELAY)
}

fn attempts<S>(
    name: &'static str,
    wrap: impl Fn(Flaky) -> Result<S, BenchError>,
) -> Result<Attempts, BenchError>
where
    S: Service<Ask, Future: Send, Error: Send, Response: Send> + Clone + Send + 'static,
{
    let mut a_request = [0.0; FAILING.len()];
    for (number, failing) in a_request.iter_mut().zip(FAILING) {
        let flaky = Flaky {
            failing,
            attempts: Arc::default(),
        };
        let service = wrap(flaky.clone())?;
        runtime().block_on(request(service));
        *number = flaky.attempts.load(Relaxed) as f64 / (GROUPS * GROUP) as f64;
    }
    Ok(Attempts { name, a_request })
}

async fn request<S>(service: S)
where
    S: Service<Ask, Future: Send, Error: Send, Response: Send> + Clone + Send + 'static,
{
    let mut requests = JoinSet::new();
    let mut groups = interval(Duration::from_millis(1));
    for group in 0..GROUPS {
        groups.tick().await;
        for value in 0..GROUP {
            let mut service = service.clone();
            requests.spawn(async move {
                // How it ends does not matter.
                let _ = call(&mut service, Ask::new(group * GROUP + value)).await;
            });
        }
    }
    while requests.join_next().await.is_some() {}
}

/// Fails so many of a hundred attempts, the same ones every time.
#[derive(Clone)]
struct Flaky {
    failing: u64,
    attempts: Arc<AtomicU64>,
}

impl Service<Ask> for Flaky {
    type Response = u64;
    type Error = Failure;
    type Future = Ready<Result<u64, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        let attempt = self.attempts.fetch_add(1, Relaxed);
        let chance = fastrand::Rng::with_seed(attempt).u64(..100);
        ready(match chance < self.failing {
            true => Err(Failure::Broken),
            false => Ok(ask.value),
        })
    }
}

/// Retries out of the budget, which successes fill as its documentation shows.
#[derive(Clone)]
struct Policy {
    budget: Arc<TpsBudget>,
    left: u32,
}

impl tower::retry::Policy<Ask, u64, Failure> for Policy {
    type Future = Sleep;

    fn retry(&mut self, _: &mut Ask, result: &mut Result<u64, Failure>) -> Option<Sleep> {
        if result.is_ok() {
            self.budget.deposit();
            return None;
        }
        if self.left == 0 || !self.budget.withdraw() {
            return None;
        }
        self.left -= 1;
        Some(sleep(DELAY))
    }

    fn clone_request(&mut self, ask: &Ask) -> Option<Ask> {
        Some(*ask)
    }
}
