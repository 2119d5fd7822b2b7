//! Ranges of addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Addresses that have the first `prefix` bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: IpAddr,
    prefix: u8,
}

impl AddressRange {
    /// `None` when `first` is not the first address of the range.
    pub fn new(first: IpAddr, prefix: u8) -> Option<Self> {
        let range = Self { first, prefix };
        let (bits, width) = bits(first);
        let fits = u32::from(prefix) <= width && bits & !mask(prefix, width) == 0;
        fits.then_some(range)
    }

    /// `address` alone.
    pub fn one(address: IpAddr) -> Self {
        let (_, width) = bits(address);
        Self {
            first: address,
            prefix: u8::try_from(width).unwrap_or(u8::MAX),
        }
    }

    /// Whether `address` is one of them.
    pub fn contains(self, address: IpAddr) -> bool {
        let ((first, width), (bits, its_width)) = (bits(self.first), bits(address));
        width == its_width && bits & mask(self.prefix, width) == first
    }

    /// Whether all of `other` are some of them.
    pub(super) fn covers(self, other: Self) -> bool {
        self.prefix <= other.prefix && self.contains(other.first)
    }
}

impl fmt::Display for AddressRange {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_has_what_its_prefix_says() {
        let range = |text, prefix| AddressRange::new(address(text), prefix);
        let ten = range("10.0.0.0", 8).unwrap();
        assert!(ten.contains(address("10.255.0.1")) && !ten.contains(address("11.0.0.0")));
        assert!(!ten.contains(address("::a00:1")));
        let odd = range("192.168.4.0", 22).unwrap();
        assert!(odd.contains(address("192.168.7.255")) && !odd.contains(address("192.168.8.0")));
        let six = range("fd00::", 8).unwrap();
        assert!(six.contains(address("fdff::1")) && !six.contains(address("fe00::")));
        let all = range("::", 0).unwrap();
        assert!(all.contains(address("ff02::1")));
        assert!(range("10.0.0.1", 8).is_none() && range("10.0.0.0", 33).is_none());
        let half = range("10.128.0.0", 9).unwrap();
        assert!(ten.covers(half) && ten.covers(ten) && !half.covers(ten) && !six.covers(ten));
        let one = AddressRange::one(address("::1"));
        assert!(one.contains(address("::1")) && !one.contains(address("::2")));
        assert_eq!(format!("{ten} {six} {one}"), "10.0.0.0/8 [fd00::/8] [::1]");
    }
}
