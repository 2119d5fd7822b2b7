//! Parts that the tests of several policies share.

use std::{
    collections::VecDeque,
    future::{Future, pending},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use tower::Service;

use crate::{
    classify::{Classify, Outcome, RetryAdvice},
    clock::Instant,
    event::{Listener, PolicyEvent},
    refusal::{Refusal, RefusalKind},
    retry::AttemptBudget,
};

/// A request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) deadline: Option<Instant>,
    pub(crate) attempt: u32,
    /// Attempts before this call.
    pub(crate) made: u32,
    pub(crate) once_only: bool,
    pub(crate) tenant: u64,
    /// Attempts that are left, for all who try it.
    pub(crate) left: Option<AttemptBudget>,
}

impl Ask {
    pub(crate) fn until(self, deadline: Instant) -> Self {
        let deadline = Some(deadline);
        Self { deadline, ..self }
    }

    pub(crate) fn of_tenant(tenant: u64) -> Self {
        Self {
            tenant,
            ..Self::default()
        }
    }
}

/// An error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Refused(Refusal),
    Broken,
    /// The caller's mistake.
    Invalid,
    /// Known not to have started; asks to be left alone for a while.
    Busy(Duration),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Tester;

impl Classify<Ask, u32, Fault> for Tester {
    fn refusal(&self, error: &Fault) -> Option<RefusalKind> {
        match error {
            Fault::Refused(refusal) => Some(refusal.kind()),
            _ => None,
        }
    }

    fn outcome(&self, result: &Result<u32, Fault>) -> Outcome {
        match result {
            Ok(503) => Outcome::Failure,
            Ok(_) => Outcome::Success,
            Err(Fault::Invalid) => Outcome::Ignore,
            Err(_) => Outcome::Failure,
        }
    }

    fn retry(&self, error: &Fault) -> RetryAdvice {
        match error {
            Fault::Invalid => RetryAdvice::Never,
            Fault::Busy(after) => RetryAdvice::NotStarted {
                after: Some(*after),
            },
            Fault::Broken | Fault::Refused(_) => RetryAdvice::IfIdempotent { after: None },
        }
    }

    fn idempotent(&self, request: &Ask) -> bool {
        !request.once_only
    }

    fn deadline(&self, request: &Ask) -> Option<Instant> {
        request.deadline
    }

    fn set_deadline(&self, request: &mut Ask, deadline: Instant) {
        request.deadline = Some(deadline);
    }

    fn attempts_made(&self, request: &Ask) -> u32 {
        request.made
    }

    fn set_attempt(&self, request: &mut Ask, attempt: u32) {
        request.attempt = attempt;
    }

    fn attempt_budget(&self, request: &Ask) -> Option<AttemptBudget> {
        request.left.clone()
    }

    fn tenant(&self, request: &Ask) -> u64 {
        request.tenant
    }
}

/// A service that follows a script and remembers what it was asked.
#[derive(Clone)]
pub(crate) struct Script(Arc<Mutex<State>>);

struct State {
    ready: bool,
    /// What comes next; nothing means it hangs.
    answers: VecDeque<Result<u32, Fault>>,
    seen: Vec<Ask>,
}

impl Script {
    pub(crate) fn answers(answers: impl IntoIterator<Item = Result<u32, Fault>>) -> Self {
        Self(Arc::new(Mutex::new(State {
            ready: true,
            answers: answers.into_iter().collect(),
            seen: Vec::new(),
        })))
    }

    pub(crate) fn hang() -> Self {
        Self::answers([])
    }

    pub(crate) fn never_ready() -> Self {
        let script = Self::hang();
        script.0.lock().unwrap().ready = false;
        script
    }

    /// How many services and futures hold on to it.
    pub(crate) fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }

    pub(crate) fn seen(&self) -> Vec<Ask> {
        self.0.lock().unwrap().seen.clone()
    }

    pub(crate) fn calls(&self) -> usize {
        self.0.lock().unwrap().seen.len()
    }
}

impl Service<Ask> for Script {
    type Response = u32;
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<u32, Fault>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if self.0.lock().unwrap().ready {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        let mut state = self.0.lock().unwrap();
        state.seen.push(ask);
        let answer = state.answers.pop_front();
        Box::pin(async move {
            match answer {
                Some(answer) => answer,
                None => pending().await,
            }
        })
    }
}

/// What a listener heard.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<Mutex<Vec<PolicyEvent>>>);

pub(crate) fn recorder() -> (Arc<dyn Listener>, Events) {
    let events = Events::default();
    let heard = events.clone();
    let listener = move |event: &PolicyEvent| heard.0.lock().unwrap().push(event.clone());
    (Arc::new(listener), events)
}

impl Events {
    pub(crate) fn all(&self) -> Vec<PolicyEvent> {
        self.0.lock().unwrap().clone()
    }

    /// The events in short.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |event: PolicyEvent| match event {
            PolicyEvent::RetryScheduled { attempt, .. } => format!("retry {attempt}"),
            PolicyEvent::RetryStopped { attempts, reason } => {
                format!("stop {attempts} {}", reason.as_str())
            }
            PolicyEvent::BreakerChanged(change) => {
                format!("{} {}", change.to.as_str(), change.reason.as_str())
            }
            PolicyEvent::HealthChanged(change) => format!("{} {}", change.name, change.to.as_str()),
            PolicyEvent::FellBack { by, .. } => format!("fell back to {}", by.as_str()),
            PolicyEvent::FallbackFailed { by, .. } => format!("no fallback from {}", by.as_str()),
            PolicyEvent::WouldRefuse { by, .. } => format!("would refuse {}", by.as_str()),
            PolicyEvent::Refused { by, .. } => format!("refused {}", by.as_str()),
        };
        self.all().into_iter().map(name).collect()
    }
}
