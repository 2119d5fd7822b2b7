//! What a grant of `network:access` names.

use std::{fmt, net::IpAddr, str::FromStr};

use super::{AddressRange, Host, Target, name, parse_port};

/// The shortest prefixes of ranges, of version 4 and 6. With less, nobody has named anything.
const PREFIX_MIN: (u8, u8) = (8, 16);

/// What one grant of `network:access` names, written `host:port`.
///
/// The host is a name, `*.` and a name for every name that is one label longer, `*` for
/// every name, an address (of version 6 in brackets) or a range of them (`10.0.0.0/8`,
/// `[fd00::/16]`). The port is a number, two of them (`8000-8099`), or `*`. Names are
/// compared label by label, in lower case, as punycode; a name never stands for an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    host: Pattern,
    ports: Ports,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Pattern {
    AnyName,
    /// Every name with one label more than this one.
    Below(String),
    Name(String),
    Addresses(AddressRange),
}

/// Both ends are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ports {
    first: u16,
    last: u16,
}

/// Why a text names no destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DestinationError {
    /// No colon and port at the end.
    #[error("the port is missing; write `host:443`, or `host:*` for every port")]
    NoPort,
    /// No port from 1 to 65535, nor two that ascend.
    #[error("a port is a number from 1 to 65535, two of them that ascend (`8000-8099`), or `*`")]
    BadPort,
    /// Not a host name.
    #[error(
        "not a host name: labels of a-z, 0-9 and `-`, joined by dots; others are written as punycode"
    )]
    BadName,
    /// An address in an unusual spelling.
    #[error("not an address in its usual spelling, such as 192.0.2.1 or [2001:db8::1]")]
    BadAddress,
    /// Something with a slash that is no range, or one of nearly everything.
    #[error(
        "a range is its first address, `/` and the number of its common bits, at least 8, or 16 in \
         brackets for version 6: `10.0.0.0/8`, `[fd00::/16]`"
    )]
    BadRange,
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let colon = text
            .rsplit_once(':')
            // The colon may be one of an address in brackets.
            .filter(|(host, port)| {
                !port.ends_with(']') && (!host.starts_with('[') || host.ends_with(']'))
            });
        let (host, ports) = colon.ok_or(DestinationError::NoPort)?;
        Ok(Self {
            host: Pattern::parse(host)?,
            ports: Ports::parse(ports).ok_or(DestinationError::BadPort)?,
        })
    }
}

impl Destination {
    /// Every name at every port. Of the network as a whole, this is how it is granted.
    pub fn is_everything(&self) -> bool {
        self.host == Pattern::AnyName && self.ports == Ports::ALL
    }

    /// Whether this names `target`.
    pub fn names(&self, target: &Target) -> bool {
        self.ports.has(target.port)
            && match (&self.host, &target.host) {
                (Pattern::AnyName, Host::Name(_)) => true,
                (Pattern::Below(above), Host::Name(name)) => is_below(above, name),
                (Pattern::Name(granted), Host::Name(name)) => granted == name,
                (Pattern::Addresses(range), Host::Address(address)) => range.contains(*address),
                _ => false,
            }
    }

    /// Whether this names everything that `other` names.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.ports.covers(other.ports)
            && match (&self.host, &other.host) {
                (Pattern::AnyName, Pattern::AnyName | Pattern::Below(_) | Pattern::Name(_)) => true,
                (Pattern::Below(above), Pattern::Name(name)) => is_below(above, name),
                (Pattern::Addresses(range), Pattern::Addresses(other)) => range.covers(*other),
                (one, other) => one == other,
            }
    }
}

fn is_below(above: &str, name: &str) -> bool {
    name.split_once('.').is_some_and(|(_, rest)| rest == above)
}

impl Ports {
    const ALL: Self = Self {
        first: 1,
        last: u16::MAX,
    };

    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::ALL);
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (parse_port(first)?, parse_port(last)?);
        (first > 0 && first <= last).then_some(Self { first, last })
    }

    fn has(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    fn covers(self, other: Self) -> bool {
        self.has(other.first) && self.has(other.last)
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, DestinationError> {
        use DestinationError::{BadAddress, BadName};
        if text == "*" {
            return Ok(Self::AnyName);
        }
        if let Some(above) = text.strip_prefix("*.") {
            return name(above).map(Self::Below).ok_or(BadName);
        }
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some((first, prefix)) = inner.unwrap_or(text).split_once('/') {
            return range(first, prefix, inner.is_some());
        }
        match Host::parse(text) {
            // A second spelling of an address is for requests alone.
            Some(Host::Address(IpAddr::V4(_))) if inner.is_some() => Err(BadAddress),
            Some(Host::Address(address)) => Ok(Self::Addresses(AddressRange::one(address))),
            Some(Host::Name(name)) => Ok(Self::Name(name)),
            None if inner.is_some() || super::is_number(text) => Err(BadAddress),
            None => Err(BadName),
        }
    }
}

fn range(first: &str, prefix: &str, in_brackets: bool) -> Result<Pattern, DestinationError> {
    use DestinationError::BadRange;
    let first: IpAddr = first.parse().map_err(|_| BadRange)?;
    let prefix = parse_port(prefix).and_then(|prefix| u8::try_from(prefix).ok());
    let prefix = prefix.ok_or(BadRange)?;
    let least = match first {
        IpAddr::V4(_) if !in_brackets => PREFIX_MIN.0,
        IpAddr::V6(first) if in_brackets && first.to_ipv4_mapped().is_none() => PREFIX_MIN.1,
        _ => return Err(BadRange),
    };
    if prefix < least {
        return Err(BadRange);
    }
    let range = AddressRange::new(first, prefix).ok_or(BadRange)?;
    Ok(Pattern::Addresses(range))
}

impl fmt::Display for Destination {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Pattern::AnyName => out.write_str("*:")?,
            Pattern::Below(above) => write!(out, "*.{above}:")?,
            Pattern::Name(name) => write!(out, "{name}:")?,
            Pattern::Addresses(range) => write!(out, "{range}:")?,
        }
        match self.ports {
            Ports::ALL => out.write_str("*"),
            Ports { first, last } if first == last => write!(out, "{first}"),
            Ports { first, last } => write!(out, "{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(texts: &[&str]) -> Vec<Destination> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn is_granted(granted: &[Destination], target: &Target) -> bool {
        granted.iter().any(|grant| grant.names(target))
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
        let is = |text| is_granted(&both, &Target::parse(text, None).unwrap());
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
    fn a_grant_covers_what_it_names_all_of() {
        for (grant, request, covered) in [
            ("example.com:443", "example.com:443", true),
            ("EXAMPLE.com.:443", "example.com:443", true),
            ("example.com:*", "example.com:443", true),
            ("example.com:443", "example.com:*", false),
            ("example.com:8000-8099", "example.com:8010-8020", true),
            ("example.com:8000-8099", "example.com:8010-8100", false),
            ("*.example.com:443", "api.example.com:443", true),
            ("*.example.com:443", "example.com:443", false),
            ("*.example.com:443", "a.b.example.com:443", false),
            ("*.example.com:443", "*.b.example.com:443", false),
            ("*.example.com:443", "evilexample.com:443", false),
            ("*:443", "*.example.com:443", true),
            ("*:443", "169.254.169.254:443", false),
            ("*.example.com:443", "*:443", false),
            ("10.0.0.0/8:443", "10.1.0.0/16:443", true),
            ("10.0.0.0/8:443", "10.1.2.3:443", true),
            ("10.1.0.0/16:443", "10.0.0.0/8:443", false),
            ("[fd00::/16]:443", "[fd00::1]:443", true),
            ("10.0.0.0/8:443", "example.com:443", false),
        ] {
            let [grant, request] =
                [grant, request].map(|text| text.parse::<Destination>().unwrap());
            assert_eq!(grant.covers(&request), covered, "{grant} / {request}");
        }
        assert!(granted(&["*:*"])[0].is_everything());
        assert!(!granted(&["*:1-65534"])[0].is_everything());
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
            let destination: Destination = text.parse().unwrap();
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
            "0177.0.0.1:80",
            "2130706433:80",
            "[::1%lo]:80",
            "[::1:80",
            "example.com..:80",
            "example.com :80",
            "a\0:80",
        ] {
            assert!(text.parse::<Destination>().is_err(), "{text:?}");
        }
    }
}
