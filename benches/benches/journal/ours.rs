//! Ours: the journal alone, written to as the engine writes to it.

use std::{path::Path, sync::Arc, time::Duration};

use orchestrator_contract::NoEvents;
use orchestrator_engine::{
    config::{Config, Sources},
    journal::{Creation, Digest, Journal, RunState, SqliteJournal},
};
use tokio::time::Instant;

use crate::{
    histories::{History, STEPS},
    measure::BenchError,
};

/// The journal and the pipeline its runs are of.
#[derive(Clone)]
pub(crate) struct Ours {
    journal: SqliteJournal,
    definition: Digest,
}

impl Ours {
    /// Opens a journal in `dir` with the default settings.
    pub(crate) async fn open(dir: &Path) -> Result<Self, BenchError> {
        let settings = Config::load(&Sources::default())?.journal;
        let journal = SqliteJournal::open(dir, settings, Arc::new(NoEvents)).await?;
        let definition = journal.put_definition("{}".into()).await?;
        Ok(Self {
            journal,
            definition,
        })
    }

    /// Writes one run and waits where the engine does. Returns how long each
    /// step's records took to become durable.
    pub(crate) async fn run(&self) -> Result<Vec<Duration>, BenchError> {
        let History {
            created,
            steps,
            finished,
        } = History::new(self.definition);
        let run = created.run;
        let Creation::Created { epoch, mut seq } = self.journal.create(created).await? else {
            return Err("the journal knows a run that is new".into());
        };
        let mut waits = Vec::with_capacity(STEPS);
        for (started, completed) in steps {
            let begun = Instant::now();
            let started = self.journal.submit(run, seq, epoch, vec![started]).await?;
            let completed = self
                .journal
                .submit(run, seq + 1, epoch, vec![completed])
                .await?;
            started.await?;
            seq = completed.await?;
            waits.push(begun.elapsed());
        }
        self.journal.append(run, seq, epoch, vec![finished]).await?;
        Ok(waits)
    }

    /// Reads one run back and makes sure that all of it is there.
    pub(crate) async fn check(&self) -> Result<(), BenchError> {
        let filter = orchestrator_engine::journal::RunFilter {
            limit: 1,
            ..Default::default()
        };
        let runs = self.journal.runs(filter).await?;
        let run = runs.first().ok_or("no run was written")?.run;
        let state = RunState::fold(run, self.journal.load(run).await?)?;
        match state.last_seq as usize == 2 * STEPS + 2 {
            true => Ok(()),
            false => Err("a run does not have all of its records".into()),
        }
    }

    pub(crate) async fn close(self) {
        self.journal.close().await;
    }
}
