//! One connection of a plugin: what it asks for, whether it gets that, and what follows.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use orchestrator_contract::DenialRule;
use orchestrator_manifest::{Host, Target};
use rustix::net::sockopt::set_socket_send_buffer_size;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Destination, EgressSettings,
    account::Account,
    address::is_public,
    destination::{is_granted, may_be_reached},
    names::Names,
    refusal::Refusal,
    relay::relay,
    request::{Intake, Protocol, Request, Route, Unread},
};

/// How many addresses of a name are tried.
const ADDRESSES_MAX: usize = 4;
/// How long a plugin that is denied too often waits for each answer.
const DENIAL_PAUSE: Duration = Duration::from_millis(100);
/// How long, and how much, a plugin may go on after it was refused. Without reading that, the
/// kernel would take back the answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 256 << 10;
/// How much may wait for an end that is on this machine: more than this does not make it
/// faster, and what waits has left the processor's cache when it is read.
const LOCAL_SEND_BYTES: usize = 128 << 10;

/// What all connections of a plugin have in common.
pub(super) struct Proxy {
    /// `None` denies nothing and tells everything.
    pub(super) granted: Option<Vec<Destination>>,
    pub(super) settings: EgressSettings,
    /// A permit for each connection there may be.
    pub(super) free: Arc<Semaphore>,
    pub(super) names: Names,
    pub(super) account: Account,
}

impl Proxy {
    /// The whole life of one connection. Dropping it closes both ends.
    pub(super) async fn serve(&self, mut client: TcpStream) {
        // Small answers are not to wait for more.
        let _ = client.set_nodelay(true);
        let bytes_max = usize::try_from(self.settings.request_bytes_max).unwrap_or(usize::MAX);
        let mut intake = Intake::new(bytes_max);
        let asked = timeout(self.settings.request_timeout, intake.request(&mut client)).await;
        let served = match asked {
            Ok(Ok(request)) => self.connect(&request.target).await.map(|it| (request, it)),
            Ok(Err(Unread::Refused(refusal))) => Err(refusal),
            Ok(Err(Unread::Gone)) => return,
            Err(_) => Err(Refusal::TooSlow),
        };
        match served {
            Ok((request, server)) => self.join(client, server, request, intake).await,
            Err(refusal) => self.refuse(client, intake.protocol, &refusal).await,
        }
    }

    /// Connects to what was asked for, where it is granted. The name is looked up once, and
    /// what was found is what is judged and connected to.
    async fn connect(&self, target: &Target) -> Result<TcpStream, Refusal> {
        match &self.granted {
            Some(granted) if !is_granted(granted, target) => {
                return Err(Refusal::denied(DenialRule::NotGranted, target));
            }
            Some(_) if !self.account.allows(target) => {
                return Err(Refusal::denied(DenialRule::Vetoed, target));
            }
            Some(_) => {}
            None => self.account.reached(target),
        }
        let end = Instant::now() + self.settings.connect_timeout;
        let mut addresses = match &target.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => timeout_at(end, self.names.look_up(name.clone()))
                .await
                .unwrap_or(Err(Refusal::ConnectTimeout))?,
        };
        let first = addresses.first().copied();
        addresses.retain(|address| self.may_be_reached(*address, target.port));
        if addresses.is_empty() {
            let mut refusal = Refusal::denied(DenialRule::NotPublic, target);
            if let Refusal::Denied { address, .. } = &mut refusal {
                *address = first;
            }
            return Err(refusal);
        }
        addresses.truncate(ADDRESSES_MAX);
        let mut failure = Refusal::Unreachable;
        let count = addresses.len();
        for (tried, address) in addresses.into_iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            // One that is silent leaves time for the others.
            let share = if tried + 1 < count { left / 2 } else { left };
            let address = SocketAddr::new(address.to_canonical(), target.port);
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(server)) => return Ok(server),
                Ok(Err(_)) => failure = Refusal::Unreachable,
                Err(_) => failure = Refusal::ConnectTimeout,
            }
        }
        Err(failure)
    }

    fn may_be_reached(&self, address: IpAddr, port: u16) -> bool {
        let Some(granted) = &self.granted else {
            let itself = Target::new(Host::from(address), port);
            if let Some(itself) = itself.filter(|_| !is_public(address)) {
                self.account.reached(&itself);
            }
            return true;
        };
        may_be_reached(granted, address, port)
    }

    /// The connection stands.
    async fn join(
        &self,
        mut client: TcpStream,
        mut server: TcpStream,
        request: Request,
        intake: Intake,
    ) {
        let _open = self.account.opened();
        let _ = server.set_nodelay(true);
        let _ = set_socket_send_buffer_size(&client, LOCAL_SEND_BYTES);
        // What is far away needs as much as is on its way.
        if server
            .peer_addr()
            .is_ok_and(|server| server.ip().is_loopback())
        {
            let _ = set_socket_send_buffer_size(&server, LOCAL_SEND_BYTES);
        }
        // What the server gets at once: a head, and what came with the request.
        let mut first = match &request.route {
            Route::Forward { head } => head.clone(),
            Route::Connect | Route::Socks => Vec::new(),
        };
        first.extend_from_slice(&intake.bytes);
        let begun = async {
            client.write_all(request.route.established()).await?;
            server.write_all(&first).await
        };
        let (sent, received) = (&self.account.sent, &self.account.received);
        sent.fetch_add(first.len() as u64, Ordering::Relaxed);
        if let Ok(Ok(())) = timeout(self.settings.idle_timeout, begun).await {
            drop(first);
            relay(
                &client,
                &server,
                (sent, received),
                self.settings.idle_timeout,
            )
            .await;
        }
    }

    async fn refuse(&self, mut client: TcpStream, protocol: Protocol, refusal: &Refusal) {
        if self.account.refused(refusal) {
            sleep(DENIAL_PAUSE).await;
        }
        let answer = protocol.refused(refusal);
        let told = async {
            client.write_all(&answer).await?;
            client.shutdown().await?;
            let mut rest = client.take(LINGER_BYTES);
            let mut piece = [0; 1024];
            while rest.read(&mut piece).await? > 0 {}
            std::io::Result::Ok(())
        };
        // Whether the plugin has understood is its own affair.
        let _ = timeout(LINGER, told).await;
    }

    /// One connection too many: it is told so, and no more is done about it.
    pub(super) fn turn_away(&self, client: &TcpStream) {
        let refusal = Refusal::denied(DenialRule::TooManyConnections, "");
        self.account.refused(&refusal);
        // All of it fits, or the plugin does not read.
        let _ = client.try_write(&Protocol::Http.refused(&refusal));
    }
}
