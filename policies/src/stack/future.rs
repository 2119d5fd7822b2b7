//! The way of one call through its policies and back.

mod ending;

use std::{
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::Service;

use super::{
    Policies,
    state::{Stage, State},
    timer::Timer,
};
use crate::{
    admission::{Admission, Call, End},
    classify::Classify,
    clock::{self, Instant},
    deadline::Deadline,
    panic,
    refusal::Refusal,
    retry::Repeat,
    shed::Criticality,
    striped::Local,
};

pin_project! {
    /// The answer, or the refusal of a policy.
    ///
    /// Dropped at any time, it ends the service's work first and then gives
    /// back all that the call holds.
    // In this order: whoever moves a new call has no reason to copy what comes
    // last and holds nothing yet.
    #[repr(C)]
    #[project = CallProj]
    #[must_use = "futures do nothing unless polled"]
    pub struct StackFuture<S, C, O, R, I, Req>
    where
        S: Service<Req>,
        O: Admission<Req, S::Response, S::Error>,
        I: Admission<Req, S::Response, S::Error>,
    {
        state: State<S, C, O, R, I, Req, O::Hold, I::Hold>,
        // The service's work, while there is some.
        #[pin]
        answer: Option<S::Future>,
        // Taken when something is first seen to take time.
        timer: Option<Timer>,
    }

    impl<S, C, O, R, I, Req> PinnedDrop for StackFuture<S, C, O, R, I, Req>
    where
        S: Service<Req>,
        O: Admission<Req, S::Response, S::Error>,
        I: Admission<Req, S::Response, S::Error>,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.state.stage != Stage::Done {
                this.abandon();
            }
        }
    }
}

impl<S, C, O, R, I, Req> StackFuture<S, C, O, R, I, Req>
where
    S: Service<Req>,
    C: Classify<Req, S::Response, S::Error>,
    O: Admission<Req, S::Response, S::Error>,
    R: Repeat<Req>,
    I: Admission<Req, S::Response, S::Error>,
{
    #[inline]
    pub(super) fn new(policies: Local<Policies<C, O, R, I>>, service: S, mut request: Req) -> Self {
        let classify = &policies.classify;
        let number = classify.attempts_made(&request).saturating_add(1);
        if R::REPEATS {
            classify.set_attempt(&mut request, number);
        }
        Self {
            answer: None,
            timer: None,
            state: State {
                stage: Stage::Enter,
                running: false,
                number,
                idempotent: R::REPEATS && classify.idempotent(&request),
                waited: 0,
                policies,
                service,
                request: Some(request),
                spare: None,
                call: None,
                total: Deadline::NEVER,
                per_call: O::Hold::default(),
                per_attempt: I::Hold::default(),
            },
        }
    }

    #[cfg(test)]
    pub(crate) fn has_timer(&self) -> bool {
        self.timer.is_some()
    }
}

impl<S, C, O, R, I, Req> Future for StackFuture<S, C, O, R, I, Req>
where
    S: Service<Req>,
    S::Error: From<Refusal>,
    C: Classify<Req, S::Response, S::Error>,
    O: Admission<Req, S::Response, S::Error>,
    R: Repeat<Req>,
    I: Admission<Req, S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        // Not in its place, so that not every step has to store what it knows.
        let mut call = this.take_up();
        // Stays where it is from here on: what a service answers may be large.
        let mut polled = Poll::Pending;
        this.poll_on(&mut call, cx, &mut polled);
        if let Poll::Ready(result) = &polled
            && !this.is_last(result, &mut call)
        {
            // The next attempt begins when its time has come.
            this.wake_at_timer(cx);
            polled = Poll::Pending;
        }
        match polled {
            // A small answer was just written in parts, and to read it as a
            // whole would take longer than most policies.
            Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                this.state.call = Some(call);
                Poll::Pending
            }
        }
    }
}

impl<S, C, O, R, I, Req> CallProj<'_, S, C, O, R, I, Req>
where
    S: Service<Req>,
    O: Admission<Req, S::Response, S::Error>,
    I: Admission<Req, S::Response, S::Error>,
{
    /// Ends a call that has no result.
    #[cold]
    fn abandon(&mut self) {
        let state = &mut *self.state;
        let stage = std::mem::replace(&mut state.stage, Stage::Done);
        let end = if state.running {
            End::Panicked
        } else {
            End::Dropped
        };
        self.answer.set(None);
        let mut call = match state.call {
            Some(call) => call,
            // It ended within its first poll, or before.
            None => Call::new(Instant::default(), None, 0, Criticality::default()),
        };
        call.resume();
        call.read_clock();
        let policies = &*state.policies;
        if stage.is_attempt() {
            let hold = &mut state.per_attempt;
            policies.per_attempt.settle(hold, &mut call, &end);
        }
        let hold = &mut state.per_call;
        policies.per_call.settle(hold, &mut call, &end);
    }
}

impl<S, C, O, R, I, Req> CallProj<'_, S, C, O, R, I, Req>
where
    S: Service<Req>,
    S::Error: From<Refusal>,
    C: Classify<Req, S::Response, S::Error>,
    O: Admission<Req, S::Response, S::Error>,
    R: Repeat<Req>,
    I: Admission<Req, S::Response, S::Error>,
{
    /// Whether anybody asks for the time before the service has answered.
    const TIMES_ENTRY: bool =
        O::TIMES_ENTRY || O::TIMES_END || R::REPEATS || I::TIMES_ENTRY || I::TIMES_END;

    /// What is known of the call.
    #[inline]
    fn take_up(&mut self) -> Call {
        if let Some(mut call) = self.state.call {
            call.resume();
            // While the service works, nobody asks before it has answered.
            if self.state.stage != Stage::Answer && Self::TIMES_ENTRY {
                call.read_clock();
            }
            return call;
        }
        let Some(request) = &self.state.request else {
            unreachable!("it has not ended yet");
        };
        let classify = &self.state.policies.classify;
        let now = match Self::TIMES_ENTRY {
            true => clock::now(),
            false => Instant::default(),
        };
        Call::new(
            now,
            classify.deadline(request),
            classify.tenant(request),
            classify.criticality(request),
        )
    }

    /// Goes on with the call, wherever it is, until an attempt has ended, and
    /// says so in `polled`, which is pending still.
    #[inline]
    fn poll_on(
        &mut self,
        call: &mut Call,
        cx: &mut Context<'_>,
        polled: &mut Poll<Result<S::Response, S::Error>>,
    ) {
        // Not read again: from each stage the way leads straight on.
        let stage = self.state.stage;
        if stage <= Stage::Admit {
            if stage == Stage::Pause && self.poll_pause(call, cx).is_pending() {
                return;
            }
            match self.poll_admit(stage, call, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(refusal)) => return self.refuse(refusal, polled),
                Poll::Pending => return,
            }
        }
        self.poll_service(stage, call, cx, polled);
    }

    /// Asks the policies: of the call, if it is new, and of the attempt.
    #[inline]
    fn poll_admit(
        &mut self,
        stage: Stage,
        call: &mut Call,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        let state = &mut *self.state;
        let Some(request) = state.request.as_ref() else {
            unreachable!("the service has not been asked yet");
        };
        let policies = &*state.policies;
        if stage == Stage::Enter {
            let hold = &mut state.per_call;
            match policies.per_call.poll_admit(hold, call, request, cx) {
                Poll::Ready(Ok(())) => {}
                // As it is: taking it apart would be done for every call.
                other => return other,
            }
            policies.retry.begin(call);
            // Only there is it asked for, and to copy what was just written in
            // parts takes longer than some policies.
            if R::REPEATS {
                state.total = call.deadline();
            }
            state.stage = Stage::Admit;
        }
        let hold = &mut state.per_attempt;
        let admitted = policies.per_attempt.poll_admit(hold, call, request, cx);
        if let Poll::Ready(Ok(())) = admitted {
            state.stage = Stage::Ready;
            call.ask();
        }
        admitted
    }

    /// Waits for the next attempt to be due.
    #[inline(never)]
    fn poll_pause(&mut self, call: &mut Call, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_timer(cx));
        *self.timer = None;
        // An attempt that was turned away has not asked its own.
        let request = self
            .state
            .spare
            .take()
            .or_else(|| self.state.request.take());
        let Some(mut request) = request else {
            unreachable!("a pause follows only where a request was kept");
        };
        let classify = &self.state.policies.classify;
        classify.set_attempt(&mut request, self.state.number);
        self.state.request = Some(request);
        call.begin_attempt(self.state.total);
        self.state.stage = Stage::Admit;
        Poll::Ready(())
    }

    /// Waits for the service, and for no longer than it may take.
    #[inline]
    fn poll_service(
        &mut self,
        stage: Stage,
        call: &mut Call,
        cx: &mut Context<'_>,
        polled: &mut Poll<Result<S::Response, S::Error>>,
    ) {
        if I::CATCHES_PANICS {
            self.poll_caught(stage, call, cx, polled);
        } else {
            self.state.running = true;
            *polled = self.poll_answer(stage, call, cx);
            self.state.running = false;
        }
        if polled.is_pending() {
            self.poll_deadline(call, cx, polled);
        } else if O::TIMES_END || I::TIMES_END {
            call.read_clock();
        }
    }

    /// [`Self::poll_answer`], and a refusal if that panics.
    #[inline]
    fn poll_caught(
        &mut self,
        stage: Stage,
        call: &Call,
        cx: &mut Context<'_>,
        polled: &mut Poll<Result<S::Response, S::Error>>,
    ) {
        // Unwind safe: after a panic the service is dropped or asked anew.
        let caught = panic::catch(AssertUnwindSafe(|| {
            *polled = self.poll_answer(stage, call, cx);
        }));
        if let Err(refusal) = caught {
            panic::discard(AssertUnwindSafe(|| self.answer.set(None)));
            self.refuse_apart(refusal, polled);
        }
    }

    /// Waits for the service to be ready, asks it, and waits for its answer.
    #[inline]
    fn poll_answer(
        &mut self,
        stage: Stage,
        call: &Call,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        if stage <= Stage::Ready {
            ready!(self.state.service.poll_ready(cx)?);
            self.ask(call);
        }
        match self.answer.as_mut().as_pin_mut() {
            Some(answer) => answer.poll(cx),
            None => unreachable!("the service works while its answer is waited for"),
        }
    }

    /// Asks the service, which is ready.
    #[inline]
    fn ask(&mut self, call: &Call) {
        let Some(mut request) = self.state.request.take() else {
            unreachable!("an attempt asks once");
        };
        let policies = &*self.state.policies;
        if R::REPEATS {
            self.state.spare = policies.retry.spare(&request, self.state.number);
        }
        let deadline = call.deadline();
        if deadline.is_enforced() {
            policies.classify.set_deadline(&mut request, deadline.at());
        }
        self.answer.set(Some(self.state.service.call(request)));
        self.state.stage = Stage::Answer;
    }

    /// Refuses the call when the attempt's time is up.
    #[inline(never)]
    fn poll_deadline(
        &mut self,
        call: &mut Call,
        cx: &mut Context<'_>,
        polled: &mut Poll<Result<S::Response, S::Error>>,
    ) {
        let deadline = call.deadline();
        let Some(refusal) = deadline.refusal() else {
            return;
        };
        if self.timer.is_none() {
            *self.timer = Some(Timer::until(deadline.at(), call.now()));
        }
        if self.poll_timer(cx).is_pending() {
            return;
        }
        call.read_clock();
        // The work ends before anybody hears of it and frees what it held.
        self.answer.set(None);
        self.refuse(refusal, polled);
    }

    #[cold]
    fn wake_at_timer(&mut self, cx: &mut Context<'_>) {
        if self.poll_timer(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.timer {
            Some(timer) => timer.poll(cx),
            None => Poll::Ready(()),
        }
    }
}
