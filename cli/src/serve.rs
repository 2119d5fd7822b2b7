//! The HTTP service: runs over an API, metrics, probes.
//!
//! A request's way: `connections.rs` accepts it, `routes.rs` asks for the token
//! and counts, `runs.rs` and `events.rs` answer, `problem.rs` and `refusal.rs` say why not.

mod connections;
mod descriptors;
mod events;
mod growth;
mod limits;
mod logs;
mod paced;
mod plugins;
mod probes;
mod problem;
mod refusal;
mod reload;
mod resume;
mod routes;
mod runs;
mod token;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use orchestrator_engine::{Engine, Home, config::ServerConfig};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};

use crate::{
    audit::Audit,
    context::Context,
    error::CliError,
    failure::Result,
    services::Presence,
    signals::{Asked, Signals},
};
use growth::Growth;
pub(crate) use logs::PluginLogs;
use routes::Routers;
pub(crate) use token::Token;

/// How long connections may take to end once everything else has.
const CLOSE_GRACE: Duration = Duration::from_secs(3);

/// What every request is answered from.
struct App {
    engine: Engine,
    home: Home,
    config: ServerConfig,
    token: Token,
    growth: Growth,
    audit: Arc<Audit>,
    logs: Arc<PluginLogs>,
    /// Turns true when streams have to end.
    closing: watch::Receiver<bool>,
}

/// Serves until a signal says otherwise, then drains: new runs are refused, those
/// in flight may finish within the configured grace, the others stay resumable.
/// A second signal ends at once. A hangup ends nothing: a service outlives the
/// terminal it was started from, and who rotates logs or hopes to have the
/// settings read again does not want it stopped.
pub(crate) async fn serve(
    context: &Context,
    engine: Engine,
    home: Home,
    config: ServerConfig,
    logs: Arc<PluginLogs>,
) -> Result {
    // Before anybody learns that we are here and could stop us.
    let signals = Signals::new()?;
    let token = Token::of(&home)?;
    let connections = descriptors::make_room(config.connections_max);
    let listener = listen(&config).await?;
    let address = listener.local_addr()?;
    let presence = Presence::tell(&home, address)?;
    // Commands that did not see this service yet have written down what they want.
    engine.disable_as_written()?;
    announce(context, address, &token, engine.warnings())?;

    let (close, closing) = watch::channel(false);
    let app = Arc::new(App {
        engine: engine.clone(),
        home,
        config: config.clone(),
        token,
        growth: Growth::default(),
        audit: context.audit()?,
        logs,
        closing: closing.clone(),
    });
    let routers = Routers::new(Arc::clone(&app));
    // Ended when this is dropped.
    let mut background = JoinSet::new();
    background.spawn(resume::resume(engine.clone()));
    background.spawn(async move { app.growth.keep_looking(app.engine.history()).await });
    let serving = connections::serve(listener, connections, routers, &config, closing);
    let mut serving = std::pin::pin!(serving);
    let stopped = tokio::select! {
        // Ends only after `close`.
        () = &mut serving => Ok(()),
        stopped = drain_on_signal(context, &engine, &config, signals) => stopped,
    };
    // Before the address may be another's, who would be told the token.
    drop(presence);
    close.send_replace(true);
    // Whoever has not let go by then loses the connection with the process.
    timeout(CLOSE_GRACE, serving).await.ok();
    stopped
}

async fn listen(config: &ServerConfig) -> Result<TcpListener> {
    let address = config.listen;
    if !address.ip().is_loopback() && !config.allow_remote {
        return Err(CliError::NotLoopback { address }.into());
    }
    let listener = TcpListener::bind(address).await;
    Ok(listener.map_err(|reason| CliError::Listen { address, reason })?)
}

/// Says where the service is, and where the token is, which nobody should see.
fn announce(context: &Context, address: SocketAddr, token: &Token, warnings: &[String]) -> Result {
    let path = token.path().display().to_string();
    let ready = json!({
        "event": "ready",
        "address": address.to_string(),
        "token_file": path,
        "warnings": warnings,
    });
    match context.out.is_json() {
        true => context.out.json_line(&ready),
        false => context.out.text(&format!(
            "listening on http://{address} (API token in {path})"
        )),
    }
}

async fn drain_on_signal(
    context: &Context,
    engine: &Engine,
    config: &ServerConfig,
    mut signals: Signals,
) -> Result {
    asked_to_end(&mut signals).await;
    context.out.note("draining; once more stops at once");
    tokio::select! {
        drained = engine.drain(config.drain_grace) => {
            let drained = drained?;
            tracing::info!(
                finished = drained.finished,
                left_open = drained.left_open,
                "drained"
            );
        }
        () = asked_to_end(&mut signals) => context.out.warn("stopped before runs ended; the next start resumes them"),
    }
    Ok(())
}

async fn asked_to_end(signals: &mut Signals) {
    while signals.next().await == Asked::Hangup {
        tracing::warn!("SIGHUP changes nothing: settings are read at start");
    }
}
