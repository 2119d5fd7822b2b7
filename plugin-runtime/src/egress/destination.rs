//! What a grant of `network:access` names.

use std::{fmt, net::IpAddr, ops::RangeInclusive, str::FromStr};

use miette::Diagnostic;

use super::{
    address::{Range, is_public},
    target::{Host, Target, name, parse_port},
};

/// The shortest prefixes of ranges. With less, nobody has named anything.
const PREFIX_MIN: (u8, u8) = (8, 16);

/// What one grant of `network:access` names, written `host:port`.
///
/// The host is a name, `*.` and a name for every name that is one label longer, `*` for
/// every name, an address (of version 6 in brackets) or a range of them (`10.0.0.0/8`,
/// `[fd00::/16]`). The port is a number, two of them (`8000-8099`), or `*`. Names are
/// compared label by label, in lower case, as punycode; a name never stands for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    host: Pattern,
    ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    AnyName,
    /// Every name with one label more than this one.
    Below(String),
    Name(String),
    Addresses(Range),
}

/// Why a text names no destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Diagnostic)]
#[error("`{given}` is no destination: {reason}")]
#[diagnostic(
    code("ORC-3170"),
    help(
        "written for example `api.example.com:443`, `*.example.com:443`, `192.0.2.1:8000-8099` or \
         `[fd00::/16]:*`; names that are not ASCII are written as punycode"
    )
)]
pub struct DestinationError {
    /// The text, escaped and shortened.
    given: String,
    reason: &'static str,
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let failed = |reason| DestinationError {
            given: text.escape_debug().take(80).collect(),
            reason,
        };
        let colon = text
            .rsplit_once(':')
            .filter(|(_, port)| !port.ends_with(']'));
        let (host, ports) = colon.ok_or_else(|| failed("it has no port"))?;
        Ok(Self {
            host: Pattern::parse(host).map_err(failed)?,
            ports: parse_ports(ports)
                .ok_or_else(|| failed("a port is a number from 1 to 65535, and a range ascends"))?,
        })
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Pattern::AnyName => out.write_str("*:")?,
            Pattern::Below(above) => write!(out, "*.{above}:")?,
            Pattern::Name(name) => write!(out, "{name}:")?,
            Pattern::Addresses(range) => write!(out, "{range}:")?,
        }
        match (self.ports.start(), self.ports.end()) {
            (1, &u16::MAX) => out.write_str("*"),
            (first, last) if first == last => write!(out, "{first}"),
            (first, last) => write!(out, "{first}-{last}"),
        }
    }
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    if text == "*" {
        return Some(1..=u16::MAX);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports = parse_port(first)?..=parse_port(last)?;
    (!ports.is_empty()).then_some(ports)
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        const NO_NAME: &str = "a name is labels of a-z, 0-9 and `-`, joined by dots";
        if text == "*" {
            return Ok(Self::AnyName);
        }
        if let Some(above) = text.strip_prefix("*.") {
            return name(above).map(Self::Below).ok_or(NO_NAME);
        }
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some((first, prefix)) = inner.unwrap_or(text).split_once('/') {
            return range(first, prefix, inner.is_some());
        }
        match Host::parse(text) {
            // A second spelling of an address is for requests alone.
            Some(Host::Address(IpAddr::V4(_))) if inner.is_some() => {
                Err("an address of version 4 is written as one")
            }
            Some(Host::Address(address)) => Ok(Self::Addresses(Range::one(address))),
            Some(Host::Name(name)) => Ok(Self::Name(name)),
            None => Err(NO_NAME),
        }
    }
}

fn range(first: &str, prefix: &str, in_brackets: bool) -> Result<Pattern, &'static str> {
    const NO_RANGE: &str = "a range is its first address, `/` and the number of its common bits, \
                            at least 8, or 16 in brackets for version 6";
    let first: IpAddr = first.parse().map_err(|_| NO_RANGE)?;
    let prefix = parse_port(prefix).and_then(|prefix| u8::try_from(prefix).ok());
    let prefix = prefix.ok_or(NO_RANGE)?;
    let least = match first {
        IpAddr::V4(_) if !in_brackets => PREFIX_MIN.0,
        IpAddr::V6(first) if in_brackets && first.to_ipv4_mapped().is_none() => PREFIX_MIN.1,
        _ => return Err(NO_RANGE),
    };
    if prefix < least {
        return Err(NO_RANGE);
    }
    let range = Range::new(first, prefix).ok_or(NO_RANGE)?;
    Ok(Pattern::Addresses(range))
}

impl Destination {
    /// Whether this names `target`.
    pub(super) fn names(&self, target: &Target) -> bool {
        self.ports.contains(&target.port)
            && match (&self.host, &target.host) {
                (Pattern::AnyName, Host::Name(_)) => true,
                (Pattern::Below(above), Host::Name(name)) => {
                    name.split_once('.').is_some_and(|(_, rest)| rest == above)
                }
                (Pattern::Name(granted), Host::Name(name)) => granted == name,
                (Pattern::Addresses(range), Host::Address(address)) => range.contains(*address),
                _ => false,
            }
    }
}

/// Whether one of `granted` names `target`.
pub(super) fn is_granted(granted: &[Destination], target: &Target) -> bool {
    granted.iter().any(|destination| destination.names(target))
}

/// Whether `address` may be connected to at `port`, once what leads to it was granted: it is
/// public, or named itself.
pub(super) fn may_be_reached(granted: &[Destination], address: IpAddr, port: u16) -> bool {
    let itself = || Target::new(Host::from(address), port);
    is_public(address) || itself().is_some_and(|itself| is_granted(granted, &itself))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(texts: &[&str]) -> Vec<Destination> {
        let parsed = texts.iter().map(|text| text.parse());
        parsed.collect::<Result<_, _>>().expect("destinations")
    }

    fn names(grant: &str, target: &str) -> bool {
        Target::parse(target, None).is_some_and(|it| is_granted(&granted(&[grant]), &it))
    }

    #[test]
    fn a_name_is_that_name_alone() {
        for target in ["example.com:443", "EXAMPLE.com:443", "example.com.:443"] {
            assert!(names("example.com:443", target), "{target}");
            assert!(names("Example.Com.:443", target), "{target}");
        }
        for target in [
            "evilexample.com:443",
            "example.com.evil.net:443",
            "api.example.com:443",
            "example.co:443",
            "com:443",
            "xn--exmple-cua.com:443",
            "93.184.215.14:443",
            "example.com:444",
            "example.com:80",
        ] {
            assert!(!names("example.com:443", target), "{target}");
        }
        assert!(names(
            "xn--bcher-kva.example:443",
            "XN--bcher-KVA.example:443"
        ));
    }

    #[test]
    fn a_star_is_one_label() {
        assert!(names("*.example.com:443", "api.example.com:443"));
        for target in [
            "example.com:443",
            "a.b.example.com:443",
            "evilexample.com:443",
            "api.example.com.evil.net:443",
            "1.2.3.4:443",
        ] {
            assert!(!names("*.example.com:443", target), "{target}");
        }
        assert!(names("*:443", "a.b.example:443"));
        for address in ["169.254.169.254:443", "8.8.8.8:443", "[::1]:443"] {
            assert!(!names("*:443", address), "{address}");
        }
    }

    #[test]
    fn ports_belong_to_their_host() {
        let both = granted(&["a.example:443", "b.example:22"]);
        let is = |text| is_granted(&both, &Target::parse(text, None).expect("a target"));
        assert!(is("a.example:443") && is("b.example:22"));
        assert!(!is("a.example:22") && !is("b.example:443"));
        for (grant, target, named) in [
            ("a:8000-8099", "a:8000", true),
            ("a:8000-8099", "a:8099", true),
            ("a:8000-8099", "a:7999", false),
            ("a:8000-8099", "a:8100", false),
            ("a:*", "a:1", true),
            ("a:*", "a:65535", true),
        ] {
            assert_eq!(names(grant, target), named, "{grant} {target}");
        }
    }

    #[test]
    fn an_address_that_is_not_public_has_to_be_named() {
        let reached = |grants: &[&str], address: &str| {
            may_be_reached(&granted(grants), address.parse().expect("an address"), 443)
        };
        assert!(reached(&["a.example:443"], "8.8.8.8"));
        for address in ["10.1.2.3", "127.0.0.1", "::1", "::ffff:10.1.2.3", "fd00::1"] {
            assert!(!reached(&["a.example:443", "*:*"], address), "{address}");
        }
        assert!(reached(&["10.1.2.3:443"], "10.1.2.3"));
        assert!(reached(&["10.0.0.0/8:443"], "::ffff:10.1.2.3"));
        assert!(!reached(&["10.0.0.0/8:80"], "10.1.2.3"), "another port");
        assert!(!reached(&["10.0.0.0/8:443"], "64:ff9b::10.1.2.3"));
        assert!(reached(&["[64:ff9b::a01:203]:443"], "64:ff9b::10.1.2.3"));
        assert!(reached(&["[fd00::/16]:443"], "fd00::1"));
    }

    #[test]
    fn what_is_written_reads_back() {
        for text in [
            "example.com:443",
            "*.example.com:1-1023",
            "*:*",
            "192.0.2.1:80",
            "10.0.0.0/8:5432",
            "[2001:db8::1]:80",
            "[fd00::/16]:*",
        ] {
            let destination: Destination = text.parse().expect(text);
            assert_eq!(destination.to_string(), text);
        }
        for text in [
            "",
            "a",
            ":80",
            "a:",
            "a:0",
            "a:080",
            "a:90-80",
            "a:-80",
            "a:80-",
            "a:65536",
            "[::1]",
            "*.*.a:80",
            "*a.b:80",
            "a.*:80",
            "*.1:80",
            "*.:80",
            "b\u{fc}cher.example:80",
            "127.1:80",
            "0x7f.1:80",
            "[::ffff:10.0.0.1]:80",
            "[::ffff:0:0/96]:80",
            "0.0.0.0/0:80",
            "10.0.0.1/8:80",
            "10.0.0.0/33:80",
            "10.0.0.0/08:80",
            "[::/0]:80",
            "fd00::/16:80",
            "[10.0.0.0/8]:80",
            "a@b:80",
            "http://a:80",
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text:?}");
        }
    }
}
