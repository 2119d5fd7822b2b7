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
    event::{PolicyEvent, RetryStop},
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
        stage: Stage,
        // The service's work, while there is some.
        #[pin]
        answer: Option<S::Future>,
        // Made when something is first seen to take time: registering a timer
        // costs more than all else here.
        #[pin]
        timer: Option<Sleep>,
        // Whether the service is running right now, so that a panic of its
        // can be told from a caller who gives up.
        running: bool,
        policies: Local<Policies<C, O, R, I>>,
        service: S,
        // What the next attempt asks; taken when the service is asked.
        request: Option<Req>,
        // What a further attempt would ask.
        spare: Option<Req>,
        call: Call,
        // When the whole call's time is up.
        total: Option<Deadline>,
        number: u32,
        idempotent: bool,
        per_call: O::Hold,
        per_attempt: I::Hold,
    }

    impl<S, C, O, R, I, Req> PinnedDrop for StackFuture<S, C, O, R, I, Req>
    where
        S: Service<Req>,
        O: Admission<Req, S::Response, S::Error>,
        I: Admission<Req, S::Response, S::Error>,
    {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            let stage = std::mem::replace(this.stage, Stage::Done);
            if stage == Stage::Done {
                return;
            }
            let end = if *this.running { End::Panicked } else { End::Dropped };
            this.answer.set(None);
            this.call.time_passed();
            if stage.is_attempt() {
                this.policies.per_attempt.settle(this.per_attempt, this.call, &end);
            }
            this.policies.per_call.settle(this.per_call, this.call, &end);
        }
    }
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
    pub(super) fn new(policies: Local<Policies<C, O, R, I>>, service: S, request: Req) -> Self {
        let classify = &policies.classify;
        let call = Call::new(classify.deadline(&request), classify.tenant(&request));
        Self {
            stage: Stage::Enter,
            answer: None,
            timer: None,
            running: false,
            service,
            number: classify.attempts_made(&request).saturating_add(1),
            idempotent: R::REPEATS && classify.idempotent(&request),
            request: Some(request),
            spare: None,
            total: None,
            call,
            per_call: O::Hold::default(),
            per_attempt: I::Hold::default(),
            policies,
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
        this.call.time_passed();
        loop {
            let result = match *this.stage {
                Stage::Enter => match ready!(this.poll_enter(cx)) {
                    Ok(()) => continue,
                    Err(refusal) => return Poll::Ready(this.finish(Err(refusal))),
                },
                Stage::Admit => match ready!(this.poll_admit(cx)) {
                    Ok(()) => continue,
                    Err(refusal) => Err(refusal),
                },
                Stage::Ready => match ready!(this.poll_service_ready(cx)) {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
                Stage::Answer => ready!(this.poll_answer(cx)),
                Stage::Pause => {
                    ready!(this.poll_timer(cx));
                    this.timer.set(None);
                    this.begin_attempt();
                    continue;
                }
                // As every future does that is polled after its end.
                Stage::Done => panic!("polled after it ended"),
            };
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
    #[inline]
    fn poll_enter(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let Some(request) = self.request.as_ref() else {
            unreachable!("no attempt has taken it yet");
        };
        let policies = &***self.policies;
        let admitted = policies
            .per_call
            .poll_admit(self.per_call, self.call, request, cx);
        if let Err(refusal) = ready!(admitted) {
            return Poll::Ready(Err(policies.emitter.refuse(refusal)));
        }
        policies.retry.begin(self.call);
        *self.total = self.call.deadline();
        self.begin_attempt();
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn begin_attempt(&mut self) {
        let policies = &***self.policies;
        if R::REPEATS {
            let request = self.request.take().or_else(|| self.spare.take());
            let Some(mut request) = request else {
                unreachable!("an attempt follows only where a request was kept for it");
            };
            *self.spare = policies.retry.spare(&request, *self.number);
            policies.classify.set_attempt(&mut request, *self.number);
            *self.request = Some(request);
        }
        *self.stage = Stage::Admit;
    }

    #[inline]
    fn poll_admit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let Some(request) = self.request.as_ref() else {
            unreachable!("the service has not been asked yet");
        };
        let policies = &***self.policies;
        let admitted = policies
            .per_attempt
            .poll_admit(self.per_attempt, self.call, request, cx);
        if let Err(refusal) = ready!(admitted) {
            return Poll::Ready(Err(policies.emitter.refuse(refusal)));
        }
        *self.stage = Stage::Ready;
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn poll_service_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        *self.running = true;
        let polled = self.service.poll_ready(cx);
        *self.running = false;
        match polled {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return self.poll_deadline(cx).map(Err),
        }
        let Some(mut request) = self.request.take() else {
            unreachable!("an attempt asks once");
        };
        if let Some(deadline) = self.call.deadline().filter(|deadline| deadline.is_enforced()) {
            let classify = &self.policies.classify;
            classify.set_deadline(&mut request, deadline.at());
        }
        *self.running = true;
        self.answer.set(Some(self.service.call(request)));
        *self.running = false;
        *self.stage = Stage::Answer;
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Response, S::Error>> {
        let Some(answer) = self.answer.as_mut().as_pin_mut() else {
            unreachable!("the service works while its answer is waited for");
        };
        *self.running = true;
        let polled = answer.poll(cx);
        *self.running = false;
        self.call.time_passed();
        match polled {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => self.poll_deadline(cx).map(Err),
        }
    }

    /// Ready when the attempt's time is up.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<S::Error> {
        let Some(deadline) = self.call.deadline() else {
            return Poll::Pending;
        };
        let Some(refusal) = deadline.refusal() else {
            return Poll::Pending;
        };
        if self.timer.is_none() {
            let left = deadline.at() - self.call.now();
            self.timer.set(Some(tokio::time::sleep(left)));
        }
        ready!(self.poll_timer(cx));
        self.call.time_passed();
        // The work ends before anybody hears of it and frees what it held.
        self.answer.set(None);
        Poll::Ready(self.policies.emitter.refuse(refusal))
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
        let policies = &***self.policies;
        self.answer.set(None);
        *self.stage = Stage::Pause;
        let end = judge(&policies.classify, &result);
        policies
            .per_attempt
            .settle(self.per_attempt, self.call, &end);
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
        let policies = &***self.policies;
        let failed = Failed {
            attempt: *self.number,
            advice: policies.classify.retry(error),
            refusal,
            idempotent: *self.idempotent,
            deadline: self.total.map(Deadline::at),
        };
        let reason = match policies.retry.next(&failed, self.call.now()) {
            Next::After(delay) => {
                *self.number += 1;
                self.call.restore_deadline(*self.total);
                let attempt = *self.number;
                self.timer.set(Some(tokio::time::sleep(delay)));
                let event = PolicyEvent::RetryScheduled { attempt, delay };
                policies.emitter.emit(&event);
                return true;
            }
            Next::GiveUp => return false,
            Next::Stop(reason) => reason,
        };
        self.stop(reason);
        false
    }

    fn stop(&self, reason: RetryStop) {
        let attempts = *self.number;
        let event = PolicyEvent::RetryStopped { attempts, reason };
        self.policies.emitter.emit(&event);
    }

    #[inline]
    fn finish(
        &mut self,
        result: Result<S::Response, S::Error>,
    ) -> Result<S::Response, S::Error> {
        let policies = &***self.policies;
        *self.stage = Stage::Done;
        let end = judge(&policies.classify, &result);
        policies.per_call.settle(self.per_call, self.call, &end);
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
