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

use std::time::Duration;

use orchestrator_contract::{Reconciled, StepId};

use super::{Driver, step::StepDone};
use crate::{
    error::EngineError,
    journal::{RecordBody, StepState},
};

/// How long a plugin may take to say what became of a call.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(30);

impl Driver {
    /// Settles what only the plugin can know. Steps that may simply run again
    /// become pending.
    pub(super) async fn recover(&mut self) -> Result<(), EngineError> {
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
            let (attempt, key) = (*attempt, idempotency_key.clone());
            self.reconcile(index, step, attempt, &key).await?;
        }
        Ok(())
    }

    async fn reconcile(
        &mut self,
        index: usize,
        step: StepId,
        attempt: u32,
        key: &str,
    ) -> Result<(), EngineError> {
        let phase = self.pipeline().steps()[index].phase.clone();
        let question = self.plan.steps[index].handle.reconcile(&phase, key);
        let answer = tokio::time::timeout(RECONCILE_TIMEOUT, question).await;
        match answer.unwrap_or(Reconciled::Unknown) {
            Reconciled::NotDone => {
                self.repeat.insert(step);
                Ok(())
            }
            Reconciled::Done(reply) => {
                let done = StepDone {
                    step,
                    result: Ok(reply),
                    attempts: attempt,
                    duration: Duration::ZERO,
                };
                self.end_steps(vec![done.record()]).await
            }
            Reconciled::Unknown => {
                self.end_steps(vec![RecordBody::StepUnknown { step, attempt }.into()])
                    .await
            }
        }
    }
}
