//! `orchestrator serve`

use std::{net::SocketAddr, sync::Arc};

use orchestrator_contract::EventSink;

use crate::{
    command::plugin::lock,
    context::Context,
    failure::Result,
    serve::{self, PluginLogs},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where to listen; port 0 takes a free one [default: server.listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,

    #[command(flatten)]
    locked: lock::Locked,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let mut config = context.config()?;
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        let locked = self.locked.file(context)?;
        let server = config.server.clone();
        let logs = Arc::new(PluginLogs::new(&server));
        let sink = Arc::clone(&logs) as Arc<dyn EventSink>;
        let engine = context.serving_engine(config, locked, sink).await?;
        serve::serve(context, engine, context.home()?, server, logs).await
    }
}
