//! `orchestrator run start`

use orchestrator_contract::Criticality;
use orchestrator_engine::RunRequest;

use super::follow::{self, Follow, Watch};
use crate::{
    command::plugin::lock, context::Context, failure::Result, named_pipeline, run_input::RunInput,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A pipeline file, or the name of a pipeline in the home's `pipelines`
    pipeline: String,

    #[command(flatten)]
    input: RunInput,

    #[command(flatten)]
    follow: Follow,

    /// Make the command safe to repeat: with the same key it finds the same run
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// On whose behalf; limits may be kept for each tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,

    #[command(flatten)]
    locked: lock::Locked,

    /// What is refused first when there is too much to do
    #[arg(long, value_enum, default_value_t)]
    criticality: Importance,
}

/// [`Criticality`] as the command line spells it.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Importance {
    Sheddable,
    SheddablePlus,
    #[default]
    Critical,
    CriticalPlus,
}

impl From<Importance> for Criticality {
    fn from(importance: Importance) -> Self {
        match importance {
            Importance::Sheddable => Self::Sheddable,
            Importance::SheddablePlus => Self::SheddablePlus,
            Importance::Critical => Self::Critical,
            Importance::CriticalPlus => Self::CriticalPlus,
        }
    }
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let dir = context.home()?.pipelines();
        let pipeline = named_pipeline::from_file_or_name(&self.pipeline, &dir)?;
        let input = self.input.read(&pipeline)?;
        let mut request = RunRequest::new(pipeline)
            .input(input)
            .criticality(self.criticality.into());
        if let Some(key) = self.idempotency_key {
            request = request.idempotency_key(key);
        }
        if let Some(tenant) = self.tenant {
            request = request.tenant(tenant);
        }
        self.follow.prepare()?;
        let engine = context.engine(self.locked.file(context)?).await?;
        let mut watch = Watch::new(&engine, context.out)?;
        let handle = engine.submit(request).await?;
        watch.follow([&handle]);
        if !handle.is_new() {
            let id = handle.id();
            context
                .out
                .note(&format!("run {id} has this idempotency key already"));
        }
        let result = self
            .follow
            .to_the_end(context, &engine, handle, &mut watch)
            .await;
        follow::stop(context, &engine, result).await
    }
}
