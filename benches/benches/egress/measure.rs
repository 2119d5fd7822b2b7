//! The rounds, and what they say.

use std::{
    env, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use orchestrator_benches::{Report, Spread, Target, cpu, in_turns, median};
use orchestrator_contract::PluginId;
use orchestrator_plugin_runtime::egress::{
    Egress, EgressDenial, EgressObserver, EgressSettings, Resolver,
};
use orchestrator_sandbox::{Confinement, ExitStatus, Grants, Image, Layers, Network, Spec, spawn};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{io::AsyncReadExt, net::unix::pipe::Receiver, time::timeout};

use crate::{
    client::{Act, Order},
    server,
};

const ROUNDS: usize = 9;
const PATIENCE: Duration = Duration::from_secs(60);
const NAME: &str = "server.example.test";

pub(crate) type BenchError = Box<dyn std::error::Error>;

pub(crate) fn run() -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let numbers = runtime.block_on(measure())?;
    report(&numbers).publish()?;
    Ok(())
}

/// The plugin in its two networks.
struct Scene {
    image: Image,
    bare: Confinement,
    behind_proxy: Confinement,
    egress: Egress,
    server: SocketAddr,
    relay: SocketAddr,
}

struct Known;

impl Resolver for Known {
    fn resolve(&self, _name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(vec![Ipv4Addr::LOCALHOST.into()])
    }
}

struct Nobody;

impl EgressObserver for Nobody {
    fn denied(&self, _: EgressDenial) {}
}

impl Scene {
    fn new() -> Result<Self, BenchError> {
        let server = server::start()?;
        let confined = |network| {
            let grants = Grants::new().network(network);
            Confinement::new(&grants, Layers::ALL, Layers::ALL)
        };
        let granted = [format!("127.0.0.1:{}", server.port()), format!("{NAME}:*")];
        let granted = granted.iter().map(|text| text.parse());
        let granted = granted.collect::<Result<_, _>>()?;
        Ok(Self {
            image: Image::interpreter(&env::current_exe()?)?,
            bare: confined(Network::Unrestricted)?,
            behind_proxy: confined(Network::Gateway)?,
            egress: Egress::new(
                PluginId::new("bench"),
                granted,
                EgressSettings::default(),
                Arc::new(Known),
                Arc::new(Nobody),
            ),
            server,
            relay: server::relay(server)?,
        })
    }

    /// Has the plugin do it and returns the durations that it says.
    async fn have(&self, order: &Order) -> Result<Vec<Duration>, BenchError> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let confinement = match order.by_proxy {
            Some(_) => &self.behind_proxy,
            None => &self.bare,
        };
        let spec = Spec::new(&self.image, "egress")
            .arguments(order.arguments())
            .confinement(confinement)
            .descriptor(1, writer);
        let mut child = spawn(spec).await?;
        let gateway = child.take_gateway();
        let _open = gateway
            .map(|gateway| self.egress.open(gateway))
            .transpose()?;
        let mut said = String::new();
        timeout(
            PATIENCE,
            Receiver::from_owned_fd(reader)?.read_to_string(&mut said),
        )
        .await??;
        if child.ended().await? != ExitStatus::Exited(0) {
            return Err("the plugin failed".into());
        }
        said.lines()
            .map(|line| Ok(Duration::from_nanos(line.parse()?)))
            .collect()
    }
}

struct Numbers {
    /// For a plugin in the host's network, by address and by name.
    connects: [Spread; 3],
    /// Bytes a second: in the host's network, by address, and in the host's network by way
    /// of the relay.
    down: [f64; 3],
    up: [f64; 3],
    /// Seconds of processor time a GiB, of the host with the server in it.
    down_cpu: [f64; 3],
}

async fn measure() -> Result<Numbers, BenchError> {
    let scene = Scene::new()?;
    let order = |act, by_proxy, server| Order {
        act,
        by_proxy,
        server,
    };
    let ways = [
        None,
        Some(scene.server.to_string()),
        Some(format!("{NAME}:{}", scene.server.port())),
    ];
    let mut connects: [Vec<Duration>; 3] = Default::default();
    let streams = [
        (None, scene.server),
        (ways[1].clone(), scene.server),
        (None, scene.relay),
    ];
    let mut rates: [[Vec<f64>; 3]; 2] = Default::default();
    let mut costs: [Vec<f64>; 3] = Default::default();
    // The first round does not count.
    for round in 0..=ROUNDS {
        for way in in_turns(round, ways.len()) {
            let order = order(Act::Connect, ways[way].clone(), scene.server);
            let times = scene.have(&order).await?;
            if round > 0 {
                connects[way].extend(times);
            }
        }
        for way in in_turns(round, streams.len()) {
            for (act, rates) in [Act::Download, Act::Upload].into_iter().zip(&mut rates) {
                let before = cpu::process();
                let (by_proxy, server) = streams[way].clone();
                let times = scene.have(&order(act, by_proxy, server)).await?;
                let used = (cpu::process() - before).as_secs_f64();
                let time = times
                    .first()
                    .ok_or("the plugin said nothing")?
                    .as_secs_f64();
                if round > 0 {
                    rates[way].push(server::BYTES as f64 / time);
                    if act == Act::Download {
                        costs[way].push(used * (1 << 30) as f64 / server::BYTES as f64);
                    }
                }
            }
        }
    }
    let middle = |samples: [Vec<f64>; 3]| samples.map(|samples| median(&samples));
    let [down, up] = rates;
    Ok(Numbers {
        connects: connects.map(|mut times| Spread::of(&mut times)),
        down: middle(down),
        up: middle(up),
        down_cpu: middle(costs),
    })
}

fn rows(numbers: &Numbers) -> [[String; 5]; 4] {
    let [bare, by_address, by_name] = numbers.connects;
    let micros = |spread: Spread| format!("{:.0} / {:.0} µs", spread.p50, spread.p99);
    let rate = |bytes: f64| format!("{:.2} GB/s", bytes / 1e9);
    let cpu = |seconds: f64| format!("{seconds:.2} s");
    let none = || "–".to_owned();
    [
        [
            "bare".to_owned(),
            micros(bare),
            rate(numbers.down[0]),
            rate(numbers.up[0]),
            cpu(numbers.down_cpu[0]),
        ],
        [
            "proxy, by address".to_owned(),
            micros(by_address),
            rate(numbers.down[1]),
            rate(numbers.up[1]),
            cpu(numbers.down_cpu[1]),
        ],
        [
            "proxy, by name".to_owned(),
            micros(by_name),
            none(),
            none(),
            none(),
        ],
        [
            "a relay that looks at nothing".to_owned(),
            none(),
            rate(numbers.down[2]),
            rate(numbers.up[2]),
            cpu(numbers.down_cpu[2]),
        ],
    ]
}

fn report(numbers: &Numbers) -> Report {
    let mut report = Report::new(
        "egress",
        "A plugin's connection through the proxy that lets it out of its own network, beside one \
         that nobody looks at.",
    );
    report.text(&format!(
        "The plugin is a process with every layer of confinement; bare, it is in the host's \
         network. Behind the proxy it says `CONNECT` and waits for the answer, which comes when \
         the host has connected; the name is looked up by a double that knows it. {ROUNDS} rounds \
         of {} connections, and of {} MiB each way in pieces of {} KiB; the server is two threads \
         of the host, where the proxy runs on tokio's two workers.",
        crate::client::CONNECTS,
        server::BYTES >> 20,
        server::PIECE_BYTES >> 10,
    ));
    report.table(
        [
            "",
            "connect p50 / p99",
            "to the plugin",
            "from the plugin",
            "host's CPU a GiB, to it",
        ],
        &rows(numbers),
    );
    let [bare, _, by_name] = numbers.connects;
    let added = (by_name.p50 - bare.p50) / 1e3;
    report.target("added to connect, p50", added, " ms", Target::AtMost(0.3));
    let share = |[bare, behind, _]: [f64; 3]| behind / bare;
    for (what, rates) in [
        ("throughput to the plugin", numbers.down),
        ("throughput from the plugin", numbers.up),
    ] {
        report.target(what, share(rates), "×", Target::AtLeast(0.7));
    }
    let relay = |[_, behind, relay]: [f64; 3]| behind / relay;
    report.text(&format!(
        "The relay is what any program between two sockets does at least: a thread for each \
         direction reads and writes. Beside it the proxy has {:.2}× of the throughput to the plugin \
         and {:.2}× from it. Where two cores are busy with the plugin and the server alone, \
         neither can come near to what is not passed on.",
        relay(numbers.down),
        relay(numbers.up),
    ));
    report
}
