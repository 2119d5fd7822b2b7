//! Whether what a plugin asks for was granted.

use std::net::IpAddr;

use orchestrator_manifest::{Destination, Host, Target};

use super::address::is_public;

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
}
