//! The way out of a plugin's network: real sockets, and real programs in a network of
//! their own.

mod hostile;
mod https;
mod names;
mod programs;
mod tunnel;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use orchestrator_contract::PluginId;
use orchestrator_plugin_runtime::egress::{
    Destination, Egress, EgressDenial, EgressObserver, EgressSettings, OpenEgress, Resolver,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

pub(crate) use crate::support::PATIENCE;

/// A name that the double of the resolver knows, and leads to this machine.
pub(crate) const HERE: &str = "api.example.test";

/// Answers about names what a test says, one answer after the other and the last one again
/// and again.
#[derive(Default)]
pub(crate) struct Answers {
    answers: Mutex<BTreeMap<String, Vec<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Answers {
    pub(crate) fn of(name: &str, answers: &[&[&str]]) -> Arc<Self> {
        let parse = |text: &&str| text.parse().expect("an address");
        let answers = answers
            .iter()
            .map(|answer| answer.iter().map(parse).collect());
        let one = BTreeMap::from([(name.to_owned(), answers.collect())]);
        Arc::new(Self {
            answers: Mutex::new(one),
            asked: Mutex::default(),
        })
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolver for Answers {
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.lock().unwrap().push(name.to_owned());
        let mut all = self.answers.lock().unwrap();
        let answers = all.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(match answers.len() {
            1 => answers[0].clone(),
            _ => answers.remove(0),
        })
    }
}

/// What was denied.
#[derive(Default)]
pub(crate) struct Denials(Mutex<Vec<EgressDenial>>);

impl Denials {
    pub(crate) fn all(&self) -> Vec<EgressDenial> {
        self.0.lock().unwrap().clone()
    }

    /// Resources and rules.
    pub(crate) fn told(&self) -> Vec<(String, &'static str)> {
        let told = |denial: &EgressDenial| (denial.resource.clone(), denial.rule.as_str());
        self.all().iter().map(told).collect()
    }
}

impl EgressObserver for Denials {
    fn denied(&self, denial: EgressDenial) {
        self.0.lock().unwrap().push(denial);
    }
}

/// A proxy, and who watches it.
pub(crate) struct Scene {
    pub(crate) egress: Egress,
    pub(crate) denials: Arc<Denials>,
    /// Where the proxy listens.
    pub(crate) address: SocketAddr,
    /// Answers until it is dropped.
    _open: OpenEgress,
}

pub(crate) fn granted(texts: &[&str]) -> Vec<Destination> {
    let parsed = texts.iter().map(|text| text.parse());
    parsed.collect::<Result<_, _>>().expect("destinations")
}

impl Scene {
    /// Behind a socket that anybody here can connect to.
    pub(crate) fn new(grants: &[&str], resolver: Arc<dyn Resolver>) -> Self {
        Self::with(grants, resolver, EgressSettings::default())
    }

    pub(crate) fn with(
        grants: &[&str],
        resolver: Arc<dyn Resolver>,
        settings: EgressSettings,
    ) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        Self::at(listener, grants, resolver, settings)
    }

    pub(crate) fn at(
        listener: std::net::TcpListener,
        grants: &[&str],
        resolver: Arc<dyn Resolver>,
        settings: EgressSettings,
    ) -> Self {
        let address = listener.local_addr().expect("an address");
        let denials = Arc::new(Denials::default());
        let plugin = PluginId::new("acme.importer");
        let observer = Arc::clone(&denials) as Arc<_>;
        let egress = Egress::new(plugin, granted(grants), settings, resolver, observer);
        let open = egress.open(listener).expect("it listens");
        Self {
            egress,
            denials,
            address,
            _open: open,
        }
    }

    pub(crate) async fn client(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("it accepts")
    }

    /// A tunnel to `target`.
    pub(crate) async fn tunnel(&self, target: &str) -> TcpStream {
        let mut client = self.client().await;
        let said = ask(&mut client, &connect(target)).await;
        assert!(said.starts_with("HTTP/1.1 200 "), "{target}: {said}");
        client
    }

    /// The first line of the answer to `CONNECT target`.
    pub(crate) async fn status(&self, target: &str) -> String {
        let mut client = self.client().await;
        let said = ask(&mut client, &connect(target)).await;
        said.lines().next().unwrap_or_default().to_owned()
    }
}

pub(crate) fn connect(target: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

/// What is answered to `request`, up to the end of its head.
pub(crate) async fn ask(stream: &mut TcpStream, request: &str) -> String {
    // It may be refused before it has read everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        match timeout(PATIENCE, stream.read(&mut byte))
            .await
            .expect("an answer")
        {
            Ok(1..) => said.push(byte[0]),
            Ok(0) | Err(_) => break,
        }
    }
    String::from_utf8(said).expect("text")
}

/// Everything that still comes.
pub(crate) async fn rest(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut said)).await;
    read.expect("it ends").map(|_| said)
}

/// A server on this machine that answers each request for a page with the request's own
/// head, until it is dropped.
pub(crate) struct Server {
    pub(crate) port: u16,
    _serving: JoinSet<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::at(Ipv4Addr::LOCALHOST, 0).await
    }

    pub(crate) async fn at(address: Ipv4Addr, port: u16) -> Self {
        let listener = TcpListener::bind((address, port)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        if !matches!(client.read(&mut byte).await, Ok(1..)) {
                            return;
                        }
                        head.push(byte[0]);
                    }
                    let local = client.local_addr().expect("an address").ip();
                    let head = String::from_utf8(head).expect("text");
                    let body = format!("at {local}\n{head}");
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n\
                         {body}"
                    );
                    let _ = client.write_all(answer.as_bytes()).await;
                });
            }
        });
        Self {
            port,
            _serving: serving,
        }
    }
}
