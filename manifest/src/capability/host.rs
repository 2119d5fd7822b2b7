//! Hosts and ports: what a plugin may be granted, and what it asks to be connected to.
//!
//! A name stands for itself alone: it is never looked up here, an address is never a
//! spelling of a name, and a name never covers an address. Which addresses a granted name
//! may lead to is decided where it is connected.

mod destination;
mod range;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

pub use self::{
    destination::{Destination, DestinationError},
    range::AddressRange,
};

/// The longest name of a host.
const NAME_MAX: usize = 253;
/// The longest label of one.
const LABEL_MAX: usize = 63;

/// A host and a port, in one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// A name in lower case without a closing dot, or an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name.
    Name(String),
    /// An address.
    ///
    /// Never one of version 4 that is spelled as one of version 6.
    Address(IpAddr),
}

impl Target {
    /// Reads `host:port`; `None` for what is neither a name nor an address, and for port 0.
    pub fn parse(authority: &str, default_port: Option<u16>) -> Option<Self> {
        let (host, port) = match authority.rsplit_once(':') {
            // The colon may be one of an address in brackets.
            Some((host, port)) if !port.ends_with(']') => (host, parse_port(port)?),
            _ => (authority, default_port?),
        };
        Self::new(Host::parse(host)?, port)
    }

    /// `None` for port 0.
    pub fn new(host: Host, port: u16) -> Option<Self> {
        (port > 0).then_some(Self { host, port })
    }
}

/// Digits alone: no sign, no space, no leading zero.
fn parse_port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

impl Host {
    /// Reads a name, or an address; one of version 6 is in brackets.
    pub fn parse(text: &str) -> Option<Self> {
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(inner) = inner {
            return inner.parse::<Ipv6Addr>().ok().map(Self::from);
        }
        if is_number(text) {
            return text.parse().ok().map(Self::Address);
        }
        name(text).map(Self::Name)
    }
}

impl<A: Into<IpAddr>> From<A> for Host {
    fn from(address: A) -> Self {
        Self::Address(address.into().to_canonical())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => out.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(out),
            Self::Address(IpAddr::V6(address)) => write!(out, "[{address}]"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.host, self.port)
    }
}

/// The name that `text` is, in lower case without a closing dot. What is not ASCII has to
/// come as punycode: two spellings of one name would be compared as two names.
fn name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_name = text.len() <= NAME_MAX && text.split('.').all(is_label);
    (is_name && !is_number(text)).then(|| text.to_ascii_lowercase())
}

/// Whether some parser of addresses might take `text` for one (`127.1`, `0x7f.1`): by the
/// rule of the URL standard, what ends in a number.
fn is_number(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let last = text.rsplit('.').next().unwrap_or(text);
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_hexadecimal =
        hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    is_hexadecimal || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_for_each() {
        for (text, same) in [
            ("Example.COM:443", "example.com:443"),
            ("example.com.:443", "example.com:443"),
            ("xn--BCHER-kva.example:1", "xn--bcher-kva.example:1"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[2001:DB8:0::1]:80", "[2001:db8::1]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("example.com", "example.com:80"),
            ("[::1]", "[::1]:80"),
        ] {
            let target = Target::parse(text, Some(80)).unwrap_or_else(|| panic!("{text}"));
            assert_eq!(target.to_string(), same);
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "",
            ":80",
            "a",
            "a:",
            "a:0",
            "a:080",
            "a:+80",
            "a:65536",
            "a:80:80",
            "a b:80",
            "a@b:80",
            "a\0b:80",
            "a..b:80",
            ".:80",
            "-a:80",
            "a-:80",
            "a_b:80",
            "bücher.example:80",
            "127.1:80",
            "2130706433:80",
            "0x7f.1:80",
            "0x7f000001:80",
            "127.0.0.0x1:80",
            "0177.0.0.1:80",
            "127.0.0.1.:80",
            "1.2.3.4.5:80",
            "::1:80",
            "[::1%lo]:80",
            "[::1:80",
            "[127.0.0.1]:80",
            "[]:80",
            "a/b:80",
            "a?b:80",
            "a#b:80",
            "a%2eb:80",
        ] {
            assert_eq!(Target::parse(text, None), None, "{text:?}");
        }
        let long = "a.".repeat(127);
        assert!(name(&long).is_some() && name(&format!("a{long}")).is_none());
        assert!(name(&"a".repeat(63)).is_some() && name(&"a".repeat(64)).is_none());
    }
}
