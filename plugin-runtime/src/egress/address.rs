//! Which addresses are the internet's, and ranges of them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Addresses that have the first `prefix` bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    first: IpAddr,
    prefix: u8,
}

impl Range {
    /// `None` when `first` is not the first address of the range.
    pub(super) fn new(first: IpAddr, prefix: u8) -> Option<Self> {
        let range = Self { first, prefix };
        let (bits, width) = bits(first);
        let fits = u32::from(prefix) <= width && bits & !mask(prefix, width) == 0;
        fits.then_some(range)
    }

    pub(super) fn one(address: IpAddr) -> Self {
        let (_, width) = bits(address);
        Self {
            first: address,
            prefix: u8::try_from(width).unwrap_or(u8::MAX),
        }
    }

    pub(super) fn contains(self, address: IpAddr) -> bool {
        let ((first, width), (bits, its_width)) = (bits(self.first), bits(address));
        width == its_width && bits & mask(self.prefix, width) == first
    }
}

impl fmt::Display for Range {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, width) = bits(self.first);
        let is_one = u32::from(self.prefix) == width;
        match (self.first, is_one) {
            (IpAddr::V4(first), true) => write!(out, "{first}"),
            (IpAddr::V4(first), false) => write!(out, "{first}/{}", self.prefix),
            (IpAddr::V6(first), true) => write!(out, "[{first}]"),
            (IpAddr::V6(first), false) => write!(out, "[{first}/{}]", self.prefix),
        }
    }
}

/// The bits of an address, and how many there are.
fn bits(address: IpAddr) -> (u128, u32) {
    match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()), Ipv4Addr::BITS),
        IpAddr::V6(address) => (address.to_bits(), Ipv6Addr::BITS),
    }
}

/// The first `prefix` of `width` bits.
fn mask(prefix: u8, width: u32) -> u128 {
    let all = u128::MAX >> (u128::BITS - width);
    let others = width.saturating_sub(u32::from(prefix));
    all & u128::MAX.checked_shl(others).unwrap_or(0)
}

/// What of version 4 is not the internet's: IANA's special-purpose registry, multicast, what
/// is reserved, and one address at which a cloud answers about its machines, which lies
/// among the public ones. The others of this kind lie in ranges that are listed anyway.
const NOT_PUBLIC: &[(Ipv4Addr, u8)] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(168, 63, 129, 16), 32),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];

/// What of global unicast (`2000::/3`) of version 6 is not the internet's.
const NOT_PUBLIC_6: &[(Ipv6Addr, u8)] = &[
    // Teredo, benchmarks and other protocols.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

const UNICAST: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Addresses of version 4 behind a translator, in the last 32 bits.
const NAT64: (Ipv6Addr, u8) = (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
/// Networks behind an address of version 4, which is the second to sixth byte pair.
const SIX_TO_FOUR: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);

/// Whether `address` is one of the internet: of no private network, not of this machine
/// or its neighbours, for no group, and no other spelling of one that is.
pub(super) fn is_public(address: IpAddr) -> bool {
    let within = |(first, prefix): (Ipv6Addr, u8)| {
        let range = Range {
            first: first.into(),
            prefix,
        };
        range.contains(address)
    };
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_4(address),
        IpAddr::V6(address) if within(NAT64) => {
            let [.., a, b, c, d] = address.octets();
            is_public_4(Ipv4Addr::new(a, b, c, d))
        }
        IpAddr::V6(address) if within(SIX_TO_FOUR) => {
            let [_, _, a, b, c, d, ..] = address.octets();
            is_public_4(Ipv4Addr::new(a, b, c, d))
        }
        IpAddr::V6(_) => within(UNICAST) && !NOT_PUBLIC_6.iter().copied().any(within),
    }
}

fn is_public_4(address: Ipv4Addr) -> bool {
    let mut ranges = NOT_PUBLIC.iter().map(|(first, prefix)| Range {
        first: IpAddr::V4(*first),
        prefix: *prefix,
    });
    !ranges.any(|range| range.contains(address.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn the_internet_is_public() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450:4001:80b::200e",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(address(text)), "{text}");
        }
    }

    #[test]
    fn everything_else_is_not_however_it_is_spelled() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::8.8.8.8",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2002:c0a8:101::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "100::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address(text)), "{text}");
        }
    }

    #[test]
    fn a_range_has_what_its_prefix_says() {
        let range = |text, prefix| Range::new(address(text), prefix);
        let ten = range("10.0.0.0", 8).expect("a range");
        assert!(ten.contains(address("10.255.0.1")) && !ten.contains(address("11.0.0.0")));
        assert!(!ten.contains(address("::a00:1")));
        let odd = range("192.168.4.0", 22).expect("a range");
        assert!(odd.contains(address("192.168.7.255")) && !odd.contains(address("192.168.8.0")));
        let six = range("fd00::", 8).expect("a range");
        assert!(six.contains(address("fdff::1")) && !six.contains(address("fe00::")));
        let all = range("::", 0).expect("a range");
        assert!(all.contains(address("ff02::1")));
        assert!(range("10.0.0.1", 8).is_none() && range("10.0.0.0", 33).is_none());
        let one = Range::one(address("::1"));
        assert!(one.contains(address("::1")) && !one.contains(address("::2")));
        assert_eq!(format!("{ten} {six} {one}"), "10.0.0.0/8 [fd00::/8] [::1]");
    }
}
