//! Counts the calls that are inside, exactly, without threads meeting at the
//! count.
//!
//! A call that is inside holds one of a fixed number of permits. While plenty
//! are free they are *spread*: every stripe of threads has some on a cache line
//! of its own, and a call takes one there and gives it back there, perhaps on
//! another thread. Where a stripe has none left, all are shared out anew. Once
//! few are free they are *pooled* in one word, and only there is a call ever
//! turned away or made to wait. So a refusal means that there was no permit at
//! that moment, and not merely none in sight.
//!
//! Between the two lies a distance: permits are pooled when less than a quarter
//! is free, and spread when half is. Whoever moves them holds a lock, which is
//! so paid for by many calls that do not need it.
//!
//! Every decision rests on one word. A stripe says in its count that it is
//! closed, and the pool that somebody waits; as whoever changes a count sees
//! that in the same step, no permit goes where nobody looks for it, and no
//! wake-up gets lost.

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, mem, sync::PoisonError, task::Waker};

use crossbeam_utils::CachePadded;

use crate::sync::{AtomicI64, AtomicUsize, Mutex, MutexGuard, Ordering};

/// More permits than this count as this many.
pub(crate) const PERMITS_MAX: usize = u32::MAX as usize;

/// The permits, and the queue for them.
#[derive(Debug)]
pub(crate) struct Permits {
    /// How many permits each stripe has, or [`CLOSED`]. A closed stripe has
    /// none.
    stripes: Box<[CachePadded<AtomicI64>]>,
    /// Picks a stripe: the number of those in use less one.
    mask: AtomicUsize,
    /// From how many free permits on they are spread.
    spread_at: AtomicI64,
    limit: AtomicI64,
    /// How long the queue is; changed by the holder of the lock.
    queued: AtomicUsize,
    pool: CachePadded<AtomicI64>,
    state: CachePadded<Mutex<State>>,
}

const CLOSED: i64 = i64::MIN;

#[derive(Debug)]
struct State {
    plan: Plan,
    /// First come, first served.
    queue: BTreeMap<Ticket, Waker>,
    next_ticket: u64,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// What became of a call that is ready to wait.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// There was a permit after all, and the call has it.
    Taken,
    Queued(Ticket),
    /// Too many wait already.
    Full,
}

/// How permits are shared out.
#[derive(Clone, Copy, Debug)]
struct Plan {
    limit: i64,
    /// Permits that are never spread.
    kept: i64,
    stripes: usize,
}

impl Plan {
    /// Each stripe gets at least two permits when they are spread.
    fn new(limit: usize, kept: usize, stripes_max: usize) -> Self {
        let limit = limit.min(PERMITS_MAX);
        let kept = kept.min(limit);
        let stripes = ((limit - kept) / 8).min(stripes_max);
        let stripes = stripes.checked_ilog2().map_or(1, |log| 1 << log);
        Self {
            limit: count(limit),
            kept: count(kept),
            stripes,
        }
    }

    /// Never, where one word serves as well.
    fn spread_at(&self) -> i64 {
        match self.stripes {
            1 => i64::MAX,
            _ => self.kept + (self.limit - self.kept) / 2,
        }
    }

    fn pool_below(&self) -> i64 {
        match self.stripes {
            1 => i64::MAX,
            _ => self.kept + (self.limit - self.kept) / 4,
        }
    }
}

fn count(permits: usize) -> i64 {
    i64::try_from(permits).unwrap_or(i64::MAX)
}

/// The pool's word: how many permits are free, which is less than none after
/// the limit was lowered, and whether somebody may wait for one. Then none is
/// free, and only the holder of the lock changes the word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pool(i64);

impl Pool {
    /// The permits are with the stripes, or on their way.
    const SPREAD: Self = Self(i64::MIN);

    fn new(free: i64, awaited: bool) -> Self {
        Self(free << 1 | i64::from(awaited))
    }

    fn free(self) -> i64 {
        self.0 >> 1
    }

    fn is_awaited(self) -> bool {
        self.0 & 1 == 1
    }

    fn is_spread(self) -> bool {
        self == Self::SPREAD
    }
}

impl Permits {
    /// `limit` permits, of which `kept` are never spread over `stripes`, a
    /// power of two.
    pub(crate) fn new(limit: usize, kept: usize, stripes: usize) -> Self {
        let plan = Plan::new(limit, kept, stripes);
        let closed = (0..stripes).map(|_| CachePadded::new(AtomicI64::new(CLOSED)));
        let permits = Self {
            stripes: closed.collect(),
            mask: AtomicUsize::new(plan.stripes - 1),
            spread_at: AtomicI64::new(plan.spread_at()),
            limit: AtomicI64::new(plan.limit),
            queued: AtomicUsize::new(0),
            pool: CachePadded::new(AtomicI64::new(Pool::new(plan.limit, false).0)),
            state: CachePadded::new(Mutex::new(State {
                plan,
                queue: BTreeMap::new(),
                next_ticket: 0,
            })),
        };
        permits.try_spread(&permits.lock());
        permits
    }

    /// Takes a permit, unless `spared` or fewer are free. No more than what is
    /// never spread may be spared.
    #[inline]
    pub(crate) fn take(&self, thread: usize, spared: i64) -> bool {
        self.take_spread(thread) || self.take_pooled(thread, spared)
    }

    #[inline]
    fn take_spread(&self, thread: usize) -> bool {
        let stripe = self.stripe(thread);
        let mut free = stripe.load(Ordering::Relaxed);
        while free > 0 {
            // Acquire: what the call that left has done is done.
            let less = free - 1;
            match stripe.compare_exchange_weak(free, less, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => free = now,
            }
        }
        false
    }

    #[inline(never)]
    fn take_pooled(&self, thread: usize, spared: i64) -> bool {
        loop {
            let pool = self.pool();
            if pool.is_spread() {
                self.share_out_anew(thread);
                if self.take_spread(thread) {
                    return true;
                }
                continue;
            }
            if pool.is_awaited() || pool.free() <= spared {
                return false;
            }
            if self.change_pool(pool, Pool::new(pool.free() - 1, false)) {
                return true;
            }
        }
    }

    /// Gives a permit back.
    #[inline]
    pub(crate) fn give_back(&self, thread: usize) {
        if !self.give_to_stripe(thread) {
            self.give_to_pool(thread);
        }
    }

    #[inline]
    fn give_to_stripe(&self, thread: usize) -> bool {
        let stripe = self.stripe(thread);
        let mut free = stripe.load(Ordering::Relaxed);
        while free >= 0 {
            let more = free + 1;
            match stripe.compare_exchange_weak(free, more, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => free = now,
            }
        }
        false
    }

    #[inline(never)]
    fn give_to_pool(&self, thread: usize) {
        loop {
            let pool = self.pool();
            if pool.is_spread() {
                // On their way: whoever moves them holds the lock.
                drop(self.lock());
                if self.give_to_stripe(thread) {
                    return;
                }
                continue;
            }
            if pool.is_awaited() {
                if self.hand_over() {
                    return;
                }
                continue;
            }
            let more = Pool::new(pool.free() + 1, false);
            if self.change_pool(pool, more) {
                if more.free() >= self.spread_at.load(Ordering::Relaxed) {
                    self.try_spread(&self.lock());
                }
                return;
            }
        }
    }

    /// Gives a permit to the first in the queue, if there is a queue.
    fn hand_over(&self) -> bool {
        let mut state = self.lock();
        let pool = self.pool();
        if !pool.is_awaited() {
            return false;
        }
        let woken = self.serve(&mut state, pool.free() + 1);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        true
    }

    /// Waits for a permit, unless `queue_max` calls do so already. To be asked
    /// after [`Self::take`] found none.
    pub(crate) fn join(&self, queue_max: usize, waker: &Waker) -> Join {
        if self.queued() >= queue_max {
            return Join::Full;
        }
        let mut state = self.lock();
        loop {
            let pool = self.pool();
            if pool.is_spread() {
                self.pool_all(&state);
                continue;
            }
            if !pool.is_awaited() && pool.free() > 0 {
                if self.change_pool(pool, Pool::new(pool.free() - 1, false)) {
                    return Join::Taken;
                }
                continue;
            }
            if state.queue.len() >= queue_max {
                return Join::Full;
            }
            if pool.is_awaited() || self.change_pool(pool, Pool::new(pool.free(), true)) {
                let ticket = Ticket(state.next_ticket);
                state.next_ticket += 1;
                state.queue.insert(ticket, waker.clone());
                self.queued.store(state.queue.len(), Ordering::Relaxed);
                return Join::Queued(ticket);
            }
        }
    }

    /// Whether the call in this place has been given a permit, which ends its
    /// place. If not, `waker` will be woken.
    pub(crate) fn is_served(&self, ticket: Ticket, waker: &Waker) -> bool {
        let mut waker = waker.clone();
        let mut state = self.lock();
        let Some(waiting) = state.queue.get_mut(&ticket) else {
            return true;
        };
        // The other one is dropped once the lock is released, for to drop a
        // waker may run any code.
        mem::swap(waiting, &mut waker);
        drop(state);
        false
    }

    /// Leaves the queue, unless the call was given a permit first.
    pub(crate) fn leave(&self, ticket: Ticket) -> bool {
        let mut state = self.lock();
        // If it was the last one, the next permit to come back finds that out.
        let waker = state.queue.remove(&ticket);
        self.queued.store(state.queue.len(), Ordering::Relaxed);
        drop(state);
        waker.is_some()
    }

    /// How many permits there are.
    pub(crate) fn limit(&self) -> usize {
        usize::try_from(self.limit.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Calls that wait.
    pub(crate) fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Permits that are taken, of as many as there are. A call that enters or
    /// leaves meanwhile may count or not.
    pub(crate) fn taken(&self) -> usize {
        let state = self.lock();
        let pool = self.pool();
        let free = if pool.is_spread() {
            let spread = self
                .stripes
                .iter()
                .map(|stripe| stripe.load(Ordering::Relaxed));
            spread.filter(|&free| free != CLOSED).sum::<i64>() + state.plan.kept
        } else {
            pool.free()
        };
        usize::try_from(state.plan.limit - free).unwrap_or(0)
    }

    /// Changes how many permits there are, and what goes with them: `beside`
    /// is done under the same lock, so that of two changes one holds and no
    /// mixture. Calls inside stay inside: a lower limit holds once enough of
    /// them have left.
    pub(crate) fn resize(&self, limit: usize, kept: usize, beside: impl FnOnce()) {
        let mut state = self.lock();
        beside();
        if self.pool().is_spread() {
            self.pool_all(&state);
        }
        let plan = Plan::new(limit, kept, self.stripes.len());
        let more = plan.limit - state.plan.limit;
        state.plan = plan;
        self.mask.store(plan.stripes - 1, Ordering::Relaxed);
        self.spread_at.store(plan.spread_at(), Ordering::Relaxed);
        self.limit.store(plan.limit, Ordering::Relaxed);
        // The lowest bit says whether somebody waits, and stays.
        self.pool.fetch_add(more << 1, Ordering::AcqRel);
        let mut woken = Vec::new();
        let pool = self.pool();
        if pool.is_awaited() {
            woken = self.serve(&mut state, pool.free());
        }
        self.try_spread(&state);
        drop(state);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Gives the `free` permits to those who wait, and puts what is left into
    /// the pool. Whom to wake once the lock is released.
    fn serve(&self, state: &mut State, mut free: i64) -> Vec<Waker> {
        let mut woken = Vec::new();
        while free > 0
            && let Some((_, waker)) = state.queue.pop_first()
        {
            free -= 1;
            woken.push(waker);
        }
        self.queued.store(state.queue.len(), Ordering::Relaxed);
        self.put(Pool::new(free, !state.queue.is_empty()));
        woken
    }

    /// Moves permits to this thread's stripe, which was found empty; or into
    /// the pool, if they are few.
    #[cold]
    fn share_out_anew(&self, thread: usize) {
        let state = self.lock();
        let is_empty = self.stripe(thread).load(Ordering::Relaxed) <= 0;
        if self.pool().is_spread() && is_empty {
            let free = self.close() + state.plan.kept;
            if free >= state.plan.pool_below() {
                self.open(&state.plan, free);
            } else {
                self.put(Pool::new(free, false));
            }
        }
    }

    /// Spreads the permits, if enough are free in the pool.
    fn try_spread(&self, state: &State) {
        let pool = self.pool();
        let enough = !pool.is_spread() && pool.free() >= state.plan.spread_at();
        if enough && !pool.is_awaited() && self.change_pool(pool, Pool::SPREAD) {
            self.open(&state.plan, pool.free());
        }
    }

    fn pool_all(&self, state: &State) {
        self.put(Pool::new(self.close() + state.plan.kept, false));
    }

    /// Closes the stripes. How many permits they had.
    fn close(&self) -> i64 {
        let close = |stripe: &CachePadded<AtomicI64>| stripe.swap(CLOSED, Ordering::AcqRel);
        let had = self.stripes.iter().map(close);
        had.filter(|&free| free != CLOSED).sum()
    }

    /// Shares out `free` permits, less those that are kept.
    fn open(&self, plan: &Plan, free: i64) {
        let stripes = count(plan.stripes);
        let (each, rest) = ((free - plan.kept) / stripes, (free - plan.kept) % stripes);
        for (number, stripe) in (0..stripes).zip(&self.stripes) {
            stripe.store(each + i64::from(number < rest), Ordering::Release);
        }
    }

    #[inline]
    fn stripe(&self, thread: usize) -> &AtomicI64 {
        &self.stripes[thread & self.mask.load(Ordering::Relaxed)]
    }

    fn pool(&self) -> Pool {
        Pool(self.pool.load(Ordering::Relaxed))
    }

    /// Only for the holder of the lock, while nobody else may change the word.
    fn put(&self, pool: Pool) {
        self.pool.store(pool.0, Ordering::Release);
    }

    fn change_pool(&self, from: Pool, to: Pool) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Relaxed);
        self.pool
            .compare_exchange(from.0, to.0, success, failure)
            .is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic cannot leave the state half changed, so poison is ignored.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
