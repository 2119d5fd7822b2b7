//! Roots that follow one another, and those that do not.

use std::fs;

use orchestrator_signing::{
    Delegation, Digest, Envelope, NamePattern, NextRoot, PublicKey, RootFile, SecretKey,
    TrustError, TrustLevel, TrustStore,
};
use proptest::{collection::vec, prelude::*, sample::subsequence};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::code;

pub(crate) const ROOT_TYPE: &str = "application/vnd.orchestrator.root.v1+json";

pub(crate) fn key(name: &str) -> SecretKey {
    SecretKey::generate(name).unwrap()
}

pub(crate) fn key_text(key: &PublicKey) -> Value {
    json!({
        "keyid": key.id(), "keytype": "ed25519", "name": key.name(), "public": key.to_base64(),
    })
}

/// A root written by hand, so that nothing keeps it from being wrong.
pub(crate) fn root_text(version: u64, keys: &[&SecretKey], threshold: usize) -> Value {
    let keys: Vec<_> = keys.iter().map(|key| key_text(key.public())).collect();
    json!({
        "version": version,
        "roles": { "root": { "keys": keys, "threshold": threshold }, "release": [] },
        "revoked_digests": [],
        "allowed_digests": [],
    })
}

pub(crate) fn signed(text: &Value, keys: &[&SecretKey]) -> String {
    let payload = serde_json::to_vec(text).unwrap();
    Envelope::sign(ROOT_TYPE, payload, keys).to_json()
}

/// A host that follows a root which `keys` sign.
pub(crate) fn following(keys: &[&SecretKey], threshold: usize) -> (TempDir, TrustStore) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TrustStore::open(&dir.path().join("trust")).unwrap();
    let first = signed(&root_text(1, keys, threshold), keys);
    store.adopt(first.as_bytes()).unwrap();
    (dir, store)
}

fn reopened(dir: &TempDir) -> TrustStore {
    TrustStore::open(&dir.path().join("trust")).unwrap()
}

fn refused(store: &mut TrustStore, root_json: &str) -> String {
    code(&store.apply_root(root_json.as_bytes()).unwrap_err())
}

/// A root that somebody offers.
#[derive(Clone, Debug)]
struct Offer {
    /// Added to the version that is there.
    step: i64,
    /// Which of the keys sign the roots from then on.
    keys: Vec<usize>,
    threshold: usize,
    /// Who signs it.
    signers: Vec<usize>,
    /// One signer's signature over something else.
    forged: bool,
    /// A signature stands twice.
    twice: bool,
}

const KEYS: usize = 5;

fn offer() -> impl Strategy<Value = Offer> {
    let all: Vec<usize> = (0..KEYS).collect();
    let step = prop_oneof![8 => Just(1_i64), 1 => Just(0), 1 => Just(2), 1 => Just(-1)];
    let keys = subsequence(all.clone(), 1..=KEYS);
    let threshold = prop_oneof![20 => 1..=3_usize, 1 => Just(0), 1 => Just(KEYS + 1)];
    let signers = prop_oneof![
        2 => Just(all.clone()),
        3 => subsequence(all, 1..=KEYS),
    ];
    let forged = proptest::bool::weighted(0.1);
    let twice = proptest::bool::weighted(0.2);
    (step, keys, threshold, signers, forged, twice).prop_map(
        |(step, keys, threshold, signers, forged, twice)| Offer {
            step,
            keys,
            threshold,
            signers,
            forged,
            twice,
        },
    )
}

impl Offer {
    fn json(&self, version: u64, all: &[SecretKey]) -> String {
        let pick = |which: &[usize]| which.iter().map(|at| &all[*at]).collect::<Vec<_>>();
        let text = root_text(
            version.saturating_add_signed(self.step),
            &pick(&self.keys),
            self.threshold,
        );
        let mut signers = pick(&self.signers);
        if self.twice {
            signers.push(signers[0]);
        }
        let mut envelope: Value = serde_json::from_str(&signed(&text, &signers)).unwrap();
        if self.forged {
            let other = signed(&json!({ "version": 0 }), &[&all[self.signers[0]]]);
            let other: Value = serde_json::from_str(&other).unwrap();
            for signature in envelope["signatures"].as_array_mut().unwrap() {
                if signature["keyid"] == other["signatures"][0]["keyid"] {
                    *signature = other["signatures"][0].clone();
                }
            }
        }
        envelope.to_string()
    }

    /// The rule, told again in other words.
    fn follows(&self, old_keys: &[usize], old_threshold: usize) -> bool {
        let good = &self.signers[usize::from(self.forged)..];
        let count = |keys: &[usize]| good.iter().filter(|at| keys.contains(at)).count();
        self.step == 1
            && (1..=self.keys.len()).contains(&self.threshold)
            && count(old_keys) >= old_threshold
            && count(&self.keys) >= self.threshold
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is offered in whatever order: a root counts when, and only when, it is the next and
    /// enough distinct old and new root keys signed it.
    #[test]
    fn only_what_both_thresholds_signed_follows(offers in vec(offer(), 1..16)) {
        let all: Vec<_> = (0..KEYS).map(|at| key(&format!("root-{at}"))).collect();
        let (mut keys, mut threshold, mut version) = (vec![0, 1, 2], 2, 1);
        let (dir, mut store) = following(&[&all[0], &all[1], &all[2]], threshold);
        for offer in offers {
            let follows = offer.follows(&keys, threshold);
            let applied = store.apply_root(offer.json(version, &all).as_bytes());
            prop_assert_eq!(applied.is_ok(), follows, "{:?}: {:?}", offer, applied);
            if follows {
                (keys, threshold, version) = (offer.keys, offer.threshold, version + 1);
            }
            prop_assert_eq!(store.root().version(), version);
            prop_assert_eq!(reopened(&dir).root().version(), version);
        }
        prop_assert_eq!(store.root().root_threshold() as usize, threshold);
        prop_assert_eq!(store.root().root_keys().len(), keys.len());
    }
}

#[test]
fn every_way_not_to_follow_has_its_code() {
    let (a, b, stranger) = (key("a"), key("b"), key("stranger"));
    let (_dir, mut store) = following(&[&a, &b], 2);
    let next = root_text(2, &[&a, &b], 2);
    for (what, root_json, expected) in [
        ("one of two", signed(&next, &[&a]), "ORC-2093"),
        ("the same key twice", signed(&next, &[&a, &a]), "ORC-2093"),
        ("a stranger", signed(&next, &[&a, &stranger]), "ORC-2093"),
        (
            "no new key",
            signed(&root_text(2, &[&stranger], 1), &[&a, &b]),
            "ORC-2093",
        ),
        (
            "again",
            signed(&root_text(1, &[&a, &b], 2), &[&a, &b]),
            "ORC-2085",
        ),
        (
            "too far",
            signed(&root_text(3, &[&a, &b], 2), &[&a, &b]),
            "ORC-2085",
        ),
        (
            "never to be changed again",
            signed(&root_text(2, &[&a, &b], 3), &[&a, &b]),
            "ORC-2098",
        ),
        (
            "by anybody",
            signed(&root_text(2, &[&a, &b], 0), &[&a, &b]),
            "ORC-2098",
        ),
        (
            "a key twice",
            signed(&root_text(2, &[&a, &a], 2), &[&a, &b]),
            "ORC-2098",
        ),
        (
            "the last version",
            signed(&root_text(u64::MAX, &[&a, &b], 2), &[&a, &b]),
            "ORC-2099",
        ),
        (
            "no root",
            signed(&json!({ "version": 2 }), &[&a, &b]),
            "ORC-2099",
        ),
        ("no envelope", "{}".to_owned(), "ORC-2099"),
    ] {
        assert_eq!(refused(&mut store, &root_json), expected, "{what}");
    }
    assert_eq!(store.root().version(), 1);
    store
        .apply_root(signed(&next, &[&a, &b]).as_bytes())
        .unwrap();
}

#[test]
fn what_contradicts_itself_is_no_root() {
    let a = key("a");
    let (_dir, mut store) = following(&[&a], 1);
    let digest = Digest::of(b"release");
    let revoked = json!({ "sha256": digest, "reason": "bad", "since_version": 2 });
    let release = |names: Value, threshold: u32| {
        json!({ "key": key_text(a.public()), "names": names, "threshold": threshold,
            "trust_level": 2, "status": "active" })
    };
    let twice = [release(json!(["a"]), 1), release(json!(["b"]), 1)];
    for (path, value) in [
        ("/revoked_digests", json!([revoked, revoked])),
        (
            "/revoked_digests",
            json!([{ "sha256": digest, "reason": "bad", "since_version": 3 }]),
        ),
        (
            "/revoked_digests",
            json!([{ "sha256": digest, "reason": "a\u{1b}[2J", "since_version": 1 }]),
        ),
        ("/allowed_digests", json!([digest, digest])),
        ("/roles/release", json!(twice)),
        ("/roles/release", json!([release(json!(["a"]), 0)])),
        ("/roles/release", json!([release(json!(["Com.Acme"]), 1)])),
        (
            "/roles/release",
            json!([release(json!(["com.\u{430}cme.*"]), 1)]),
        ),
        ("/version", json!(-1)),
        ("/version", json!("2")),
        ("/roles/extra", json!(1)),
    ] {
        let mut text = root_text(2, &[&a], 1);
        match text.pointer_mut(path) {
            Some(place) => *place = value.clone(),
            None => text["roles"]["extra"] = value.clone(),
        }
        assert_eq!(
            refused(&mut store, &signed(&text, &[&a])),
            "ORC-2099",
            "{path} {value}"
        );
    }
    let mut both = root_text(2, &[&a], 1);
    both["revoked_digests"] = json!([revoked]);
    both["allowed_digests"] = json!([digest]);
    assert_eq!(refused(&mut store, &signed(&both, &[&a])), "ORC-2099");
    assert_eq!(store.root().version(), 1);
}

/// Three people in three places, none of whom has the others' keys.
#[test]
fn a_root_of_several_is_proposed_signed_elsewhere_and_applied() {
    let (a, b, c, stranger) = (key("a"), key("b"), key("c"), key("stranger"));
    let (dir, mut store) = following(&[&a, &b], 2);
    let mut next = NextRoot::after(&store.root());
    next.remove_root_key("a").unwrap();
    next.add_root_key(c.public().clone());
    let names = vec![NamePattern::parse("com.example.*").unwrap()];
    let release = key("release");
    let terms = Delegation::new(release.public().clone(), TrustLevel::Partner, names);
    next.add(terms.clone()).unwrap();
    let text = next.to_text().unwrap();
    assert!(
        text.contains("\n  \"version\": 2,\n"),
        "people read it: {text}"
    );

    let mut file = RootFile::parse(text.as_bytes()).unwrap();
    let changes = file.changes_from(&store.root());
    assert_eq!(changes.len(), 3, "{changes:?}");
    let digest = file.digest();
    let error = file.sign(&stranger, Some(&store.root())).unwrap_err();
    assert_eq!(code(&error), "ORC-2097");
    let error = file.sign(&a, None).unwrap_err();
    assert_eq!(code(&error), "ORC-2097", "its own root does not name it");
    file.sign(&a, Some(&store.root())).unwrap();
    for (signer, have) in [(&b, 1), (&b, 1), (&c, 2)] {
        file = RootFile::parse(file.to_json().as_bytes()).unwrap();
        let refused = store.apply_root(file.to_json().as_bytes()).unwrap_err();
        assert_eq!(code(&refused), "ORC-2093");
        file.sign(signer, Some(&store.root())).unwrap();
        assert_eq!(file.signed_by(file.root_keys()).len(), have);
    }
    assert_eq!(file.claimed_signers().len(), 3, "nobody signs twice");
    assert_eq!(
        file.digest(),
        digest,
        "signing changes nothing that is signed"
    );
    let error = file.clone().into_next(&store.root()).unwrap_err();
    assert_eq!(code(&error), "ORC-2085", "what is signed is not edited");
    store.apply_root(file.to_json().as_bytes()).unwrap();
    assert_eq!(reopened(&dir).list(), [terms]);
    let error = store.edit(|next| next.remove("release")).unwrap_err();
    assert_eq!(code(&error), "ORC-2084", "this host has none of the keys");
}

#[test]
fn a_proposal_is_edited_until_somebody_signs() {
    let (a, b) = (key("a"), key("b"));
    let (_dir, store) = following(&[&a], 1);
    let mut next = NextRoot::after(&store.root());
    next.add_root_key(b.public().clone());
    let file = RootFile::parse(next.to_text().unwrap().as_bytes()).unwrap();
    let mut next = file.into_next(&store.root()).unwrap();
    next.set_root_threshold(2);
    let file = RootFile::parse(next.to_text().unwrap().as_bytes()).unwrap();
    assert_eq!((file.version(), file.root_threshold()), (2, 2));
    assert_eq!(file.root_keys().len(), 2);
    next.set_root_threshold(3);
    assert_eq!(code(&next.to_text().unwrap_err()), "ORC-2098");
    let nobody = tempfile::tempdir().unwrap();
    let nobody = TrustStore::open(&nobody.path().join("trust")).unwrap();
    let error = file.into_next(&nobody.root()).unwrap_err();
    assert_eq!(code(&error), "ORC-2085", "another version is next there");
    let empty = NextRoot::after(&nobody.root()).to_text().unwrap_err();
    assert_eq!(code(&empty), "ORC-2098", "nobody could change it");
}

#[test]
fn this_hosts_own_root_key_is_replaced_and_goes_on_signing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TrustStore::open(&dir.path().join("trust")).unwrap();
    assert!(matches!(
        store.rotate_own_key(),
        Err(TrustError::ForeignRoot)
    ));
    store.init().unwrap();
    assert_eq!(code(&store.init().unwrap_err()), "ORC-2096");
    let secret = dir.path().join("trust/root.key");
    let (old, first) = (
        fs::read(&secret).unwrap(),
        fs::read(dir.path().join("trust/root.json")),
    );
    store.rotate_own_key().unwrap();
    let mut store = reopened(&dir);
    assert_eq!(
        (store.root().version(), store.root().root_keys().len()),
        (2, 1)
    );
    let new = fs::read(&secret).unwrap();
    assert_ne!(new, old);
    let follow = tempfile::tempdir().unwrap();
    let mut follower = TrustStore::open(&follow.path().join("trust")).unwrap();
    follower.adopt(&first.unwrap()).unwrap();
    let second = fs::read(dir.path().join("trust/root.json")).unwrap();
    follower.apply_root(&second).unwrap();

    // Killed after the root and before the key got its name.
    fs::write(dir.path().join("trust/root.key.next"), &new).unwrap();
    fs::write(&secret, &old).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(dir.path().join("trust/root.key.next"), mode).unwrap();
    let names = vec![NamePattern::parse("*").unwrap()];
    let terms = Delegation::new(key("r").public().clone(), TrustLevel::Partner, names);
    store.add(terms).unwrap();
    assert_eq!(fs::read(&secret).unwrap(), new);
    assert!(!dir.path().join("trust/root.key.next").exists());
}

/// Bytes changed at random in a root that follows: no panic, and nothing but
/// that very root is accepted.
#[test]
fn no_change_of_bytes_makes_another_root() {
    let (a, b) = (key("a"), key("b"));
    let (_dir, mut store) = following(&[&a, &b], 2);
    let mut text = root_text(2, &[&a, &b], 1);
    text["allowed_digests"] = json!([Digest::of(b"one")]);
    let good = signed(&text, &[&a, &b]);
    let digest = RootFile::parse(good.as_bytes()).unwrap().digest();
    let plain = serde_json::to_vec_pretty(&text).unwrap();
    let pieces: [&[u8]; 8] = [
        b"[",
        b"{\"",
        b"\"",
        b"\0",
        b"\xff\xfe",
        b"1e999",
        b"-0",
        b"\\u0000",
    ];
    let mut random = fastrand::Rng::with_seed(0x0f0e_0d0c);
    for round in 0..4_000 {
        let base = if round % 4 == 0 {
            &plain
        } else {
            good.as_bytes()
        };
        let mut bytes = base.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..bytes.len());
            match random.u8(0..6) {
                0 => bytes[at] ^= 1 << random.u8(0..8),
                1 => bytes[at] = random.u8(..),
                2 => bytes.truncate(at.max(1)),
                3 => drop(bytes.drain(at..(at + random.usize(1..40)).min(bytes.len()))),
                4 => {
                    let piece = *random.choice(&pieces).unwrap();
                    bytes.splice(at..at, piece.iter().copied());
                }
                _ => {
                    let copied = bytes[at..(at + 30).min(bytes.len())].to_vec();
                    bytes.splice(at..at, copied);
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let read = RootFile::parse(&bytes);
        if store.apply_root(&bytes).is_ok() {
            assert_eq!(read.unwrap().digest(), digest, "round {round}");
            let (_, again) = following(&[&a, &b], 2);
            store = again;
        }
    }
    for deep in ["[".repeat(100_000), "{\"a\":".repeat(100_000)] {
        assert_eq!(
            code(&RootFile::parse(deep.as_bytes()).unwrap_err()),
            "ORC-2099"
        );
    }
    let huge = vec![b' '; 5 * 1024 * 1024];
    assert_eq!(code(&RootFile::parse(&huge).unwrap_err()), "ORC-2099");
}
