//! What a run does about the steps that were in flight when its last engine
//! stopped.
//!
//! | effect of the phase | what happens |
//! |---|---|
//! | pure, idempotent, compensatable | it runs again, with the same key |
//! | at_most_once, transactional | the plugin is asked what became of it; when it cannot tell, the step is *unknown* |
//!
//! No transaction is handed to a plugin, so a phase that calls itself
//! transactional cannot be rolled back and is treated with the same care as
//! one that may happen only once.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::Reconciled;
use tokio::task::JoinSet;

use super::{Driver, step::StepDone};
use crate::{
    caught::caught,
    error::EngineError,
    journal::{RecordBody, StepState},
};

/// How long a plugin may take to say what became of a call.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(30);

/// A step of which only its plugin knows what became of it.
struct Doubt {
    index: usize,
    attempt: u32,
    key: Arc<str>,
}

impl Driver {
    /// Settles what only the plugins can know; they are asked side by side.
    /// Steps that may simply run again become pending. Returns the reason when
    /// the run is cancelled meanwhile.
    pub(super) async fn recover(&mut self) -> Result<Option<String>, EngineError> {
        let doubts = self.doubts();
        if doubts.is_empty() {
            return Ok(None);
        }
        let mut doubts = doubts.into_iter();
        let mut asked = JoinSet::new();
        loop {
            let room = self.plan.concurrency.saturating_sub(asked.len());
            for doubt in doubts.by_ref().take(room) {
                asked.spawn(self.ask(doubt));
            }
            tokio::select! {
                biased;
                reason = self.control.cancelled() => return Ok(Some(reason)),
                answer = asked.join_next() => match answer {
                    Some(Ok((doubt, answer))) => self.answered(&doubt, answer).await?,
                    Some(Err(error)) if error.is_panic() => {
                        std::panic::resume_unwind(error.into_panic())
                    }
                    Some(Err(_)) => (),
                    None => return Ok(None),
                },
            }
        }
    }

    fn doubts(&mut self) -> Vec<Doubt> {
        let mut doubts = Vec::new();
        for index in 0..self.pipeline().steps().len() {
            let step = self.pipeline().steps()[index].id.clone();
            let StepState::Started {
                attempt,
                idempotency_key,
                ..
            } = self.ledger.state().step(&step)
            else {
                continue;
            };
            if self.plan.steps[index].repeatable {
                self.repeat.insert(step);
                continue;
            }
            doubts.push(Doubt {
                index,
                attempt: *attempt,
                key: Arc::clone(idempotency_key),
            });
        }
        doubts
    }

    fn ask(&self, doubt: Doubt) -> impl Future<Output = (Doubt, Reconciled)> + Send + use<> {
        let phase = self.pipeline().steps()[doubt.index].phase.clone();
        let handle = self.plan.steps[doubt.index].handle.clone();
        async move {
            let question = caught(handle.reconcile(&phase, &doubt.key));
            let answer = tokio::time::timeout(RECONCILE_TIMEOUT, question).await;
            let answer = match answer {
                Ok(Ok(answer)) => answer,
                // Too late, or it panicked: it cannot tell.
                Ok(Err(_)) | Err(_) => Reconciled::Unknown,
            };
            (doubt, answer)
        }
    }

    async fn answered(&mut self, doubt: &Doubt, answer: Reconciled) -> Result<(), EngineError> {
        let step = self.pipeline().steps()[doubt.index].id.clone();
        let attempt = doubt.attempt;
        let record = match answer {
            Reconciled::NotDone => {
                self.repeat.insert(step);
                return Ok(());
            }
            Reconciled::Done(reply) => StepDone {
                step,
                result: Ok(reply),
                fallback: None,
                attempts: attempt,
                duration: Duration::ZERO,
            }
            .record(),
            Reconciled::Unknown => RecordBody::StepUnknown { step, attempt }.into(),
        };
        self.end_steps(vec![record]).await
    }
}
