//! What most policies are: they decide whether a call comes in, and learn how
//! it ended.
//!
//! A policy of this kind is a pure core with an [`Admission`] on top. It
//! becomes a tower layer by [`Stack`](crate::Stack), which drives one or many
//! of them in one future: with one reading of the clock on the way in and one
//! on the way out, one pointer to all of them, and one place that gives back
//! what a call holds however it ends.

use std::task::{Context, Poll};

use crate::{
    classify::Outcome,
    clock::{self, Instant},
    deadline::Deadline,
    event::PolicyEvent,
    refusal::{Refusal, RefusalKind},
    shed::Criticality,
    striped::Place,
};

/// Decides whether a call comes in, and learns how it ended.
///
/// To add a policy, implement this; `shed.rs` is the one to follow. Policies go
/// together as pairs, the outer one first. A stack clones each once for every
/// stripe of threads, so what calls share is behind a pointer.
pub trait Admission<Req, Res, Err> {
    /// What one call holds of this policy. The default is what a call holds
    /// that has not come in. Holds nothing that must be given back other than
    /// by [`settle`](Self::settle).
    type Hold: Default;

    /// Whether [`poll_admit`](Self::poll_admit) ever has a call wait. It is
    /// cheaper to pass policies of which it is known that they do not.
    const WAITS: bool = true;

    /// Whether [`poll_admit`](Self::poll_admit) asks for [`Call::now`]. The
    /// clock is only read for those who do.
    const TIMES_ENTRY: bool = true;

    /// Whether [`settle`](Self::settle) does.
    const TIMES_END: bool = true;

    /// Whether a panic of the service is to become a refusal.
    const CATCHES_PANICS: bool = false;

    /// Whether it may be among the policies that a call meets once. Where it
    /// may not, a stack that has it there does not compile.
    const PER_CALL: bool = true;

    /// Whether it may be among those that each attempt meets.
    const PER_ATTEMPT: bool = true;

    /// Lets a call in, or refuses it, or has it wait.
    ///
    /// Asked again with the same `hold` after it had the call wait, and never
    /// after it let the call in or refused it. A wait must not go on after
    /// [`Call::deadline`].
    fn poll_admit(
        &self,
        hold: &mut Self::Hold,
        call: &mut Call,
        request: &Req,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>>;

    /// Learns how a call ended, and takes back what it holds, so that `hold`
    /// is the default again. The call may have been refused by this policy or
    /// another, may wait still, or may not have come this far; `hold` tells.
    fn settle(&self, hold: &mut Self::Hold, call: &mut Call, end: &End<'_, Res, Err>);

    /// Hears of a refusal or a retry of a call. Only asked of policies that a
    /// call meets once; for those that keep a record of calls.
    #[inline]
    fn on_event(&self, hold: &mut Self::Hold, event: &PolicyEvent) {
        let _ = (hold, event);
    }
}

/// What policies know of a call, and tell each other.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    now: Instant,
    deadline: Deadline,
    /// [`NOT_ASKED`], or when the service was.
    asked: Instant,
    place: Place,
    tenant: u64,
    criticality: Criticality,
}

const NOT_ASKED: Instant = Instant::from_nanos(u64::MAX);

impl Call {
    #[inline]
    pub(crate) fn new(
        now: Instant,
        deadline: Option<Instant>,
        tenant: u64,
        criticality: Criticality,
    ) -> Self {
        Self {
            now,
            deadline: Deadline::of_caller(deadline),
            asked: NOT_ASKED,
            place: Place::of_this_thread(),
            tenant,
            criticality,
        }
    }

    /// Goes on after the call was put aside, perhaps on another thread.
    pub(crate) fn resume(&mut self) {
        self.place = Place::of_this_thread();
    }

    /// The time, which is the same until the call has waited or the service
    /// has answered. For policies that [say](Admission::TIMES_ENTRY) when they
    /// ask.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Instant {
        self.now
    }

    #[inline]
    pub(crate) fn read_clock(&mut self) {
        self.now = clock::now();
    }

    /// Since when the service has the attempt: when the last policy let it in,
    /// so that no queue of ours is part of the time since. Nothing while a
    /// policy has the attempt wait, or when one refused it. For policies that
    /// [say](Admission::TIMES_ENTRY) that they ask for the time.
    #[must_use]
    #[inline]
    pub fn asked(&self) -> Option<Instant> {
        (self.asked != NOT_ASKED).then_some(self.asked)
    }

    /// Every policy has let the attempt in.
    #[inline]
    pub(crate) fn ask(&mut self) {
        self.asked = self.now;
    }

    /// Another attempt begins, which the policies have to let in.
    pub(crate) fn begin_attempt(&mut self, deadline: Deadline) {
        self.asked = NOT_ASKED;
        self.deadline = deadline;
    }

    /// Where the thread counts that goes on with the call.
    #[inline]
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// When the call's time is up, as far as is known where it is now.
    #[must_use]
    #[inline]
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Sets when the call's time is up, for the policies further in and for
    /// the service.
    #[inline]
    pub fn set_deadline(&mut self, deadline: Deadline) {
        self.deadline = deadline;
    }

    /// Whose call it is.
    #[must_use]
    #[inline]
    pub fn tenant(&self) -> u64 {
        self.tenant
    }

    /// How important it is.
    #[must_use]
    #[inline]
    pub fn criticality(&self) -> Criticality {
        self.criticality
    }
}

/// How a call ended. Whether and since when the service had it,
/// [`Call::asked`] tells.
#[derive(Debug)]
pub enum End<'a, Res, Err> {
    /// With a result: the service's, or a refusal further in.
    Answered {
        /// The result.
        result: &'a Result<Res, Err>,
        /// What it says of the service. [`Outcome::Ignore`] if the service
        /// was not asked.
        outcome: Outcome,
        /// The policy that ended the call, if one did.
        refusal: Option<RefusalKind>,
    },
    /// Without one: the caller gave up.
    Dropped,
    /// Without one: the service panicked.
    Panicked,
}

impl<Res, Err> Clone for End<'_, Res, Err> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Res, Err> Copy for End<'_, Res, Err> {}

impl<Res, Err> End<'_, Res, Err> {
    /// The policy that ended the call, if one did.
    #[must_use]
    pub fn refusal(&self) -> Option<RefusalKind> {
        match self {
            Self::Answered { refusal, .. } => *refusal,
            Self::Dropped | Self::Panicked => None,
        }
    }
}

/// Lets every call in.
impl<Req, Res, Err> Admission<Req, Res, Err> for () {
    type Hold = ();

    const WAITS: bool = false;

    const TIMES_ENTRY: bool = false;

    const TIMES_END: bool = false;

    #[inline]
    fn poll_admit(
        &self,
        (): &mut (),
        _: &mut Call,
        _: &Req,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn settle(&self, (): &mut (), _: &mut Call, _: &End<'_, Res, Err>) {}
}

/// A policy that may be left out.
impl<Req, Res, Err, A> Admission<Req, Res, Err> for Option<A>
where
    A: Admission<Req, Res, Err>,
{
    type Hold = A::Hold;

    const WAITS: bool = A::WAITS;

    const TIMES_ENTRY: bool = A::TIMES_ENTRY;

    const TIMES_END: bool = A::TIMES_END;

    const CATCHES_PANICS: bool = A::CATCHES_PANICS;

    const PER_CALL: bool = A::PER_CALL;

    const PER_ATTEMPT: bool = A::PER_ATTEMPT;

    #[inline]
    fn poll_admit(
        &self,
        hold: &mut A::Hold,
        call: &mut Call,
        request: &Req,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        match self {
            Some(policy) => policy.poll_admit(hold, call, request, cx),
            None => Poll::Ready(Ok(())),
        }
    }

    #[inline]
    fn settle(&self, hold: &mut A::Hold, call: &mut Call, end: &End<'_, Res, Err>) {
        if let Some(policy) = self {
            policy.settle(hold, call, end);
        }
    }

    #[inline]
    fn on_event(&self, hold: &mut A::Hold, event: &PolicyEvent) {
        if let Some(policy) = self {
            policy.on_event(hold, event);
        }
    }
}

/// What a call holds of a pair.
#[derive(Debug, Default)]
pub struct Both<A, B> {
    outer: A,
    inner: B,
    /// Whether the inner policy has the call wait, after the outer one has let
    /// it in.
    entered: bool,
}

/// Asks the outer policy, then the inner one. The inner one learns first how
/// the call ended.
impl<Req, Res, Err, A, B> Admission<Req, Res, Err> for (A, B)
where
    A: Admission<Req, Res, Err>,
    B: Admission<Req, Res, Err>,
{
    type Hold = Both<A::Hold, B::Hold>;

    const WAITS: bool = A::WAITS || B::WAITS;

    const TIMES_ENTRY: bool = A::TIMES_ENTRY || B::TIMES_ENTRY;

    const TIMES_END: bool = A::TIMES_END || B::TIMES_END;

    const CATCHES_PANICS: bool = A::CATCHES_PANICS || B::CATCHES_PANICS;

    const PER_CALL: bool = A::PER_CALL && B::PER_CALL;

    const PER_ATTEMPT: bool = A::PER_ATTEMPT && B::PER_ATTEMPT;

    // There is nothing to a pair but what its halves do, and the call to it
    // would cost as much as many of them.
    #[inline(always)]
    fn poll_admit(
        &self,
        hold: &mut Self::Hold,
        call: &mut Call,
        request: &Req,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        if !(B::WAITS && hold.entered) {
            match self.0.poll_admit(&mut hold.outer, call, request, cx) {
                Poll::Ready(Ok(())) => {}
                // As it is: taking it apart would be done for every call.
                other => return other,
            }
        }
        let admitted = self.1.poll_admit(&mut hold.inner, call, request, cx);
        if B::WAITS && admitted.is_pending() {
            hold.entered = true;
        }
        admitted
    }

    #[inline(always)]
    fn settle(&self, hold: &mut Self::Hold, call: &mut Call, end: &End<'_, Res, Err>) {
        if B::WAITS {
            hold.entered = false;
        }
        self.1.settle(&mut hold.inner, call, end);
        self.0.settle(&mut hold.outer, call, end);
    }

    #[inline]
    fn on_event(&self, hold: &mut Self::Hold, event: &PolicyEvent) {
        self.1.on_event(&mut hold.inner, event);
        self.0.on_event(&mut hold.outer, event);
    }
}
