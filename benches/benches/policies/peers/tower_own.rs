//! What tower itself brings: timeout, concurrency limit and rate limit. No
//! breaker, and the rate limit cannot be shared but through a task.

use std::{sync::Arc, time::Duration};

use orchestrator_benches::policies::{Ask, CONCURRENT, Echo, Failure, TOTAL};
use tower::{
    Layer, ServiceBuilder,
    limit::{ConcurrencyLimitLayer, RateLimitLayer},
    load_shed::LoadShedLayer,
    retry::{
        RetryLayer,
        budget::{Budget, TpsBudget},
    },
    timeout::TimeoutLayer,
};

use crate::contender::{Contender, Pair, calling_on, runtime};

const SECOND: Duration = Duration::from_secs(1);
/// Calls a second that nobody makes.
const PLENTY: u64 = u64::MAX / 4;

pub(crate) fn stack() -> Pair {
    Pair::new("tower: timeout, concurrency, rate", |echo| {
        unshared(move || {
            ServiceBuilder::new()
                .timeout(TOTAL)
                .concurrency_limit(CONCURRENT)
                .rate_limit(PLENTY, SECOND)
                .service(echo)
        })
    })
}

pub(crate) fn single() -> Vec<Pair> {
    let concurrency = ConcurrencyLimitLayer::new(CONCURRENT);
    let retry = RetryLayer::new(Policy {
        budget: Arc::new(TpsBudget::default()),
        retries_left: 2,
    });
    vec![
        Pair::new("tower: timeout", |echo| {
            Contender::of(TimeoutLayer::new(TOTAL).layer(echo), true)
        }),
        Pair::new("tower: rate limit", |echo| {
            unshared(move || RateLimitLayer::new(PLENTY, SECOND).layer(echo))
        }),
        Pair::new("tower: retry with budget", |echo| {
            Contender::of(retry.layer(echo), true)
        }),
        Pair::new("tower: concurrency limit", |echo| {
            Contender::of(concurrency.layer(echo), true)
        }),
        Pair::new("tower: load shed", |echo: Echo| {
            Contender::of(LoadShedLayer::new().layer(echo), true)
        }),
    ]
}

/// For services that are not `Clone`: each worker has its own.
fn unshared<S>(make: impl Fn() -> S + Send + Sync + 'static) -> Contender
where
    S: tower::Service<Ask> + 'static,
{
    let mut contender = Contender::new(move || {
        let runtime = runtime();
        // The rate limit has a timer from the beginning.
        let mut service = {
            let _entered = runtime.enter();
            make()
        };
        let call = async move |ask| {
            let answer = orchestrator_benches::policies::call(&mut service, ask).await;
            answer.is_ok()
        };
        calling_on(runtime, call, true)
    });
    contender.shared = false;
    contender
}

/// Two retries out of a budget.
#[derive(Clone)]
struct Policy {
    budget: Arc<TpsBudget>,
    retries_left: u8,
}

impl tower::retry::Policy<Ask, u64, Failure> for Policy {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut Ask,
        result: &mut Result<u64, Failure>,
    ) -> Option<std::future::Ready<()>> {
        if result.is_ok() {
            self.budget.deposit();
            return None;
        }
        if self.retries_left == 0 || !self.budget.withdraw() {
            return None;
        }
        self.retries_left -= 1;
        Some(std::future::ready(()))
    }

    fn clone_request(&mut self, ask: &Ask) -> Option<Ask> {
        Some(*ask)
    }
}
