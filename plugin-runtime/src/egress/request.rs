//! Reads what a plugin asks for, in whichever of the two protocols, and bounds it.

use std::io;

use bytes::{Buf, BytesMut};
use orchestrator_manifest::Target;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{http, refusal::Refusal, socks};

/// Room that is made for what is read next. Nearly every request fits.
const READ_BYTES: usize = 1 << 10;

/// What a plugin asks for.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) target: Target,
    pub(super) route: Route,
}

/// What to do about it.
#[derive(Debug)]
pub(super) enum Route {
    /// A tunnel, asked for by HTTP.
    Connect,
    /// One request, whose head the server gets like this.
    Forward { head: Vec<u8> },
    /// A tunnel, asked for by SOCKS.
    Socks,
}

/// The protocol in which a plugin is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http,
    Socks,
}

impl Route {
    /// What the plugin is told when the connection stands.
    pub(super) fn established(&self) -> &'static [u8] {
        match self {
            Self::Connect => http::ESTABLISHED,
            Self::Forward { .. } => b"",
            Self::Socks => socks::ESTABLISHED,
        }
    }
}

impl Protocol {
    /// What the plugin is told instead of a connection.
    pub(super) fn refused(self, refusal: &Refusal) -> Vec<u8> {
        match self {
            Self::Http => http::refused(refusal),
            Self::Socks => socks::refused(refusal).to_vec(),
        }
    }
}

/// A request that is being read.
pub(super) struct Intake {
    /// What has been read and not used; after the request, what the server is to get.
    pub(super) bytes: BytesMut,
    /// Known from the first byte on; before that it is HTTP, which has words for it.
    pub(super) protocol: Protocol,
    bytes_max: usize,
}

/// Why there is no request.
#[derive(Debug)]
pub(super) enum Unread {
    /// The plugin has gone; there is nobody to tell.
    Gone,
    Refused(Refusal),
}

impl From<Refusal> for Unread {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<io::Error> for Unread {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl Intake {
    /// Will read no more than `bytes_max` bytes ahead.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            protocol: Protocol::Http,
            bytes_max,
        }
    }

    /// Reads one request. May be dropped at any time; what was read by then is lost.
    pub(super) async fn request(&mut self, client: &mut TcpStream) -> Result<Request, Unread> {
        self.more(client).await?;
        if self.bytes.first() == Some(&socks::VERSION) {
            self.protocol = Protocol::Socks;
            return self.socks(client).await;
        }
        let mut searched = 0;
        loop {
            if let Some(end) = http::end_of_head(&self.bytes, searched) {
                let head = self.bytes.split_to(end);
                return Ok(http::parse(&head)?);
            }
            searched = self.bytes.len();
            self.more(client).await?;
        }
    }

    async fn socks(&mut self, client: &mut TcpStream) -> Result<Request, Unread> {
        let greeting = loop {
            if let Some(greeting) = socks::Greeting::parse(&self.bytes) {
                break greeting;
            }
            self.more(client).await?;
        };
        self.bytes.advance(greeting.length);
        if !greeting.offers_no_authentication {
            client.write_all(socks::NO_METHOD).await?;
            return Err(Unread::Gone);
        }
        client.write_all(socks::NO_AUTHENTICATION).await?;
        loop {
            if let Some((request, length)) = socks::parse(&self.bytes)? {
                self.bytes.advance(length);
                return Ok(request);
            }
            self.more(client).await?;
        }
    }

    /// Reads at least one byte.
    async fn more(&mut self, client: &mut TcpStream) -> Result<(), Unread> {
        let left = self.bytes_max.saturating_sub(self.bytes.len());
        if left == 0 {
            return Err(Refusal::TooLarge.into());
        }
        self.bytes.reserve(left.min(READ_BYTES));
        match client.take(left as u64).read_buf(&mut self.bytes).await? {
            0 => Err(Unread::Gone),
            _ => Ok(()),
        }
    }
}
