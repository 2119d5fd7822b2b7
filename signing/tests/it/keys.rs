//! Ed25519 at its edges.

use orchestrator_signing::{KeyError, PublicKey, SecretKey};

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    let bytes = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
    bytes.collect::<Vec<_>>().try_into().unwrap()
}

/// RFC 8032 §7.1: secret, public, message, signature.
const RFC_8032: [(&str, &str, &str, &str); 4] = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    (
        "833fe62409237b9d62ec77587520911e9a759cec1d19755b7da901b96dca3d42",
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b58909351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
];

fn message(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

#[test]
fn the_vectors_of_rfc_8032() {
    for (secret, public, text, signature) in RFC_8032 {
        let key = SecretKey::from_seed(&bytes(secret), "rfc").unwrap();
        assert_eq!(
            key.public(),
            &PublicKey::from_bytes(&bytes(public), "rfc").unwrap()
        );
        let message = message(text);
        assert_eq!(key.sign(&message), bytes::<64>(signature));
        assert!(key.public().verifies(&message, &bytes(signature)));
        assert!(!key.public().verifies(b"something else", &bytes(signature)));
    }
}

/// The eight points of small order: every signature under them can be forged.
#[test]
fn keys_of_small_order_are_refused_when_they_are_read() {
    for hex in [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    ] {
        assert_eq!(
            PublicKey::from_bytes(&bytes(hex), "weak"),
            Err(KeyError::Weak),
            "{hex}"
        );
    }
}

/// A second spelling of a point would be a second identity of one key.
#[test]
fn second_spellings_of_points_are_refused() {
    for head in [
        "ed", "ee", "f0", "f1", "f2", "f3", "f6", "f7", "fb", "fc", "fd", "ff",
    ] {
        for tail in ["7f", "ff"] {
            let hex = format!("{head}{}{tail}", "ff".repeat(30));
            assert_eq!(
                PublicKey::from_bytes(&bytes(&hex), "twin"),
                Err(KeyError::NoPoint),
                "{hex}"
            );
        }
    }
    let negative_zero = format!("01{}80", "00".repeat(30));
    assert_eq!(
        PublicKey::from_bytes(&bytes(&negative_zero), "twin"),
        Err(KeyError::NoPoint)
    );
    let no_point = format!("02{}", "00".repeat(31));
    assert_eq!(
        PublicKey::from_bytes(&bytes(&no_point), "none"),
        Err(KeyError::NoPoint)
    );
}

/// Adding the group order to S gives a second signature that a lenient
/// verifier accepts.
#[test]
fn a_signature_has_one_spelling() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde,
        0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let key = SecretKey::generate("k").unwrap();
    let good = key.sign(b"message");
    let mut twin = good;
    let mut carry = 0;
    for (byte, order) in twin[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = (sum & 0xff) as u8;
        carry = sum >> 8;
    }
    assert!(key.public().verifies(b"message", &good));
    assert!(!key.public().verifies(b"message", &twin));
    assert!(!key.public().verifies(b"message", &[0; 64]));
}

/// R is the neutral point and S fits: the equation holds, and whoever knows
/// the secret could have many messages under one signature.
#[test]
fn a_signature_with_a_small_r_is_refused() {
    let key = SecretKey::from_seed(&bytes(RFC_8032[0].0), "rfc").unwrap();
    let signature = "010000000000000000000000000000000000000000000000000000000000000017b76c68cdf640492434979a90098e71524faef838e073346be3c4fcbe9df20a";
    assert!(!key.public().verifies(b"small R", &bytes(signature)));
}

#[test]
fn a_public_key_is_one_line() {
    let key = SecretKey::generate("release-2026").unwrap();
    let line = key.public().to_line();
    assert_eq!(PublicKey::from_line(&line).unwrap(), *key.public());
    assert_eq!(
        PublicKey::from_line(&format!("{line}\n")).unwrap(),
        *key.public()
    );
    let base64 = key.public().to_base64();
    for bad in [
        String::new(),
        base64.clone(),
        line.replace("v1", "v2"),
        format!("{line} more"),
        format!("{line}\n\n"),
        format!("orchestrator-key-v1 {} name", &base64[1..]),
        format!("orchestrator-key-v1 {}A name", &base64),
        format!("orchestrator-key-v1 {} name", key.public().id()),
        format!("orchestrator-key-v1 {base64} a\u{202e}b"),
        format!("orchestrator-key-v1 {base64} {}", "n".repeat(65)),
    ] {
        assert!(PublicKey::from_line(&bad).is_err(), "{bad:?}");
    }
}

/// The key in the documentation of Go's `note` package.
#[test]
fn a_note_names_a_key_as_others_do() {
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
    let known = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    let bytes = BASE64.decode(&known[22..]).unwrap();
    let key = PublicKey::from_bytes(&bytes[1..].try_into().unwrap(), "PeterNeumann").unwrap();
    assert_eq!(key.to_note(), known);
}

#[test]
fn secrets_are_not_shown() {
    let key = SecretKey::from_seed(&bytes(RFC_8032[0].0), "shown").unwrap();
    let text = format!("{key:?} {:?}", key.public());
    assert!(
        text.contains("shown") && !text.contains("9d61b1") && !text.contains("157, 97"),
        "{text}"
    );
}
