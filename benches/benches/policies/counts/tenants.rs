//! What does a keyed rate limit remember of a million tenants that come once?

use std::num::NonZeroU32;

use governor::{DefaultKeyedRateLimiter, Quota};
use orchestrator_policies::{Rate, RateLimitConfig, RateLimiter, clock};

use crate::BenchError;

const TENANTS: u64 = 1_000_000;
const RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

/// Megabytes that are held at the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) ours: f64,
    /// After as many tenants as are counted apart.
    pub(crate) ours_full: f64,
    pub(crate) governor: f64,
}

pub(crate) fn count() -> Result<Memory, BenchError> {
    let config = RateLimitConfig {
        per_tenant: Some(Rate {
            calls: RATE,
            per: std::time::Duration::from_secs(1),
            burst: None,
        }),
        ..RateLimitConfig::default()
    };
    let max_tenants = config.max_tenants.get() as u64;
    let ours = |tenants| {
        held_by(|| {
            let limiter = RateLimiter::new(config.clone());
            if let Ok(limiter) = &limiter {
                for tenant in 0..tenants {
                    let _ = limiter.try_take(tenant, clock::now());
                }
            }
            limiter
        })
    };
    Ok(Memory {
        ours: ours(TENANTS),
        ours_full: ours(max_tenants),
        governor: held_by(|| {
            let limiter = DefaultKeyedRateLimiter::<u64>::keyed(Quota::per_second(RATE));
            for tenant in 0..TENANTS {
                let _ = limiter.check_key(&tenant);
            }
            limiter
        }),
    })
}

/// Megabytes of the heap that what `make` makes keeps.
fn held_by<T>(make: impl FnOnce() -> T) -> f64 {
    let mut made = None;
    let counted = allocation_counter::measure(|| made = Some(make()));
    drop(made);
    counted.bytes_current as f64 / 1e6
}
