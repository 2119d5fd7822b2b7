//! The side of the proxy that speaks SOCKS 5 (RFC 1928), as far as it connects by TCP.
//! There is no authentication: who reaches the proxy is the plugin.

use std::net::{Ipv4Addr, Ipv6Addr};

use orchestrator_contract::DenialRule;
use orchestrator_manifest::{Host, Target};

use super::{
    refusal::Refusal,
    request::{Request, Route},
};

/// The first byte of everything.
pub(super) const VERSION: u8 = 5;
const METHOD_NONE: u8 = 0;
const CONNECT: u8 = 1;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_NOT_SUPPORTED: u8 = 8;

/// The answer to a greeting.
pub(super) const NO_AUTHENTICATION: &[u8] = &[VERSION, METHOD_NONE];
/// The answer to a greeting that offers nothing that would do.
pub(super) const NO_METHOD: &[u8] = &[VERSION, 0xff];
/// What is said when a connection stands. The address at this end is nobody's business.
pub(super) const ESTABLISHED: &[u8] = &reply(0);

const fn reply(code: u8) -> [u8; 10] {
    [VERSION, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// What is said instead of a connection.
pub(super) fn refused(refusal: &Refusal) -> [u8; 10] {
    reply(refusal.code())
}

/// The first message of a client.
pub(super) struct Greeting {
    pub(super) length: usize,
    pub(super) offers_no_authentication: bool,
}

impl Greeting {
    /// `None` when it is not complete.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let length = 2 + usize::from(*bytes.get(1)?);
        let methods = bytes.get(2..length)?;
        Some(Self {
            length,
            offers_no_authentication: methods.contains(&METHOD_NONE),
        })
    }
}

/// The second message of a client, and its length; `None` when it is not complete.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, Refusal> {
    let Some((&[version, command, _, kind], rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    if version != VERSION {
        return Err(Refusal::Malformed("this is no SOCKS request"));
    }
    if command != CONNECT {
        return Err(Refusal::NotOffered(COMMAND_NOT_SUPPORTED));
    }
    let address = match kind {
        1 => rest
            .first_chunk()
            .map(|octets: &[u8; 4]| (Ok(Host::from(Ipv4Addr::from_octets(*octets))), 4)),
        4 => rest
            .first_chunk()
            .map(|octets: &[u8; 16]| (Ok(Host::from(Ipv6Addr::from_octets(*octets))), 16)),
        3 => rest.split_first().and_then(|(length, rest)| {
            let length = usize::from(*length);
            rest.get(..length).map(|name| (by_name(name), 1 + length))
        }),
        _ => return Err(Refusal::NotOffered(ADDRESS_NOT_SUPPORTED)),
    };
    let Some((host, length)) = address else {
        return Ok(None);
    };
    let Some(port) = rest.get(length..length + 2) else {
        return Ok(None);
    };
    let port = u16::from_be_bytes([port[0], port[1]]);
    let malformed = |host: String| Refusal::denied(DenialRule::Malformed, format!("{host}:{port}"));
    let host = host.map_err(malformed)?;
    let shown = host.to_string();
    let target = Target::new(host, port).ok_or_else(|| malformed(shown))?;
    let request = Request {
        target,
        route: Route::Socks,
    };
    Ok(Some((request, 4 + length + 2)))
}

/// Some clients send an address as if it were a name.
fn by_name(name: &[u8]) -> Result<Host, String> {
    let text = String::from_utf8_lossy(name);
    let address = text.parse::<Ipv6Addr>().ok().map(Host::from);
    address
        .or_else(|| Host::parse(&text))
        .ok_or_else(|| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(message: &[u8]) -> String {
        let (request, length) = parse(message).expect("a request").expect("complete");
        assert_eq!(length, message.len());
        request.target.to_string()
    }

    fn named(name: &str, port: u16) -> Vec<u8> {
        let mut message = vec![5, 1, 0, 3, u8::try_from(name.len()).expect("a short name")];
        message.extend(name.as_bytes());
        message.extend(port.to_be_bytes());
        message
    }

    #[test]
    fn each_kind_of_address_is_read() {
        assert_eq!(target(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 80]), "192.0.2.1:80");
        let mut six = vec![5, 1, 0, 4];
        six.extend(Ipv6Addr::LOCALHOST.octets());
        six.extend([1, 187]);
        assert_eq!(target(&six), "[::1]:443");
        let mut mapped = vec![5, 1, 0, 4];
        mapped.extend(Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        mapped.extend([0, 80]);
        assert_eq!(target(&mapped), "127.0.0.1:80");
        assert_eq!(
            target(&named("API.Example.com.", 443)),
            "api.example.com:443"
        );
        assert_eq!(target(&named("::1", 443)), "[::1]:443");
        assert_eq!(target(&named("192.0.2.1", 443)), "192.0.2.1:443");
    }

    #[test]
    fn a_part_of_a_message_is_waited_for() {
        let message = named("a.example", 80);
        for length in 0..message.len() {
            assert!(matches!(parse(&message[..length]), Ok(None)), "{length}");
        }
        assert!(Greeting::parse(&[5]).is_none() && Greeting::parse(&[5, 2, 0]).is_none());
        assert!(Greeting::parse(&[5, 2, 2, 0]).is_some_and(|it| it.offers_no_authentication));
        assert!(Greeting::parse(&[5, 1, 2]).is_some_and(|it| !it.offers_no_authentication));
    }

    #[test]
    fn what_is_not_offered_or_has_two_meanings_is_refused() {
        let code = |message: &[u8]| parse(message).expect_err("refused").code();
        assert_eq!(code(&[5, 2, 0, 1, 192, 0, 2, 1, 0, 80]), 7, "bind");
        assert_eq!(code(&[5, 3, 0, 1, 192, 0, 2, 1, 0, 80]), 7, "datagrams");
        assert_eq!(code(&[5, 1, 0, 2, 192, 0, 2, 1, 0, 80]), 8);
        assert_eq!(code(&[4, 1, 0, 80, 192, 0, 2, 1, 0]), 1, "SOCKS 4");
        assert_eq!(code(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 0]), 2, "port 0");
        for name in [
            "",
            "a b",
            "127.1",
            "0x7f.1",
            "a\0",
            "b\u{fc}cher.example",
            "[::1",
        ] {
            assert_eq!(code(&named(name, 80)), 2, "{name:?}");
        }
    }
}
