//! Accepts connections, a bounded number at a time, each with a bounded wait
//! for what its client sends and takes.
//!
//! Clients beyond the bound are told so at once instead of waiting unseen in
//! the backlog. A few further connections are kept for that, which also answer
//! probes: a service that is busy must not be taken for dead.

use std::{io, num::NonZeroUsize, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use orchestrator_engine::config::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};

use super::{
    paced::{Paced, Patience},
    routes::Routers,
};

/// Connections beyond the bound that are told so at the same time; fewer where
/// the bound is small.
const SPARE_MAX: usize = 64;
/// How long one of those may last.
const SPARE_PATIENCE: Duration = Duration::from_secs(2);

/// What of a request's headers, or of an answer, is kept for one connection.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// The wait after an accept that failed for want of descriptors or memory. It
/// doubles while that lasts.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A permit for one connection, given back when the connection has ended.
enum Place {
    Regular(OwnedSemaphorePermit),
    Spare(OwnedSemaphorePermit),
}

/// Serves so many connections at a time until `closing` turns true, then until
/// the last one has ended. Dropping the future stops accepting; connections end
/// by themselves.
pub(super) async fn serve(
    listener: TcpListener,
    connections: NonZeroUsize,
    routers: Routers,
    config: &ServerConfig,
    mut closing: watch::Receiver<bool>,
) {
    let room = Room::new(connections);
    let graceful = GracefulShutdown::new();
    let regular = http(config.header_timeout);
    let mut spare = http(SPARE_PATIENCE);
    spare.keep_alive(false);
    let mut pause = PAUSE_MIN;
    loop {
        let arrived =
            async { Ok::<_, io::Error>((listener.accept().await?.0, room.place().await)) };
        let arrived = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => break,
            arrived = arrived => arrived,
        };
        let (stream, place) = match arrived {
            Ok(arrived) => arrived,
            Err(error) if is_of_client(&error) => continue,
            Err(error) => {
                if pause == PAUSE_MIN {
                    tracing::warn!(%error, "connections are not accepted for now");
                }
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        };
        pause = PAUSE_MIN;
        let stream = TokioIo::new(prepared(stream, config));
        match place {
            Place::Regular(permit) => {
                let service = TowerToHyperService::new(routers.regular.clone());
                let connection = graceful.watch(regular.serve_connection(stream, service));
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!(%error, "a connection ended");
                    }
                    drop(permit);
                });
            }
            Place::Spare(permit) => {
                let service = TowerToHyperService::new(routers.spare.clone());
                let connection = spare.serve_connection(stream, service);
                tokio::spawn(async move {
                    timeout(SPARE_PATIENCE, connection).await.ok();
                    drop(permit);
                });
            }
        }
    }
    graceful.shutdown().await;
}

fn http(header_timeout: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(BUFFER_BYTES_MAX);
    http
}

/// Sets what the kernel has to know of a connection.
fn prepared(stream: TcpStream, config: &ServerConfig) -> Paced<TcpStream> {
    // An answer should not wait for more to fill a packet.
    stream.set_nodelay(true).ok();
    // A client that is gone does not say so; the next heartbeat of an event
    // stream is what it fails to acknowledge.
    let idle = i32::try_from(config.write_idle_timeout.as_millis()).unwrap_or(i32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(&stream, idle.unsigned_abs()).ok();
    let patience = Patience {
        idle: config.write_idle_timeout,
        whole: config.write_timeout,
    };
    Paced::new(stream, patience)
}

/// Whether only this one client is concerned, who went before it was accepted.
fn is_of_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// Room for connections.
struct Room {
    regular: Arc<Semaphore>,
    spare: Arc<Semaphore>,
}

impl Room {
    fn new(connections: NonZeroUsize) -> Self {
        let spare = (connections.get() / 8).clamp(1, SPARE_MAX);
        Self {
            regular: Arc::new(Semaphore::new(connections.get())),
            spare: Arc::new(Semaphore::new(spare)),
        }
    }

    /// A regular place where there is one, else a spare one. Waits where there
    /// is neither, which is not for long.
    async fn place(&self) -> Place {
        tokio::select! {
            biased;
            Ok(permit) = Arc::clone(&self.regular).acquire_owned() => Place::Regular(permit),
            Ok(permit) = Arc::clone(&self.spare).acquire_owned() => Place::Spare(permit),
            // They are never closed.
            else => std::future::pending().await,
        }
    }
}
