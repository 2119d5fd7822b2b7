//! The buckets of a rate limiter, and the line before them.

use std::{
    num::NonZeroU32,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use tokio::{runtime::Handle, time::Sleep};

use super::{
    Rate, RateLimitConfig,
    gcra::{Bucket, TenantBuckets},
    lease::{self, Leases},
    line::{Line, Standing, Ticket},
};
use crate::{
    admission::Call,
    clock::{self, Instant},
    config::ConfigError,
    refusal::Refusal,
    striped::{Place, Striped},
};

/// The buckets and the line before them. Clones share both.
#[derive(Clone, Debug)]
pub struct RateLimiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// What a call finds first: a sum of the numbers below.
    gate: AtomicU8,
    leases: Leases,
    /// The same for every stripe. Who changes them holds all of these locks,
    /// and so nothing is taken meanwhile.
    rules: Striped<RwLock<Arc<Rules>>>,
    /// Locked after the rules.
    line: Mutex<Line>,
    bell: Waker,
}

/// What the alarm wakes: whatever becomes of the tasks that wait, the line is
/// served.
struct Bell(Weak<Shared>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = self.0.upgrade() {
            RateLimiter(shared).serve();
        }
    }
}

/// There is an overall bucket, and nothing else to look at.
const OVERALL_ONLY: u8 = 0;
/// Nothing is limited.
const UNLIMITED: u8 = 1;
/// Tenants have buckets.
const TENANTS: u8 = 2;
/// Somebody waits.
const AWAITED: u8 = 4;

#[derive(Debug)]
struct Rules {
    tenants: Option<TenantBuckets>,
    /// Counts how often the rate of tenants was changed.
    tenant_rate: u64,
    overall: Option<Overall>,
    max_wait: Duration,
    max_queue: usize,
}

/// The bucket for all.
#[derive(Debug)]
pub(super) struct Overall {
    pub(super) bucket: Bucket,
    /// How many tokens a stripe of threads may have on loan.
    pub(super) lease_most: u64,
}

/// What a rate limiter holds at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimitSnapshot {
    /// Tokens for all that are there, without those on loan to threads;
    /// nothing if there is no overall rate.
    pub tokens: Option<u64>,
    /// Tenants that have a bucket of their own.
    pub tenants: usize,
    /// Calls that wait for a token.
    pub queued: usize,
}

/// A place in the line, and how long it lasts. Waiting is the exception, so it
/// may cost an allocation.
#[derive(Debug)]
pub(super) struct Wait {
    ticket: Ticket,
    tenant: u64,
    /// When its tenant's token will be back by itself, at that rate.
    back_at: u64,
    tenant_rate: u64,
    patience: Pin<Box<Sleep>>,
    /// When that ends, in nanoseconds.
    until: u64,
}

impl Rules {
    fn new(config: &RateLimitConfig) -> Self {
        let max_tenants = config.max_tenants.get();
        let tenants = |rate| TenantBuckets::new(rate, max_tenants);
        Self {
            tenants: config.per_tenant.as_ref().map(tenants),
            tenant_rate: 0,
            overall: config
                .overall
                .as_ref()
                .map(|rate| Overall::new(rate, Bucket::new(rate))),
            max_wait: config.max_wait,
            max_queue: config.max_queue.get(),
        }
    }

    /// With as many tokens taken as from these, of which nothing may be taken
    /// any more.
    fn changed(&self, config: &RateLimitConfig, now: u64) -> Self {
        let mut rules = Self::new(config);
        if let (Some(known), Some(rate)) = (&self.overall, &config.overall) {
            rules.overall = Some(Overall::new(rate, known.bucket.at_rate(rate, now)));
        }
        if let (Some(known), Some(rate)) = (&self.tenants, &config.per_tenant) {
            rules.tenants = Some(known.at_rate(rate, config.max_tenants.get(), now));
        }
        let pace = |rules: &Self| rules.tenants.as_ref().map(TenantBuckets::pace);
        let is_changed = pace(&rules) != pace(self);
        rules.tenant_rate = self.tenant_rate + u64::from(is_changed);
        rules
    }

    /// Puts back what a call of `tenant`'s took that was not let in.
    fn put_back(&self, tenant: u64, back_at: u64, now: u64) {
        if let Some(tenants) = &self.tenants {
            tenants.put_back(tenant, back_at, now);
        }
    }

    /// The same for a call that waited. When its token is back is known only
    /// at the rate that it was taken at.
    fn put_back_of(&self, wait: &Wait, now: u64) {
        if wait.tenant_rate == self.tenant_rate {
            self.put_back(wait.tenant, wait.back_at, now);
        }
    }

    fn gate(&self) -> u8 {
        match (&self.tenants, &self.overall) {
            (Some(_), _) => TENANTS,
            (None, Some(_)) => OVERALL_ONLY,
            (None, None) => UNLIMITED,
        }
    }
}

impl Overall {
    pub(super) fn new(rate: &Rate, bucket: Bucket) -> Self {
        let lease_most = lease::most(bucket.interval(), rate.burst_or_default().get());
        Self { bucket, lease_most }
    }

    /// Takes a token that is on loan, or borrows some, or takes a single one;
    /// or says how long until there is one.
    pub(super) fn take(&self, leases: &Leases, place: Place, now: u64) -> Result<(), Duration> {
        if leases.take(place, now) {
            return Ok(());
        }
        let due = leases.due(place, now, self.lease_most);
        if let Some(tokens) = u32::try_from(due.tokens).ok().and_then(NonZeroU32::new)
            && tokens > NonZeroU32::MIN
        {
            if self.bucket.take_together(tokens, now) {
                leases.keep(due, now);
                return Ok(());
            }
            leases.start_over(due);
            return self.bucket.take(now);
        }
        self.bucket.take(now)?;
        if self.lease_most > 1 {
            leases.keep(due, now);
        }
        Ok(())
    }
}

impl RateLimiter {
    /// A limiter with full buckets.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: RateLimitConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let rules = Arc::new(Rules::new(&config));
        Ok(Self(Arc::new_cyclic(|shared| Shared {
            gate: AtomicU8::new(rules.gate()),
            leases: Leases::new(),
            rules: Striped::new(|| RwLock::new(Arc::clone(&rules))),
            line: Mutex::default(),
            bell: Waker::from(Arc::new(Bell(Weak::clone(shared)))),
        })))
    }

    /// Changes the rates. As many tokens stay taken as were, of all and of
    /// each tenant, though no more than the new buckets hold. Calls that wait
    /// keep their places, and are refused now if their turn has moved beyond
    /// the time they would wait.
    ///
    /// Calls are held up meanwhile; a hundred thousand tenants take about a
    /// millisecond.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work; the rates are then what they were.
    pub fn reconfigure(&self, config: RateLimitConfig) -> Result<(), ConfigError> {
        config.validate()?;
        let shared = &*self.0;
        let mut stripes: Vec<_> = shared.rules.iter().map(write).collect();
        let now = clock::now().as_nanos();
        let Some(rules) = stripes.first().map(|rules| rules.changed(&config, now)) else {
            unreachable!("there is at least one stripe");
        };
        let rules = Arc::new(rules);
        for stripe in &mut stripes {
            **stripe = Arc::clone(&rules);
        }
        shared.leases.clear(now);
        let mut line = self.line();
        let bucket = rules.overall.as_ref().map(|overall| &overall.bucket);
        let woken = line.bucket_changed(bucket, now);
        shared.gate.store(rules.gate(), Ordering::Relaxed);
        self.line_changed(&mut line, now);
        drop((line, stripes));
        woken.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Takes a token for one call of `tenant`'s at `now`, without waiting.
    ///
    /// # Errors
    ///
    /// Says how long until there may be a token.
    pub fn try_take(&self, tenant: u64, now: Instant) -> Result<(), Duration> {
        let (rules, now) = (self.rules(), now.as_nanos());
        if let Some(tenants) = &rules.tenants {
            tenants.take(tenant, now)?;
        }
        let Some(overall) = &rules.overall else {
            return Ok(());
        };
        let taken = if self.is_awaited() {
            Err(self.time_to_turn(&self.line(), overall, now))
        } else {
            overall.take(&self.0.leases, Place::of_this_thread(), now)
        };
        taken.inspect_err(|_| rules.put_back(tenant, u64::MAX, now))
    }

    /// What it holds at `now`.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> RateLimitSnapshot {
        let rules = self.rules();
        let tokens = |overall: &Overall| overall.bucket.tokens(now.as_nanos());
        RateLimitSnapshot {
            tokens: rules.overall.as_ref().map(tokens),
            tenants: rules.tenants.as_ref().map_or(0, TenantBuckets::len),
            queued: self.line().len(),
        }
    }

    /// Lets a call in that needs no more than a token on loan, as nearly all
    /// do. Any other is to be [admitted](Self::admit).
    #[inline]
    pub(super) fn admit_at_once(&self, call: &Call) -> bool {
        let gate = self.0.gate.load(Ordering::Relaxed);
        if gate == OVERALL_ONLY {
            return self.0.leases.take(call.place(), call.now().as_nanos());
        }
        gate == UNLIMITED
    }

    /// Lets a call in, or has it wait.
    pub(super) fn admit(&self, call: &mut Call, cx: &Context<'_>) -> Result<Option<Wait>, Refusal> {
        let refuse = |retry_after| Refusal::RateLimited { retry_after };
        let (rules, now) = (self.rules(), call.now().as_nanos());
        if let Some(tenants) = &rules.tenants {
            tenants.take(call.tenant(), now).map_err(refuse)?;
        }
        let Some(overall) = &rules.overall else {
            return Ok(None);
        };
        if !self.is_awaited() {
            match overall.take(&self.0.leases, call.place(), now) {
                Ok(()) => return Ok(None),
                Err(wait) if rules.max_wait.is_zero() => {
                    rules.put_back(call.tenant(), u64::MAX, now);
                    return Err(refuse(wait));
                }
                Err(_) => {}
            }
        }
        let mut line = self.line();
        let woken = line.serve(&overall.bucket, now);
        let turn = line.turn_of_newcomer(&overall.bucket, now);
        let until = clock::after(call.now(), rules.max_wait).min(call.deadline().at());
        let until = until.as_nanos();
        let admitted = if turn <= now && line.is_empty() && overall.bucket.take(now).is_ok() {
            Ok(None)
        } else if turn > until || line.len() >= rules.max_queue {
            // Whoever would wait in vain is told at once.
            rules.put_back(call.tenant(), u64::MAX, now);
            Err(refuse(Duration::from_nanos(turn.saturating_sub(now))))
        } else {
            let left = Duration::from_nanos(until - now);
            let patience = Box::pin(tokio::time::sleep(left));
            let ticket = line.join(turn, until, cx.waker().clone(), Handle::current());
            let tenant = call.tenant();
            let full_at = |tenants: &TenantBuckets| tenants.full_at(tenant);
            let back_at = rules.tenants.as_ref().map_or(0, full_at);
            Ok(Some(Wait {
                ticket,
                tenant,
                back_at,
                tenant_rate: rules.tenant_rate,
                patience,
                until,
            }))
        };
        self.line_changed(&mut line, now);
        drop((line, rules));
        woken.into_iter().for_each(Waker::wake);
        admitted
    }

    /// Ready when the call has its token, or would wait too long for it.
    pub(super) fn poll_wait(
        &self,
        wait: &mut Wait,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        loop {
            let now = clock::now().as_nanos();
            match self.standing(wait.ticket, now, cx.waker().clone()) {
                Standing::Served => return Poll::Ready(Ok(())),
                Standing::Waits => ready!(wait.poll_patience(now, cx)),
                Standing::TooLate(turn) => {
                    self.rules().put_back_of(wait, now);
                    let retry_after = Duration::from_nanos(turn.saturating_sub(now));
                    return Poll::Ready(Err(Refusal::RateLimited { retry_after }));
                }
            }
        }
    }

    fn standing(&self, ticket: Ticket, now: u64, mut waker: Waker) -> Standing {
        self.with_line(now, |line, _| line.standing(ticket, now, &mut waker))
            .unwrap_or(Standing::Served)
    }

    /// Gives the tokens that are there to those who wait for them.
    fn serve(&self) {
        let now = clock::now().as_nanos();
        let _: Option<()> = self.with_line(now, |_, _| ());
    }

    /// Serves the line before and after `act`, and wakes whom it serves.
    /// Nothing if there is no line, for there is no bucket.
    fn with_line<T>(&self, now: u64, act: impl FnOnce(&mut Line, &Bucket) -> T) -> Option<T> {
        let rules = self.rules();
        let bucket = &rules.overall.as_ref()?.bucket;
        let mut line = self.line();
        let mut woken = line.serve(bucket, now);
        let acted = act(&mut line, bucket);
        woken.extend(line.serve(bucket, now));
        self.line_changed(&mut line, now);
        drop((line, rules));
        woken.into_iter().for_each(Waker::wake);
        Some(acted)
    }

    /// Gives up a place in the line and the tenant's token, and the one of all
    /// if there was one after all.
    #[cold]
    pub(super) fn give_up(&self, wait: &Wait) {
        let now = clock::now().as_nanos();
        self.rules().put_back_of(wait, now);
        let left = self.with_line(now, |line, bucket| {
            let left = line.leave(wait.ticket);
            if left.is_none() {
                bucket.put_back();
            }
            left
        });
        drop(left);
    }

    /// How long until everybody in the line will have been served, and there
    /// is a token for another.
    fn time_to_turn(&self, line: &Line, overall: &Overall, now: u64) -> Duration {
        let turn = line.turn_of_newcomer(&overall.bucket, now);
        Duration::from_nanos(turn.saturating_sub(now))
    }

    fn is_awaited(&self) -> bool {
        self.0.gate.load(Ordering::Relaxed) & AWAITED != 0
    }

    /// So that newcomers join the line, or need not, and that it is served in
    /// time.
    fn line_changed(&self, line: &mut Line, now: u64) {
        line.set_alarm(now, &self.0.bell);
        if line.is_empty() == self.is_awaited() {
            self.0.gate.fetch_xor(AWAITED, Ordering::Relaxed);
        }
    }

    fn rules(&self) -> RwLockReadGuard<'_, Arc<Rules>> {
        let rules = self.0.rules.mine().read();
        // A panic cannot leave either half changed, so poison is ignored.
        rules.unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.0.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> u64 {
        let rules = self.rules();
        let asked = |overall: &Overall| overall.bucket.asked();
        rules.overall.as_ref().map_or(0, asked)
    }
}

/// A panic cannot leave the rules half changed, so poison is ignored.
fn write(rules: &RwLock<Arc<Rules>>) -> RwLockWriteGuard<'_, Arc<Rules>> {
    rules.write().unwrap_or_else(PoisonError::into_inner)
}

impl Wait {
    fn poll_patience(&mut self, now: u64, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.patience.as_mut().poll(cx));
        // The two clocks may differ by a little; then it is to be set again.
        if now < self.until {
            let left = Duration::from_nanos(self.until - now);
            let at = tokio::time::Instant::now() + left;
            self.patience.as_mut().reset(at);
            return self.patience.as_mut().poll(cx);
        }
        Poll::Ready(())
    }
}
