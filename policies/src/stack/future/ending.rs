//! How an attempt ended, and whether another one follows.

use std::{task::Poll, time::Duration};

use tower::Service;

use super::CallProj;
use crate::{
    admission::{Admission, Call, End},
    classify::{Classify, Outcome, RetryAdvice},
    clock,
    event::PolicyEvent,
    refusal::{Refusal, RefusalKind},
    retry::{Failed, Next, Repeat},
    stack::{state::Stage, timer::Timer},
};

impl<S, C, O, R, I, Req> CallProj<'_, S, C, O, R, I, Req>
where
    S: Service<Req>,
    S::Error: From<Refusal>,
    C: Classify<Req, S::Response, S::Error>,
    O: Admission<Req, S::Response, S::Error>,
    R: Repeat<Req>,
    I: Admission<Req, S::Response, S::Error>,
{
    /// Takes note of how an attempt ended. Whether the call has, too.
    #[inline]
    pub(super) fn is_last(
        &mut self,
        result: &Result<S::Response, S::Error>,
        call: &mut Call,
    ) -> bool {
        match result {
            Err(error) => self.is_last_error(result, error, call),
            Ok(answer) => {
                let outcome = self.state.policies.classify.outcome(result);
                let end = End::Answered {
                    result,
                    outcome,
                    refusal: None,
                };
                self.settle_attempt(&end, call);
                if R::REPEATS && outcome == Outcome::Failure {
                    let advice = self.state.policies.classify.retry_answer(answer);
                    if self.repeats(advice, None, call) {
                        return false;
                    }
                }
                self.settle_call(&end, call);
                true
            }
        }
    }

    /// Out of line: it asks much more than a success does.
    #[inline(never)]
    fn is_last_error(
        &mut self,
        result: &Result<S::Response, S::Error>,
        error: &S::Error,
        call: &mut Call,
    ) -> bool {
        let classify = &self.state.policies.classify;
        let refusal = classify.refusal(error);
        let outcome = match refusal {
            Some(kind) if kind.is_turned_away() => Outcome::Ignore,
            _ => classify.outcome(result),
        };
        let end = End::Answered {
            result,
            outcome,
            refusal,
        };
        if self.state.stage != Stage::Enter {
            self.settle_attempt(&end, call);
            if R::REPEATS {
                let advice = self.state.policies.classify.retry(error);
                if self.repeats(advice, refusal, call) {
                    return false;
                }
            }
        }
        self.settle_call(&end, call);
        true
    }

    #[inline(always)]
    fn settle_attempt(&mut self, end: &End<'_, S::Response, S::Error>, call: &mut Call) {
        self.answer.set(None);
        self.state.stage = Stage::Pause;
        let (policies, hold) = (&*self.state.policies, &mut self.state.per_attempt);
        policies.per_attempt.settle(hold, call, end);
    }

    #[inline(always)]
    fn settle_call(&mut self, end: &End<'_, S::Response, S::Error>, call: &mut Call) {
        self.state.stage = Stage::Done;
        let (policies, hold) = (&*self.state.policies, &mut self.state.per_call);
        policies.per_call.settle(hold, call, end);
    }

    /// Whether there is a further attempt after this failed one; it is then
    /// due when the timer ends.
    #[cold]
    fn repeats(
        &mut self,
        advice: RetryAdvice,
        refusal: Option<RefusalKind>,
        call: &mut Call,
    ) -> bool {
        call.read_clock();
        let policies = &*self.state.policies;
        let kept = self.state.spare.as_ref().or(self.state.request.as_ref());
        let failed = Failed {
            attempt: self.state.number,
            waited: Duration::from_nanos(self.state.waited),
            is_kept: kept.is_some(),
            attempts: kept.and_then(|request| policies.classify.attempt_budget(request)),
            advice,
            refusal,
            idempotent: self.state.idempotent,
            deadline: self.state.total.at(),
        };
        match policies.retry.next(&failed, call.now()) {
            Next::After(delay) => {
                self.state.number += 1;
                self.state.waited = clock::nanos(delay);
                *self.timer = Some(Timer::until(clock::after(call.now(), delay), call.now()));
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

    /// Refuses the call, out of line where much is in line already: there the
    /// registers are worth more.
    #[inline(always)]
    pub(super) fn refuse(
        &mut self,
        refusal: Refusal,
        polled: &mut Poll<Result<S::Response, S::Error>>,
    ) {
        if R::REPEATS {
            self.refuse_apart(refusal, polled);
        } else {
            self.refuse_here(refusal, polled);
        }
    }

    #[cold]
    pub(super) fn refuse_apart(
        &mut self,
        refusal: Refusal,
        polled: &mut Poll<Result<S::Response, S::Error>>,
    ) {
        self.refuse_here(refusal, polled);
    }

    /// In line: a refusal that is passed on is read as a whole just after it
    /// was written in parts, which takes longer than all the rest here.
    #[inline(always)]
    fn refuse_here(&mut self, refusal: Refusal, polled: &mut Poll<Result<S::Response, S::Error>>) {
        let policies = &*self.state.policies;
        // Nothing is made where nobody listens, which is known of each.
        if policies.emitter.is_heard() {
            policies.emitter.emit(&refused(&refusal));
        }
        let hold = &mut self.state.per_call;
        policies.per_call.on_event(hold, &refused(&refusal));
        *polled = Poll::Ready(Err(refusal.into()));
    }

    fn tell(&mut self, event: &PolicyEvent) {
        let policies = &*self.state.policies;
        policies.emitter.emit(event);
        policies.per_call.on_event(&mut self.state.per_call, event);
    }
}

#[inline(always)]
fn refused(refusal: &Refusal) -> PolicyEvent {
    PolicyEvent::Refused {
        by: refusal.kind(),
        retry_after: refusal.retry_after(),
    }
}
