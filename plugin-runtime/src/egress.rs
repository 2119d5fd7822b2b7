//! The way out of a plugin that was granted `network:access=host:port`.
//!
//! The plugin's process is in a network of its own, in which there is one thing to connect
//! to: [`GATEWAY`]. What listens there is a socket of the host's, and this is what answers: a
//! proxy, which speaks HTTP (`CONNECT`, and requests for `http:` URLs) and SOCKS 5. Programs
//! find it by the [variables](egress_variables) that most of them know. The name is looked up
//! here, once; what was found is judged and connected to; the plugin has no other way.
//!
//! ```no_run
//! # use std::{net::TcpListener, sync::Arc};
//! # use orchestrator_contract::PluginId;
//! # use orchestrator_plugin_runtime::egress::*;
//! # fn example(
//! #     plugin: PluginId, gateway: TcpListener, observer: Arc<dyn EgressObserver>,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let granted = vec!["api.example.com:443".parse()?, "*.example.org:8000-8099".parse()?];
//! let settings = EgressSettings::default();
//! let egress = Egress::new(plugin, granted, settings, Arc::new(SystemResolver), observer);
//! let open = egress.open(gateway)?; // answers until it is dropped
//! println!("{} connections", egress.usage().connections);
//! # Ok(()) }
//! ```
//!
//! Read `connection.rs` first, the life of one connection; `destination.rs` and `address.rs`
//! decide, `request.rs` reads, `relay.rs` moves bytes.

mod account;
mod address;
mod connection;
mod destination;
mod http;
mod names;
mod refusal;
mod relay;
mod request;
mod settings;
mod socks;

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use orchestrator_contract::PluginId;
use orchestrator_sandbox::GATEWAY;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

pub use account::{EgressDenial, EgressObserver, EgressUsage};
pub use names::{Resolver, SystemResolver};
pub use orchestrator_manifest::Destination;
pub use settings::EgressSettings;

use account::Account;
use connection::Proxy;
use names::Names;

/// How long the proxy waits when the host has no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection waits for one of too many others to end.
const TURN_AWAY_AFTER: Duration = Duration::from_millis(100);

/// The variables by which programs find the proxy: the environment of a process that was
/// granted [`Network::Gateway`](orchestrator_sandbox::Network::Gateway).
pub fn egress_variables() -> [(&'static str, String); 9] {
    let http = || format!("http://{GATEWAY}");
    let socks = || format!("socks5h://{GATEWAY}");
    [
        ("http_proxy", http()),
        ("HTTP_PROXY", http()),
        ("https_proxy", http()),
        ("HTTPS_PROXY", http()),
        // Not SOCKS: common clients refuse to start when they find that here and lack the
        // library for it, whatever they were going to do.
        ("all_proxy", http()),
        ("ALL_PROXY", http()),
        ("socks_proxy", socks()),
        ("SOCKS_PROXY", socks()),
        // Node.js looks at the others only when it is told to.
        ("NODE_USE_ENV_PROXY", "1".to_owned()),
    ]
}

/// The way out of one plugin. Its processes share its limits and what is counted of it.
#[derive(Clone)]
pub struct Egress(Arc<Proxy>);

impl Egress {
    /// Lets `plugin` through to what is `granted`, and to nothing else.
    pub fn new(
        plugin: PluginId,
        granted: Vec<Destination>,
        settings: EgressSettings,
        resolver: Arc<dyn Resolver>,
        observer: Arc<dyn EgressObserver>,
    ) -> Self {
        Self::with(plugin, Some(granted), settings, resolver, observer)
    }

    /// Lets `plugin` through to everything, and tells `observer` what would have to be
    /// named.
    pub fn observing(
        plugin: PluginId,
        settings: EgressSettings,
        resolver: Arc<dyn Resolver>,
        observer: Arc<dyn EgressObserver>,
    ) -> Self {
        Self::with(plugin, None, settings, resolver, observer)
    }

    fn with(
        plugin: PluginId,
        granted: Option<Vec<Destination>>,
        settings: EgressSettings,
        resolver: Arc<dyn Resolver>,
        observer: Arc<dyn EgressObserver>,
    ) -> Self {
        let connections_max = usize::try_from(settings.connections_max).unwrap_or(usize::MAX);
        let free = Semaphore::new(connections_max.clamp(1, Semaphore::MAX_PERMITS));
        Self(Arc::new(Proxy {
            free: Arc::new(free),
            names: Names::new(resolver, settings.lookups_max),
            account: Account::new(plugin, observer, settings.denials_per_second),
            granted,
            settings,
        }))
    }

    /// Answers at `gateway`, which the sandbox made for one of the plugin's processes
    /// ([`Child::take_gateway`](orchestrator_sandbox::Child::take_gateway)), until the result
    /// is dropped.
    ///
    /// # Errors
    ///
    /// When the socket cannot be given to the event loop.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with its network and time.
    pub fn open(&self, gateway: TcpListener) -> io::Result<OpenEgress> {
        gateway.set_nonblocking(true)?;
        let gateway = tokio::net::TcpListener::from_std(gateway)?;
        let mut serving = JoinSet::new();
        serving.spawn(serve(gateway, Arc::clone(&self.0)));
        Ok(OpenEgress { _serving: serving })
    }

    /// What was done for all processes of the plugin so far.
    pub fn usage(&self) -> EgressUsage {
        self.0.account.usage()
    }
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Egress")
            .field("granted", &self.0.granted)
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

/// Answers one process. Dropping it closes the gateway and all connections of the process,
/// which is when the kernel lets go of its network.
#[derive(Debug)]
pub struct OpenEgress {
    _serving: JoinSet<()>,
}

async fn serve(gateway: tokio::net::TcpListener, proxy: Arc<Proxy>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = gateway.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let Ok((client, _)) = accepted else {
            // Those that wait go on waiting.
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // A burst is waited out. This is also as fast as one after the other is turned away.
        match timeout(TURN_AWAY_AFTER, Arc::clone(&proxy.free).acquire_owned()).await {
            Ok(Ok(permit)) => {
                let proxy = Arc::clone(&proxy);
                connections.spawn(async move {
                    proxy.serve(client).await;
                    drop(permit);
                });
            }
            Ok(Err(_)) | Err(_) => proxy.turn_away(&client),
        }
    }
}
