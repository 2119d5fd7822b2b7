//! How many of many racing callers does a breaker let in once its rest is
//! over?

use std::{
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use failsafe::futures::CircuitBreaker as _;
use orchestrator_benches::policies::{Ask, Asks, Failure, call};
use orchestrator_policies::{Breaker, BreakerConfig, BreakerLayer};
use tokio::{
    runtime::Builder,
    sync::Semaphore,
    time::{Instant, sleep},
};
use tower::{Layer, Service, service_fn};
use tower_resilience::circuitbreaker::CircuitBreakerLayer;

use super::Count;
use crate::BenchError;

pub(crate) const CALLERS: u64 = 10_000;
/// More failures than any breaker here needs to open.
const FAILURES: usize = 1_000;
/// How long a breaker rests, and how long we wait for that: failsafe's rests
/// are whole seconds.
const REST: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_millis(1_200);

/// Ours with one probe and with ten, and peers with their defaults.
pub(crate) fn count() -> Result<Vec<Count>, BenchError> {
    let ours = |max_probes: u32| {
        let config = BreakerConfig {
            open: REST,
            max_open: REST,
            max_probes: NonZeroU32::new(max_probes).ok_or("no probes at all")?,
            ..BreakerConfig::default()
        };
        let breaker = BreakerLayer::new(Breaker::new(config)?, Asks);
        race(|held| breaker.layer(held))
    };
    let rests = failsafe::backoff::constant(Duration::from_secs(1));
    let policy = failsafe::failure_policy::consecutive_failures(5, rests);
    let failsafe = failsafe::Config::new().failure_policy(policy).build();
    let by_failsafe = race(|held| {
        service_fn(move |ask| {
            let (breaker, mut held) = (failsafe.clone(), held.clone());
            // Only called if the breaker polls it.
            let attempt = async move { held.call(ask).await };
            async move { breaker.call(attempt).await }
        })
    });
    let resilience = CircuitBreakerLayer::standard()
        .wait_duration_in_open(REST)
        .build()?;
    Ok(vec![
        Count::new("ours, `max_probes` 1", ours(1)?),
        Count::new("ours, `max_probes` 10", ours(10)?),
        Count::new("failsafe", by_failsafe?),
        Count::new(
            "tower-resilience, 3 allowed",
            race(|held| resilience.layer(held))?,
        ),
    ])
}

/// How many calls come through to the service before the first is answered.
fn race<S>(wrap: impl FnOnce(Held) -> S) -> Result<f64, BenchError>
where
    S: Service<Ask, Future: Send, Error: Send, Response: Send> + Clone + Send + 'static,
{
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()?;
    let held = Held::new();
    let service = wrap(held.clone());
    runtime.block_on(async {
        let mut caller = service.clone();
        for _ in 0..FAILURES {
            let _ = call(&mut caller, Ask::new(0)).await;
        }
        held.state.failing.store(false, SeqCst);
        sleep(PATIENCE).await;

        let refused = Arc::new(AtomicU64::new(0));
        for value in 0..CALLERS {
            let (mut service, refused) = (service.clone(), Arc::clone(&refused));
            tokio::spawn(async move {
                if call(&mut service, Ask::new(value)).await.is_err() {
                    refused.fetch_add(1, SeqCst);
                }
            });
        }
        let begin = Instant::now();
        loop {
            let entered = held.state.entered.load(SeqCst);
            if entered + refused.load(SeqCst) >= CALLERS {
                return Ok(entered as f64);
            }
            if begin.elapsed() > 10 * PATIENCE {
                return Err("callers are neither let in nor refused".into());
            }
            sleep(Duration::from_millis(1)).await;
        }
    })
}

/// Fails at first, and later keeps whoever comes in.
#[derive(Clone)]
struct Held {
    state: Arc<State>,
}

struct State {
    failing: AtomicBool,
    entered: AtomicU64,
    /// Never opened.
    gate: Semaphore,
}

impl Held {
    fn new() -> Self {
        let state = Arc::new(State {
            failing: AtomicBool::new(true),
            entered: AtomicU64::new(0),
            gate: Semaphore::new(0),
        });
        Self { state }
    }
}

impl Service<Ask> for Held {
    type Response = u64;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<u64, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        let state = Arc::clone(&self.state);
        Box::pin(async move {
            if state.failing.load(Relaxed) {
                return Err(Failure::Broken);
            }
            state.entered.fetch_add(1, SeqCst);
            let opened = state.gate.acquire().await;
            opened.map(|_| ask.value).map_err(|_| Failure::Broken)
        })
    }
}
