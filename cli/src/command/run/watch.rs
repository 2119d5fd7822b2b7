//! `orchestrator run watch`

use std::time::Duration;

use orchestrator_contract::RunId;
use orchestrator_engine::RunHistory;

use super::{follow, run_id};
use crate::{context::Context, failure::Result, run_record};

/// How often the journal is looked at. The run may be in another process, so
/// nobody tells us.
const POLL: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run
    run: String,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let run = run_id(&self.run)?;
        let history = context.history_of(run).await?;
        let mut last = 0;
        let mut ended = std::pin::pin!(history.ended(run));
        loop {
            last = news(context, &history, run, last).await?;
            let ended = tokio::select! {
                ended = &mut ended => ended,
                () = tokio::time::sleep(POLL) => continue,
            };
            news(context, &history, run, last).await?;
            ended?;
            return follow::verdict(&history.overview(run).await?);
        }
    }
}

/// Writes the records after `last`; returns the new last one.
async fn news(context: &Context, history: &RunHistory, run: RunId, last: u64) -> Result<u64> {
    let newest = history.summary(run).await?.last_seq;
    if newest <= last {
        return Ok(last);
    }
    let records = history.records(run, last).await?;
    for record in &records {
        match context.out.is_json() {
            true => context.out.json_line(&run_record::json(record))?,
            false => context.out.text(&run_record::line(record))?,
        }
    }
    Ok(records.last().map_or(last, |record| record.seq))
}
