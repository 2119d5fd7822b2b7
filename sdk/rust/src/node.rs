//! One process for many calls, over the socket that the host left open.
//!
//! One thread does everything: a loop reads frames and starts a task per call,
//! tasks put their frames into the [`Outbox`](outbox::Outbox), and a writer
//! sends what has gathered there in one write. A call that is alone writes its
//! result itself.

mod calls;
mod connection;
mod incoming;
mod inherited;
mod link;
mod outbox;
mod socket;
mod state;

use std::{
    ffi::OsStr, io, os::unix::net::UnixStream, process::ExitCode, sync::Arc, time::Duration,
};

use orchestrator_contract::{
    LogLevel, PhaseName, PluginId,
    frame::{Frame, FrameError, Hello, PROTOCOL_VERSION, Welcome},
};
use tokio::{runtime, time::timeout};

pub(crate) use link::Link;

use crate::{Error, Plugin, Setup, exec::stderr, serve::Served};
use connection::Connection;
use incoming::Incoming;
use socket::Socket;

/// The variable that holds the number of the socket's descriptor.
pub(crate) const DESCRIPTOR: &str = "ORCHESTRATOR_NODE_FD";

/// How long the host may take to answer `Hello`.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last frames may take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a node cannot go on.
#[derive(Debug, thiserror::Error)]
enum NodeError {
    #[error("{DESCRIPTOR} must be the number of an open socket, not `{found}`: {source}")]
    NoSocket { found: String, source: io::Error },
    #[error("the connection to the host failed: {0}")]
    Io(#[from] io::Error),
    #[error("the host sent a frame that is not understood: {0}")]
    Frame(#[from] FrameError),
    #[error("the host's last frame ends after {0} bytes")]
    HalfFrame(usize),
    #[error("the host did not answer within {HANDSHAKE_TIMEOUT:?}")]
    HandshakeTimeout,
    #[error("the host sent {0} where Welcome was due")]
    Unwelcome(&'static str),
    #[error("the host speaks protocol {0}, this plugin speaks {PROTOCOL_VERSION}")]
    Version(u32),
    #[error("the host sent more calls than it was given credit for")]
    OverCredit,
    #[error("the input of call {call} is longer than its stated {length} bytes")]
    LongInput { call: u64, length: u64 },
    #[error("not valid: {0}")]
    Invalid(#[from] Error),
}

/// Answers calls until the host goes away.
pub(crate) fn run<P: Plugin>(served: Arc<Served<P>>, descriptor: &OsStr) -> ExitCode {
    match try_run(served, descriptor) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stderr(LogLevel::Error, &error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn try_run<P: Plugin>(served: Arc<Served<P>>, descriptor: &OsStr) -> Result<(), NodeError> {
    let socket = inherited::socket(descriptor).map_err(|source| NodeError::NoSocket {
        found: descriptor.to_string_lossy().into_owned(),
        source,
    })?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(converse(served, socket));
    // A blocking task that does not end must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn converse<P: Plugin>(served: Arc<Served<P>>, socket: UnixStream) -> Result<(), NodeError> {
    let socket = Arc::new(Socket::new(socket)?);
    let mut incoming = Incoming::new(socket.clone());
    let link = Arc::new(Link::new(socket));
    let writing = link.clone();
    let mut writer = tokio::spawn(async move { writing.write().await });

    link.send(&hello(&served))?;
    let Some(welcome) = welcome(&mut incoming).await? else {
        return Ok(());
    };
    let setup = Setup::new(welcome.config, welcome.grants);
    served.plugin.validate(&setup)?;
    link.give_credit(served.info.concurrent_calls);

    let mut connection = Connection::new(served, link.clone(), setup);
    tokio::select! {
        outcome = connection.listen(&mut incoming) => outcome?,
        // Writing fails only when the host is gone.
        _ = &mut writer => return Ok(()),
        signal = crate::exec::asked_to_end() => { signal?; }
    }
    link.close();
    // A host that no longer reads must not keep the process.
    let _ = timeout(FLUSH_TIMEOUT, writer).await;
    Ok(())
}

fn hello<P>(served: &Served<P>) -> Frame {
    let phases = served.info.phases.iter();
    Frame::Hello(Hello {
        protocol: PROTOCOL_VERSION,
        plugin: PluginId::from(served.info.id.as_str()),
        version: served.info.version.clone(),
        phases: phases.map(|name| PhaseName::from(name.as_str())).collect(),
        health: true,
        state: served.info.keeps_state,
    })
}

async fn welcome(incoming: &mut Incoming) -> Result<Option<Welcome>, NodeError> {
    let frame = timeout(HANDSHAKE_TIMEOUT, incoming.frame())
        .await
        .map_err(|_| NodeError::HandshakeTimeout)??;
    match frame {
        None => Ok(None),
        Some(Frame::Welcome(welcome)) if welcome.protocol == PROTOCOL_VERSION => Ok(Some(welcome)),
        Some(Frame::Welcome(welcome)) => Err(NodeError::Version(welcome.protocol)),
        Some(other) => Err(NodeError::Unwelcome(other.name())),
    }
}
