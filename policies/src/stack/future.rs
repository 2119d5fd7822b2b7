//! The way of one call through its policies and back.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::Service;

use super::Policies;
use crate::{
    admission::{Admission, Call, End},
    classify::{Classify, Outcome},
    deadline::Deadline,
    event::PolicyEvent,
    refusal::{Refusal, RefusalKind},
    retry::{Failed, Next, Repeat},
    striped::Local,
};

pin_project! {
    /// The answer, or the refusal of a policy.
    ///
    /// Dropped at any time, it ends the service's work first and then gives
    /// back all that the call holds.
    #[project = CallProj]
    #[must_use = "futures do nothing unless polled"]
    pub struct StackFuture<S, C, O, R, I, Req>
    where
        S: Service<Req>,
        O: Admission<Req, S::Response, S::Error>,
        I: Admission<Req, S::Response, S::Error>,
    {
        // The service's work, while there is some.
        #[pin]
        answer: Option<S::Future>,
        // Made when something is first seen to take time: registering a timer
        // costs more than all else here.
        #[pin]
        timer: Option<Sleep>,
        state: State<S, C, O, R, I, Req, O::Hold, I::Hold>,
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

/// What stays in place by itself. One struct, so that one pointer leads to all
/// of it.
struct State<S, C, O, R, I, Req, H, J> {
    stage: Stage,
    /// Whether the service is running right now, so that a panic of its can be
    /// told from a caller who gives up.
    running: bool,
    idempotent: bool,
    number: u32,
    /// The wait before this attempt.
    waited: Duration,
    policies: Local<Policies<C, O, R, I>>,
    service: S,
    /// What the next attempt asks; taken when the service is asked.
    request: Option<Req>,
    /// What a further attempt would ask.
    spare: Option<Req>,
    call: Call,
    /// When the whole call's time is up.
    total: Deadline,
    per_call: H,
    per_attempt: J,
}

/// What a call is doing, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Stage {
    /// Asks the policies of the call.
    Enter,
    /// Is between two attempts.
    Pause,
    /// Asks the policies of an attempt.
    Admit,
    /// Waits for the service to be ready.
    Ready,
    /// Waits for the service to answer.
    Answer,
    Done,
}

impl Stage {
    /// Whether an attempt may hold something.
    fn is_attempt(self) -> bool {
        matches!(self, Self::Admit | Self::Ready | Self::Answer)
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
        let call = Call::new(
            classify.deadline(&request),
            classify.tenant(&request),
            classify.criticality(&request),
        );
        Self {
            answer: None,
            timer: None,
            state: State {
                stage: Stage::Enter,
                running: false,
                idempotent: R::REPEATS && classify.idempotent(&request),
                number,
                waited: Duration::ZERO,
                policies,
                service,
                request: Some(request),
                spare: None,
                call,
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
        this.state.call.time_passed();
        loop {
            // Stays where it is from here on: what a service answers may be
            // large, and is only looked at.
            let polled = this.poll_on(cx);
            match &polled {
                Poll::Ready(result) if !this.is_last(result) => {}
                _ => return polled,
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
        state.call.time_passed();
        let policies = &*state.policies;
        if stage.is_attempt() {
            let hold = &mut state.per_attempt;
            policies.per_attempt.settle(hold, &mut state.call, &end);
        }
        let hold = &mut state.per_call;
        policies.per_call.settle(hold, &mut state.call, &end);
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
    /// Goes on with the call, wherever it is, until an attempt has ended.
    #[inline]
    fn poll_on(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Response, S::Error>> {
        // Not read again: from each stage the way leads straight on.
        let stage = self.state.stage;
        if stage == Stage::Enter {
            ready!(self.poll_enter(cx)?);
        }
        if stage == Stage::Pause {
            ready!(self.poll_pause(cx));
        }
        if stage <= Stage::Admit {
            ready!(self.poll_admit(cx)?);
        }
        self.poll_service(stage, cx)
    }

    /// Asks the policies of the call.
    #[inline]
    fn poll_enter(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let Some(request) = self.state.request.as_ref() else {
            unreachable!("no attempt has taken it yet");
        };
        let policies = &*self.state.policies;
        let admitted = policies.per_call.poll_admit(
            &mut self.state.per_call,
            &mut self.state.call,
            request,
            cx,
        );
        if let Err(refusal) = ready!(admitted) {
            return Poll::Ready(Err(self.refuse(refusal)));
        }
        policies.retry.begin(&mut self.state.call);
        self.state.total = self.state.call.deadline();
        self.state.stage = Stage::Admit;
        Poll::Ready(Ok(()))
    }

    /// Waits for the next attempt to be due.
    #[inline(never)]
    fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_timer(cx));
        self.timer.set(None);
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
        self.state.call.set_deadline(self.state.total);
        self.state.stage = Stage::Admit;
        Poll::Ready(())
    }

    #[inline]
    fn poll_admit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let Some(request) = self.state.request.as_ref() else {
            unreachable!("the service has not been asked yet");
        };
        let policies = &*self.state.policies;
        let admitted = policies.per_attempt.poll_admit(
            &mut self.state.per_attempt,
            &mut self.state.call,
            request,
            cx,
        );
        if let Err(refusal) = ready!(admitted) {
            return Poll::Ready(Err(self.refuse(refusal)));
        }
        self.state.stage = Stage::Ready;
        Poll::Ready(Ok(()))
    }

    /// Waits for the service, and for no longer than it may take.
    #[inline]
    fn poll_service(
        &mut self,
        stage: Stage,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        self.state.running = true;
        let mut polled = self.poll_answer(stage, cx);
        self.state.running = false;
        self.state.call.time_passed();
        if polled.is_pending() {
            polled = self.poll_deadline(cx).map(Err);
        }
        polled
    }

    /// Waits for the service to be ready, asks it, and waits for its answer.
    #[inline]
    fn poll_answer(
        &mut self,
        stage: Stage,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        if stage <= Stage::Ready {
            ready!(self.state.service.poll_ready(cx)?);
            self.ask();
        }
        match self.answer.as_mut().as_pin_mut() {
            Some(answer) => answer.poll(cx),
            None => unreachable!("the service works while its answer is waited for"),
        }
    }

    /// Asks the service, which is ready.
    #[inline]
    fn ask(&mut self) {
        let Some(mut request) = self.state.request.take() else {
            unreachable!("an attempt asks once");
        };
        let policies = &*self.state.policies;
        if R::REPEATS {
            self.state.spare = policies.retry.spare(&request, self.state.number);
        }
        let deadline = self.state.call.deadline();
        if deadline.is_enforced() {
            policies.classify.set_deadline(&mut request, deadline.at());
        }
        self.answer.set(Some(self.state.service.call(request)));
        self.state.stage = Stage::Answer;
    }

    /// Ready when the attempt's time is up.
    #[inline(never)]
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<S::Error> {
        let deadline = self.state.call.deadline();
        let Some(refusal) = deadline.refusal() else {
            return Poll::Pending;
        };
        if self.timer.is_none() {
            let left = deadline.at() - self.state.call.now();
            self.timer.set(Some(tokio::time::sleep(left)));
        }
        ready!(self.poll_timer(cx));
        self.state.call.time_passed();
        // The work ends before anybody hears of it and frees what it held.
        self.answer.set(None);
        Poll::Ready(self.refuse(refusal))
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.timer.as_mut().as_pin_mut() {
            Some(timer) => timer.poll(cx),
            None => Poll::Ready(()),
        }
    }

    /// Takes note of how an attempt ended. Whether the call has, too.
    #[inline]
    fn is_last(&mut self, result: &Result<S::Response, S::Error>) -> bool {
        let policies = &*self.state.policies;
        let end = judge(&policies.classify, result);
        if self.state.stage.is_attempt() {
            self.answer.set(None);
            self.state.stage = Stage::Pause;
            let hold = &mut self.state.per_attempt;
            policies
                .per_attempt
                .settle(hold, &mut self.state.call, &end);
            if R::REPEATS
                && let Err(error) = result
                && self.repeats(error, end.refusal())
            {
                return false;
            }
        }
        self.state.stage = Stage::Done;
        let policies = &*self.state.policies;
        let hold = &mut self.state.per_call;
        policies.per_call.settle(hold, &mut self.state.call, &end);
        true
    }

    /// Whether there is a further attempt after this failed one; it is then
    /// due when the timer ends.
    #[cold]
    fn repeats(&mut self, error: &S::Error, refusal: Option<RefusalKind>) -> bool {
        let policies = &*self.state.policies;
        let kept = self.state.spare.as_ref().or(self.state.request.as_ref());
        let failed = Failed {
            attempt: self.state.number,
            waited: self.state.waited,
            is_kept: kept.is_some(),
            attempts: kept.and_then(|request| policies.classify.attempt_budget(request)),
            advice: policies.classify.retry(error),
            refusal,
            idempotent: self.state.idempotent,
            deadline: self.state.total.at(),
        };
        match policies.retry.next(&failed, self.state.call.now()) {
            Next::After(delay) => {
                self.state.number += 1;
                self.state.waited = delay;
                self.timer.set(Some(tokio::time::sleep(delay)));
                let attempt = self.state.number;
                self.tell(&PolicyEvent::RetryScheduled { attempt, delay });
                true
            }
            Next::Stop(reason) => {
                let attempts = self.state.number;
                self.tell(&PolicyEvent::RetryStopped { attempts, reason });
                false
            }
            Next::GiveUp => false,
        }
    }

    #[cold]
    fn refuse(&mut self, refusal: Refusal) -> S::Error {
        let by = refusal.kind();
        self.tell(&PolicyEvent::Refused { by });
        refusal.into()
    }

    fn tell(&mut self, event: &PolicyEvent) {
        let policies = &*self.state.policies;
        policies.emitter.emit(event);
        policies.per_call.on_event(&mut self.state.per_call, event);
    }
}

/// What `result` says.
#[inline]
fn judge<'a, C, Req, Res, Err>(classify: &C, result: &'a Result<Res, Err>) -> End<'a, Res, Err>
where
    C: Classify<Req, Res, Err>,
{
    let refusal = match result {
        Ok(_) => None,
        Err(error) => classify.refusal(error),
    };
    let outcome = match refusal {
        Some(kind) if kind.is_turned_away() => Outcome::Ignore,
        _ => classify.outcome(result),
    };
    End::Answered {
        result,
        outcome,
        refusal,
    }
}
