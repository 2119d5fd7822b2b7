//! The way of one call through its policies and back.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
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
            let state = this.state;
            let stage = std::mem::replace(&mut state.stage, Stage::Done);
            if stage == Stage::Done {
                return;
            }
            let end = if state.running { End::Panicked } else { End::Dropped };
            this.answer.set(None);
            state.call.time_passed();
            let policies = &**state.policies;
            if stage.is_attempt() {
                policies.per_attempt.settle(&mut state.per_attempt, &mut state.call, &end);
            }
            policies.per_call.settle(&mut state.per_call, &mut state.call, &end);
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

/// What a call is doing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Asks the policies of the call.
    Enter,
    /// Asks the policies of an attempt.
    Admit,
    /// Waits for the service to be ready.
    Ready,
    /// Waits for the service to answer.
    Answer,
    /// Is between two attempts.
    Pause,
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
        let call = Call::new(classify.deadline(&request), classify.tenant(&request));
        Self {
            answer: None,
            timer: None,
            state: State {
                stage: Stage::Enter,
                running: false,
                idempotent: R::REPEATS && classify.idempotent(&request),
                number,
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
        if this.state.stage == Stage::Enter
            && let Err(refused) = ready!(this.poll_enter(cx))
        {
            return Poll::Ready(this.finish(Err(refused)));
        }
        loop {
            if this.state.stage == Stage::Pause {
                ready!(this.poll_pause(cx));
            }
            let result = ready!(this.poll_attempt(cx));
            if let Some(result) = this.end_attempt(result) {
                return Poll::Ready(this.finish(result));
            }
        }
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
    /// Asks the policies of the call.
    #[inline]
    fn poll_enter(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let Some(request) = self.state.request.as_ref() else {
            unreachable!("no attempt has taken it yet");
        };
        let policies = &**self.state.policies;
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

    /// Goes on with an attempt, wherever it is.
    #[inline]
    fn poll_attempt(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Response, S::Error>> {
        if self.state.stage == Stage::Admit {
            ready!(self.poll_admit(cx))?;
        }
        if self.state.stage == Stage::Ready {
            ready!(self.poll_service_ready(cx))?;
        }
        self.poll_answer(cx)
    }

    #[inline]
    fn poll_admit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let Some(request) = self.state.request.as_ref() else {
            unreachable!("the service has not been asked yet");
        };
        let policies = &**self.state.policies;
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

    /// Waits for the service to be ready, and asks it.
    #[inline]
    fn poll_service_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.state.running = true;
        let polled = self.state.service.poll_ready(cx);
        self.state.running = false;
        match polled {
            Poll::Ready(ready) => ready?,
            Poll::Pending => return self.poll_deadline(cx).map(Err),
        }
        let Some(mut request) = self.state.request.take() else {
            unreachable!("an attempt asks once");
        };
        let policies = &**self.state.policies;
        if R::REPEATS {
            self.state.spare = policies.retry.spare(&request, self.state.number);
        }
        let deadline = self.state.call.deadline();
        if deadline.is_enforced() {
            policies.classify.set_deadline(&mut request, deadline.at());
        }
        self.state.running = true;
        self.answer.set(Some(self.state.service.call(request)));
        self.state.running = false;
        self.state.stage = Stage::Answer;
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Response, S::Error>> {
        let Some(answer) = self.answer.as_mut().as_pin_mut() else {
            unreachable!("the service works while its answer is waited for");
        };
        self.state.running = true;
        let polled = answer.poll(cx);
        self.state.running = false;
        self.state.call.time_passed();
        match polled {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.poll_deadline(cx).map(Err),
        }
    }

    /// Ready when the attempt's time is up.
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

    /// The call's result, if there is no further attempt.
    #[inline]
    fn end_attempt(
        &mut self,
        result: Result<S::Response, S::Error>,
    ) -> Option<Result<S::Response, S::Error>> {
        let policies = &**self.state.policies;
        self.answer.set(None);
        self.state.stage = Stage::Pause;
        let end = judge(&policies.classify, &result);
        policies
            .per_attempt
            .settle(&mut self.state.per_attempt, &mut self.state.call, &end);
        if R::REPEATS
            && let Err(error) = &result
            && self.repeats(error, end.refusal())
        {
            return None;
        }
        Some(result)
    }

    /// Whether there is a further attempt after this failed one; it is then
    /// due when the timer ends.
    #[cold]
    fn repeats(&mut self, error: &S::Error, refusal: Option<RefusalKind>) -> bool {
        let policies = &**self.state.policies;
        let failed = Failed {
            attempt: self.state.number,
            advice: policies.classify.retry(error),
            refusal,
            idempotent: self.state.idempotent,
            deadline: self.state.total.at(),
        };
        match policies.retry.next(&failed, self.state.call.now()) {
            Next::After(delay) => {
                self.state.number += 1;
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
        let policies = &**self.state.policies;
        policies.emitter.emit(event);
        policies.per_call.on_event(&mut self.state.per_call, event);
    }

    #[inline]
    fn finish(&mut self, result: Result<S::Response, S::Error>) -> Result<S::Response, S::Error> {
        let policies = &**self.state.policies;
        self.state.stage = Stage::Done;
        let end = judge(&policies.classify, &result);
        policies
            .per_call
            .settle(&mut self.state.per_call, &mut self.state.call, &end);
        result
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
