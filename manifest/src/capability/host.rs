//! Hosts and ports, compared label by label.
//!
//! A name stands for itself alone: it is never looked up here, an address is
//! never a spelling of a name, and a name never covers an address. Which
//! addresses a granted name may lead to is decided where it is connected.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// A host and port to connect to, or a pattern of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host {
    name: Name,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Name {
    /// Every name; no address.
    Any,
    /// Every name beneath this one, not the name itself.
    Beneath(String),
    /// This name, in lower case without a closing dot.
    Exact(String),
    V4(Ipv4Addr),
    V6(Ipv6Addr),
}

/// Why a text is no host and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// No colon and port at the end.
    #[error("the port is missing; write `host:443`, or `host:*` for every port")]
    NoPort,
    /// A port that is no number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    BadPort,
    /// Not a host name.
    #[error("not a host name: labels of a-z, 0-9 and `-`, joined by dots")]
    BadName,
    /// An address in an unusual spelling.
    #[error("not an address in its usual spelling, such as 192.0.2.1 or [2001:db8::1]")]
    BadAddress,
}

impl Host {
    pub(crate) fn parse(text: &str) -> Result<Self, HostError> {
        let (host, port) = text.rsplit_once(':').ok_or(HostError::NoPort)?;
        if host.starts_with('[') && !host.ends_with(']') {
            return Err(HostError::NoPort);
        }
        Ok(Self {
            name: Name::parse(host)?,
            port: parse_port(port)?,
        })
    }

    /// The port, or `None` for every port.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The host as it is written: a name in lower case, `*.` and a name, `*`,
    /// or an address (version 6 in brackets).
    pub fn name(&self) -> String {
        self.name.to_string()
    }

    /// Returns whether `host` (a name or address as a program would connect
    /// to it) and `port` lie within this scope.
    pub fn allows(&self, host: &str, port: u16) -> bool {
        Name::parse(host).is_ok_and(|name| {
            self.covers(&Self {
                name,
                port: Some(port),
            })
        })
    }

    pub(crate) fn covers(&self, request: &Self) -> bool {
        let port = self.port.is_none() || self.port == request.port;
        port && self.name.covers(&request.name)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.name),
            None => write!(f, "{}:*", self.name),
        }
    }
}

fn parse_port(text: &str) -> Result<Option<u16>, HostError> {
    if text == "*" {
        return Ok(None);
    }
    let is_plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    match text.parse() {
        Ok(port) if is_plain => Ok(Some(port)),
        _ => Err(HostError::BadPort),
    }
}

impl Name {
    fn parse(text: &str) -> Result<Self, HostError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(inner) = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            let address: Ipv6Addr = inner.parse().map_err(|_| HostError::BadAddress)?;
            // ::ffff:127.0.0.1 is a second spelling of 127.0.0.1.
            return match address.to_ipv4_mapped() {
                Some(_) => Err(HostError::BadAddress),
                None => Ok(Self::V6(address)),
            };
        }
        if let Some(above) = text.strip_prefix("*.") {
            return name(above).map(Self::Beneath);
        }
        if looks_numeric(text) {
            return text
                .parse()
                .map(Self::V4)
                .map_err(|_| HostError::BadAddress);
        }
        name(text).map(Self::Exact)
    }

    fn covers(&self, request: &Self) -> bool {
        match (self, request) {
            (Self::Any, Self::Any | Self::Beneath(_) | Self::Exact(_)) => true,
            (Self::Beneath(above), Self::Exact(name)) => is_beneath(above, name),
            (Self::Beneath(above), Self::Beneath(name)) => name == above || is_beneath(above, name),
            _ => self == request,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Beneath(above) => write!(f, "*.{above}"),
            Self::Exact(name) => f.write_str(name),
            Self::V4(address) => address.fmt(f),
            Self::V6(address) => write!(f, "[{address}]"),
        }
    }
}

fn is_beneath(above: &str, name: &str) -> bool {
    name.strip_suffix(above)
        .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// Whatever an address parser somewhere might take for a number (`127.1`,
/// `0x7f.1`, `2130706433`) is an address here, and then has to be written as
/// one. This is the "ends in a number" rule of the URL standard.
fn looks_numeric(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let last = text.rsplit('.').next().unwrap_or(text);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let is_hex = hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    is_hex || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()))
}

fn name(text: &str) -> Result<String, HostError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if text.len() > 253 || looks_numeric(text) || !text.split('.').all(is_label) {
        return Err(HostError::BadName);
    }
    Ok(text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_name_is_allowed() {
        let grant = Host::parse("example.com:443").unwrap();
        for host in ["example.com", "EXAMPLE.com", "example.com."] {
            assert!(grant.allows(host, 443), "{host}");
            assert!(!grant.allows(host, 80), "{host}");
        }
        for host in [
            "evilexample.com",
            "example.com.evil.net",
            "example.com..",
            "xn--exmple-cua.com",
            "ex\u{430}mple.com",
            "example.com@b",
            "a@example.com",
            "93.184.215.14",
            "0x7f.1",
            "127.1",
            "2130706433",
            "::ffff:127.0.0.1",
            "[::ffff:127.0.0.1]",
            "[::1%lo]",
            "[::1]",
            "",
            ".",
            "example.com\0",
            "example.com ",
            "api.example.com",
            "*",
        ] {
            assert!(!grant.allows(host, 443), "{host:?}");
        }
    }

    #[test]
    fn host_and_port_stay_together() {
        let grants = ["a.example:443", "b.example:22"].map(|text| Host::parse(text).unwrap());
        assert!(!grants.iter().any(|grant| grant.allows("a.example", 22)));
        assert!(Host::parse("a.example:*").unwrap().allows("a.example", 22));
    }

    #[test]
    fn wildcards_stop_at_labels_and_never_cover_addresses() {
        let beneath = Host::parse("*.example.com:443").unwrap();
        assert!(beneath.allows("api.example.com", 443));
        assert!(beneath.allows("a.b.example.com", 443));
        for host in ["example.com", "evilexample.com", ".example.com", "*"] {
            assert!(!beneath.allows(host, 443), "{host}");
        }
        let any = Host::parse("*:443").unwrap();
        assert!(any.allows("anything.example", 443));
        for address in ["169.254.169.254", "127.0.0.1", "[::1]"] {
            assert!(!any.allows(address, 443), "{address}");
            let granted = Host::parse(&format!("{address}:443")).unwrap();
            assert!(granted.allows(address, 443), "{address}");
        }
    }

    #[test]
    fn what_is_no_host_and_port_is_refused() {
        for text in [
            "example.com",
            ":443",
            "example.com:",
            "example.com:0",
            "example.com:65536",
            "example.com:+443",
            "example.com:0443",
            "0.0.5:80",
            "0x7f.1:80",
            "127.1:80",
            "1:80",
            "::1:80",
            "[::ffff:127.0.0.1]:80",
            "[::1:80",
            "[::1]",
            "a_b:80",
            "-a:80",
            "a..b:80",
            "é.com:80",
            "*.com.*:80",
            "ex*mple.com:80",
            "*.1:80",
            "a@b:80",
            "http://a:80",
        ] {
            assert!(Host::parse(text).is_err(), "{text:?}");
        }
    }
}
