//! What a history adds up to.
//!
//! Pure: records in, state out. An engine that resumes a run and a page that
//! shows one see the same.

mod step;

use std::collections::BTreeMap;

use orchestrator_contract::{CallError, Payload, RunId, StepId};

pub use step::{Resolved, StepState};

use super::{
    error::JournalDamaged,
    record::{HandedOut, NewRecord, OwnerId, Record, RecordBody, RunCreated},
    run::{NewRun, RunStatus},
};

/// Where a run stands.
#[derive(Clone, Debug, PartialEq)]
pub struct RunState {
    /// The run.
    pub run: RunId,
    /// What it was told when it began.
    pub created: RunCreated,
    /// When that was, in milliseconds since the Unix epoch.
    pub created_ms: i64,
    /// Its input.
    pub input: Payload,
    /// Whether it goes on.
    pub status: RunStatus,
    /// The step that decided a failure.
    pub failed_step: Option<StepId>,
    /// That step's error.
    pub error: Option<CallError>,
    /// What it hands out, where its end says so.
    pub outputs: Option<Vec<HandedOut>>,
    /// Every step that a record is about. The others are pending.
    pub steps: BTreeMap<StepId, StepState>,
    /// Why somebody wants it to end, the first time.
    pub cancel_requested: Option<String>,
    /// Who took it over last, if anybody did.
    pub taken_over_by: Option<OwnerId>,
    /// The ownership, from 1.
    pub epoch: u64,
    /// The last record.
    pub last_seq: u64,
    /// When that was written, in milliseconds since the Unix epoch.
    pub updated_ms: i64,
    /// How often it changed hands since it last made progress.
    pub restarts_without_progress: u32,
}

impl RunState {
    /// Adds up a run's whole history.
    ///
    /// # Errors
    ///
    /// [`JournalDamaged`] names the first record that cannot follow those
    /// before it: a gap, a second result, a result without a run, anything
    /// after the end.
    pub fn fold(
        run: RunId,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<Self, JournalDamaged> {
        let mut records = records.into_iter();
        let first = records
            .next()
            .ok_or_else(|| damaged(run, 1, "there are no records"))?;
        let mut state = Self::begin(run, first)?;
        for record in records {
            state.apply(record)?;
        }
        Ok(state)
    }

    /// The state of a run whose first records are as `new` says.
    ///
    /// # Errors
    ///
    /// [`JournalDamaged`] when they cannot follow each other.
    pub fn of(new: NewRun) -> Result<Self, JournalDamaged> {
        let (run, at_ms) = (new.run, new.at_ms);
        let records = (1..).zip(new.into_records());
        let records = records.map(|(seq, NewRecord { body, payload })| Record {
            seq,
            epoch: 1,
            at_ms,
            body,
            payload,
        });
        Self::fold(run, records)
    }

    /// The state after a run's first record.
    ///
    /// # Errors
    ///
    /// [`JournalDamaged`] when it is not the record of a run's creation.
    pub fn begin(run: RunId, first: Record) -> Result<Self, JournalDamaged> {
        if first.seq != 1 || first.epoch != 1 {
            return Err(damaged(run, first.seq, "the first records are missing"));
        }
        let RecordBody::RunCreated(created) = first.body else {
            return Err(damaged(run, 1, "the first record does not create the run"));
        };
        let Some(input) = first.payload else {
            return Err(damaged(run, 1, "the run has no input"));
        };
        Ok(Self {
            run,
            created: *created,
            created_ms: first.at_ms,
            input,
            status: RunStatus::Running,
            failed_step: None,
            error: None,
            outputs: None,
            steps: BTreeMap::new(),
            cancel_requested: None,
            taken_over_by: None,
            epoch: 1,
            last_seq: 1,
            updated_ms: first.at_ms,
            restarts_without_progress: 0,
        })
    }

    /// Where `step` stands.
    pub fn step(&self, step: &StepId) -> &StepState {
        self.steps.get(step).unwrap_or(&StepState::Pending)
    }

    /// Adds the next record.
    ///
    /// # Errors
    ///
    /// [`JournalDamaged`] when it cannot follow; the state is as before then.
    pub fn apply(&mut self, record: Record) -> Result<(), JournalDamaged> {
        let refuse = |reason: &str| Err(damaged(self.run, record.seq, reason));
        if record.seq != self.last_seq + 1 {
            return Err(damaged(
                self.run,
                self.last_seq + 1,
                &format!("record {} follows record {}", record.seq, self.last_seq),
            ));
        }
        if self.status != RunStatus::Running {
            return refuse("the run had already ended");
        }
        let takes_over = matches!(record.body, RecordBody::OwnerChanged { .. });
        if record.epoch != self.epoch + u64::from(takes_over) {
            return refuse("its writer did not own the run");
        }
        if record.payload.is_some() != record.body.takes_payload() {
            return refuse("it has no payload where it should, or one where it should not");
        }
        let progress = record.body.is_progress();
        let (epoch, seq, at_ms) = (record.epoch, record.seq, record.at_ms);
        if let Err(reason) = self.take(record) {
            return Err(damaged(self.run, seq, reason));
        }
        self.epoch = epoch;
        self.last_seq = seq;
        self.updated_ms = at_ms;
        if progress {
            self.restarts_without_progress = 0;
        }
        Ok(())
    }

    fn take(&mut self, record: Record) -> Result<(), &'static str> {
        match record.body {
            RecordBody::RunCreated(_) => return Err("the run was already created"),
            RecordBody::OwnerChanged { owner } => {
                self.taken_over_by = Some(owner);
                self.restarts_without_progress = self.restarts_without_progress.saturating_add(1);
            }
            RecordBody::CancelRequested { reason } => {
                self.cancel_requested.get_or_insert(reason);
            }
            RecordBody::RunFinished {
                outcome,
                failed_step,
                error,
                outputs,
            } => {
                self.status = RunStatus::Finished(outcome);
                self.failed_step = failed_step;
                self.error = error;
                self.outputs = outputs;
            }
            body => {
                let Some(step) = body.step().cloned() else {
                    return Err("its kind is unknown");
                };
                let next = self.step(&step).after(body, record.payload, record.at_ms)?;
                self.steps.insert(step, next);
            }
        }
        Ok(())
    }
}

fn damaged(run: RunId, seq: u64, reason: &str) -> JournalDamaged {
    JournalDamaged {
        run,
        seq,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use orchestrator_contract::RunOutcome;
    use proptest::prelude::*;

    use super::*;
    use crate::journal::{NewRecord, fixture::*};

    const STEPS: [&str; 4] = ["a", "b", "c", "d"];

    fn run() -> RunId {
        RunId::from_parts(7, 7)
    }

    fn record(seq: u64, epoch: u64, new: NewRecord) -> Record {
        Record {
            seq,
            epoch,
            at_ms: i64::try_from(seq).unwrap(),
            body: new.body,
            payload: new.payload,
        }
    }

    fn first() -> Record {
        let new = new_run();
        let body = RecordBody::RunCreated(Box::new(new.created));
        let payload = Some(new.input);
        record(1, 1, NewRecord { body, payload })
    }

    fn unknown(step: &str, attempt: u32) -> NewRecord {
        let step = step.into();
        RecordBody::StepUnknown { step, attempt }.into()
    }

    fn resolved(step: &str, attempts: u32) -> NewRecord {
        let body = RecordBody::StepResolved {
            step: step.into(),
            happened: true,
            by: "ada".into(),
            said_ms: 1,
            attempts,
        };
        let payload = Some(payload(1, 1));
        NewRecord { body, payload }
    }

    fn taken_over() -> NewRecord {
        let owner = OwnerId::random(0);
        RecordBody::OwnerChanged { owner }.into()
    }

    fn skipped(step: &str) -> NewRecord {
        let (step, reason) = (step.into(), "condition".to_owned());
        RecordBody::StepSkipped { step, reason }.into()
    }

    fn fold(records: &[Record]) -> Result<RunState, JournalDamaged> {
        RunState::fold(run(), records.iter().cloned())
    }

    /// What an engine might do next, told by three numbers, and only if it is
    /// legal; written without the fold, so that each checks the other.
    fn legal(steps: &mut [(u32, bool, bool)], what: u8, which: usize) -> Option<NewRecord> {
        let name = STEPS[which];
        let (attempt, running, over) = &mut steps[which];
        let record = match what {
            0 => return Some(taken_over()),
            1 => {
                let reason = "enough".to_owned();
                return Some(RecordBody::CancelRequested { reason }.into());
            }
            _ if *over => return None,
            2 | 3 => {
                *attempt += 1;
                *running = true;
                return Some(started(name, *attempt));
            }
            4 if *running => {
                *running = false;
                return Some(unknown(name, *attempt));
            }
            4 => return None,
            5 => completed(name, payload(3, what)),
            8 => resolved(name, *attempt),
            6 => failed(name),
            _ => skipped(name),
        };
        *over = true;
        Some(record)
    }

    fn history(choices: &[(u8, usize)], ends: bool) -> Vec<Record> {
        let mut records = vec![first()];
        let mut steps = [(0, false, false); STEPS.len()];
        let mut epoch = 1;
        for (what, which) in choices {
            if let Some(new) = legal(&mut steps, *what, *which) {
                epoch += u64::from(matches!(new.body, RecordBody::OwnerChanged { .. }));
                records.push(record(records.len() as u64 + 1, epoch, new));
            }
        }
        if ends {
            let seq = records.len() as u64 + 1;
            records.push(record(seq, epoch, finished(RunOutcome::Cancelled)));
        }
        records
    }

    fn choices() -> impl Strategy<Value = Vec<(u8, usize)>> {
        proptest::collection::vec((0..9_u8, 0..STEPS.len()), 0..40)
    }

    proptest! {
        #[test]
        fn every_legal_history_adds_up(choices in choices(), ends: bool) {
            let records = history(&choices, ends);
            let state = fold(&records).unwrap();
            prop_assert_eq!(state.last_seq, records.len() as u64);
            prop_assert_eq!(state.epoch, records.last().unwrap().epoch);
            prop_assert_eq!(state.status == RunStatus::Running, !ends);
            let cancelled = records.iter().any(|record| record.body.kind() == "cancel_requested");
            prop_assert_eq!(state.cancel_requested.is_some(), cancelled);
            for step in STEPS.map(Into::into) {
                let results = records.iter().filter(|record| {
                    record.body.step() == Some(&step) && record.body.is_progress()
                });
                prop_assert_eq!(results.count(), usize::from(state.step(&step).is_final()));
            }
            // Counted backwards: takeovers after the last progress.
            let since = records.iter().rev().take_while(|record| !record.body.is_progress());
            let restarts = since.filter(|record| record.body.kind() == "owner_changed").count();
            prop_assert_eq!(state.restarts_without_progress as usize, restarts);
        }

        #[test]
        fn a_missing_or_repeated_record_is_found(choices in choices(), at: prop::sample::Index) {
            let records = history(&choices, true);
            let at = at.index(records.len());
            let mut missing = records.clone();
            missing.remove(at);
            // Without its last record a history is merely shorter.
            prop_assert_eq!(fold(&missing).is_err(), at != records.len() - 1);
            let mut repeated = records.clone();
            repeated.insert(at, records[at].clone());
            prop_assert!(fold(&repeated).is_err());
        }

        #[test]
        fn adding_one_by_one_is_adding_up(choices in choices(), ends: bool) {
            let records = history(&choices, ends);
            let mut state = RunState::begin(run(), records[0].clone()).unwrap();
            for record in &records[1..] {
                let wrong = Record { seq: record.seq + 1, ..record.clone() };
                let before = state.clone();
                prop_assert!(state.apply(wrong).is_err());
                prop_assert_eq!(&state, &before);
                state.apply(record.clone()).unwrap();
            }
            prop_assert_eq!(state, fold(&records).unwrap());
        }
    }

    #[test]
    fn what_no_engine_writes_is_damage_and_named() {
        let without_output = NewRecord {
            payload: None,
            ..completed("a", payload(1, 1))
        };
        let done = || completed("a", payload(1, 1));
        let created = NewRecord {
            body: first().body,
            payload: first().payload,
        };
        let end = || finished(RunOutcome::Success);
        // Histories after the creation; the last record is one too many.
        let cases: Vec<Vec<NewRecord>> = vec![
            vec![done(), done()],
            vec![done(), failed("a")],
            vec![done(), resolved("a", 1)],
            vec![NewRecord {
                payload: None,
                ..resolved("a", 1)
            }],
            vec![skipped("a"), started("a", 1)],
            vec![started("a", 2), started("a", 1)],
            vec![started("a", 0)],
            vec![unknown("a", 1)],
            vec![started("a", 2), unknown("a", 1)],
            vec![without_output],
            vec![NewRecord {
                payload: Some(payload(1, 1)),
                ..failed("a")
            }],
            vec![created],
            vec![end(), done()],
            vec![end(), end()],
        ];
        for case in cases {
            let mut records = vec![first()];
            for new in case {
                records.push(record(records.len() as u64 + 1, 1, new));
            }
            let last = records.len() as u64;
            assert!(fold(&records[..records.len() - 1]).is_ok());
            let damage = fold(&records).unwrap_err();
            assert_eq!((damage.run, damage.seq), (run(), last), "{damage}");
            let refused = records.pop().unwrap();
            let before = fold(&records).unwrap();
            let mut state = before.clone();
            assert!(state.apply(refused).is_err());
            assert_eq!(state, before);
        }
    }

    #[test]
    fn a_writer_that_did_not_own_the_run_is_damage() {
        let late = [
            first(),
            record(2, 2, taken_over()),
            record(3, 1, failed("a")),
        ];
        assert_eq!(fold(&late).unwrap_err().seq, 3);
        let early = [first(), record(2, 2, failed("a"))];
        assert_eq!(fold(&early).unwrap_err().seq, 2);
        let same = [first(), record(2, 1, taken_over())];
        assert_eq!(fold(&same).unwrap_err().seq, 2);
    }

    #[test]
    fn a_history_begins_with_the_creation_of_its_run() {
        assert!(fold(&[]).is_err());
        assert!(fold(&[record(1, 1, failed("a"))]).is_err());
        assert!(
            fold(&[Record {
                payload: None,
                ..first()
            }])
            .is_err()
        );
        assert!(fold(&[Record { seq: 2, ..first() }]).is_err());
    }

    #[test]
    fn a_resume_goes_on_counting_attempts() {
        let records = [
            first(),
            record(2, 1, started("a", 3)),
            record(3, 1, unknown("a", 3)),
        ];
        let state = fold(&records).unwrap();
        assert_eq!(state.step(&"a".into()).attempts(), 3);
        let key = match state.step(&"a".into()) {
            StepState::Unknown {
                idempotency_key, ..
            } => idempotency_key.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(key, "key");
    }
}
