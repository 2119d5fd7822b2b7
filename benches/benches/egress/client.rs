//! The plugin: this program, started in a network of its own or in the host's, which says
//! how long things took.

use std::{
    env,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use orchestrator_sandbox::GATEWAY;
use tokio::time::Instant;

use crate::server::{BYTES, DOWN, PIECE_BYTES, UP};

/// How many connections one order makes, after as many that do not count.
pub(crate) const CONNECTS: usize = 200;

/// What the plugin is to do, as its arguments say it.
pub(crate) struct Order {
    pub(crate) act: Act,
    /// Where to, if through the proxy: host and port.
    pub(crate) by_proxy: Option<String>,
    pub(crate) server: SocketAddr,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    Connect,
    Download,
    Upload,
}

const ACTS: [(Act, &str); 3] = [
    (Act::Connect, "connect"),
    (Act::Download, "download"),
    (Act::Upload, "upload"),
];
/// The first argument of all.
const MARK: &str = "egress-client";
const DIRECT: &str = "direct";

impl Order {
    pub(crate) fn of_arguments() -> Option<Self> {
        let mut arguments = env::args().skip(1);
        if arguments.next()? != MARK {
            return None;
        }
        let act = arguments.next()?;
        Some(Self {
            act: ACTS.iter().find(|(_, name)| *name == act)?.0,
            by_proxy: arguments.next().filter(|target| target != DIRECT),
            server: arguments.next()?.parse().ok()?,
        })
    }

    pub(crate) fn arguments(&self) -> [String; 4] {
        let name = ACTS.iter().find(|(act, _)| *act == self.act);
        [
            MARK.to_owned(),
            name.map_or("", |(_, name)| name).to_owned(),
            self.by_proxy.clone().unwrap_or_else(|| DIRECT.to_owned()),
            self.server.to_string(),
        ]
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let Some(target) = &self.by_proxy else {
            let stream = TcpStream::connect(self.server)?;
            stream.set_nodelay(true)?;
            return Ok(stream);
        };
        let mut stream = TcpStream::connect(GATEWAY)?;
        stream.set_nodelay(true)?;
        write!(stream, "CONNECT {target} HTTP/1.1\r\n\r\n")?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut piece = [0; 256];
            match stream.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => answer.extend_from_slice(&piece[..bytes]),
            }
        }
        match answer.starts_with(b"HTTP/1.1 200 ") {
            true => Ok(stream),
            false => Err(io::Error::other("refused")),
        }
    }
}

/// Does it, and prints a number of nanoseconds a line.
pub(crate) fn run(order: &Order) -> ExitCode {
    let mut out = io::stdout().lock();
    let mut say = |time: Duration| writeln!(out, "{}", time.as_nanos());
    let done = match order.act {
        Act::Connect => (0..2 * CONNECTS).try_for_each(|round| {
            let begun = Instant::now();
            let stream = order.connect()?;
            let elapsed = begun.elapsed();
            drop(stream);
            if round >= CONNECTS {
                say(elapsed)
            } else {
                Ok(())
            }
        }),
        Act::Download => download(order).and_then(&mut say),
        Act::Upload => upload(order).and_then(&mut say),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn download(order: &Order) -> io::Result<Duration> {
    let mut stream = order.connect()?;
    let mut piece = vec![0; PIECE_BYTES];
    let begun = Instant::now();
    stream.write_all(&[DOWN])?;
    let mut left = BYTES;
    while left > 0 {
        match stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => left = left.saturating_sub(bytes),
        }
    }
    Ok(begun.elapsed())
}

fn upload(order: &Order) -> io::Result<Duration> {
    let mut stream = order.connect()?;
    let piece = vec![7; PIECE_BYTES];
    let begun = Instant::now();
    stream.write_all(&[UP])?;
    for _ in 0..BYTES / PIECE_BYTES {
        stream.write_all(&piece)?;
    }
    // The server says when it has all of it.
    stream.read_exact(&mut [0])?;
    Ok(begun.elapsed())
}
