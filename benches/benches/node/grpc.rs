//! The peer: a unary gRPC call over a Unix socket, by tonic and prost.
//!
//! Its messages carry what a phase call and its reply carry. Client and service
//! are what `tonic-build` would write, by hand because `protoc` is not at hand.

mod messages;

use std::{
    convert::Infallible,
    env,
    ffi::OsString,
    path::Path,
    pin::Pin,
    process::{ExitCode, Stdio},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::uri::PathAndQuery;
use tokio::{
    io::AsyncReadExt,
    net::UnixListener,
    process::{Child, Command},
    time::{Instant, sleep},
};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    server::UnaryService,
    transport::{Channel, Endpoint, Server},
};
use tonic_prost::ProstCodec;

use crate::load::Caller;
use messages::{Call, Reply};

/// Asks this program to be the server, with the socket's path after it.
const ROLE: &str = "--grpc-server";
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to listen, if this process is to be the server.
pub(crate) fn server_socket() -> Option<OsString> {
    let mut arguments = env::args_os().skip_while(|argument| argument != ROLE);
    arguments.nth(1)
}

/// Serves until stdin is closed, which the end of the client does too.
pub(crate) fn serve(socket: &OsString) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let served = runtime.and_then(|runtime| {
        runtime.block_on(async {
            let connections = UnixListenerStream::new(UnixListener::bind(socket)?);
            let server = Server::builder().serve_with_incoming(Echo, connections);
            let mut stdin = tokio::io::stdin();
            let mut end = [0];
            tokio::select! {
                served = server => served.map_err(std::io::Error::other),
                closed = stdin.read(&mut end) => closed.map(drop),
            }
        })
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The service, as generated code dispatches to it.
#[derive(Clone)]
struct Echo;

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Reply, Call>::default());
            Ok(grpc.unary(EchoMethod, request).await)
        })
    }
}

struct EchoMethod;

impl UnaryService<Call> for EchoMethod {
    type Response = Reply;
    type Future = std::future::Ready<Result<Response<Reply>, Status>>;

    fn call(&mut self, request: Request<Call>) -> Self::Future {
        let reply = Reply::json(request.into_inner().input);
        std::future::ready(Ok(Response::new(reply)))
    }
}

/// A client, and the server process, which ends with the last clone.
#[derive(Clone)]
pub(crate) struct GrpcCaller {
    client: tonic::client::Grpc<Channel>,
    pid: u32,
    _server: Arc<Child>,
}

impl GrpcCaller {
    /// Starts a server that listens in `dir` and connects to it.
    pub(crate) async fn start(dir: &Path) -> Result<Self, String> {
        let socket = dir.join("grpc.sock");
        let program = env::current_exe().map_err(|error| error.to_string())?;
        let server = Command::new(program)
            .arg(ROLE)
            .arg(&socket)
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        let pid = server.id().ok_or("the server ended at once")?;
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))
            .map_err(|error| error.to_string())?;
        let patience = Instant::now() + START_TIMEOUT;
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(_) if Instant::now() < patience => sleep(Duration::from_millis(10)).await,
                Err(error) => return Err(error.to_string()),
            }
        };
        Ok(Self {
            client: tonic::client::Grpc::new(channel),
            pid,
            _server: Arc::new(server),
        })
    }
}

impl Caller for GrpcCaller {
    async fn call(&self, input: Bytes) -> Result<Bytes, String> {
        let mut client = self.client.clone();
        client.ready().await.map_err(|error| error.to_string())?;
        let path = PathAndQuery::from_static("/orchestrator.bench.Phase/Call");
        let codec = ProstCodec::<Call, Reply>::default();
        let answer = client.unary(Request::new(Call::of(input)), path, codec);
        let reply = answer.await.map_err(|status| status.to_string())?;
        Ok(reply.into_inner().output)
    }

    fn pid(&self) -> u32 {
        self.pid
    }
}
