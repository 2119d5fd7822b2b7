//! What the operator allowed.

use std::{fs, os::unix::fs::PermissionsExt as _};

use jiff::{Timestamp, ToSpan as _};
use miette::Diagnostic;
use orchestrator_manifest::{Capability, PluginName};
use orchestrator_signing::{
    Delegation, Grant, GrantError, GrantStore, InstallOptions, NextRoot, Package, SecretKey,
    SignOptions, TrustLevel, Verified, cosign, install, sign, verify, verify_or_unsigned,
};

use crate::fixture::{Fixture, MANIFEST, code};

fn capabilities(texts: &[&str]) -> Vec<Capability> {
    texts
        .iter()
        .map(|text| Capability::parse_request(text).unwrap())
        .collect()
}

/// The fixture's package, asking for `requests`.
fn asking(fixture: &Fixture, requests: &str) -> Verified<Package> {
    let manifest = MANIFEST.replace("[file:read=/data, system:info]", requests);
    fixture.write("plugin.yaml", manifest.as_bytes(), 0o644);
    fixture.sign(5);
    fixture.verify().unwrap()
}

fn store(fixture: &Fixture) -> GrantStore {
    GrantStore::open(&fixture.path("grants.toml")).unwrap()
}

fn grant(fixture: &Fixture, package: &Verified<Package>, texts: &[&str]) {
    store(fixture)
        .grant(Grant::for_package(package, capabilities(texts), "olga"))
        .unwrap();
}

#[test]
fn nothing_is_granted_by_default() {
    let fixture = Fixture::signed();
    let package = asking(&fixture, "[file:read, system:info]");
    let error = store(&fixture).check(&package).unwrap_err();
    assert_eq!(code(&error), "ORC-2120");
    let (message, help) = (error.to_string(), error.help().unwrap().to_string());
    assert!(
        message.contains("capability file:read not allowed, capability system:info not allowed"),
        "{message}"
    );
    assert!(
        help.contains("orchestrator plugin grant demo file:read=SCOPE system:info"),
        "{help}"
    );
    assert!(!fixture.path("grants.toml").exists());

    let modest = asking(&fixture, "[]");
    assert_eq!(store(&fixture).check(&modest).unwrap().capabilities, []);
}

#[test]
fn a_grant_lasts_and_is_all_or_nothing() {
    let fixture = Fixture::signed();
    let package = asking(&fixture, "[file:read, system:info]");
    grant(&fixture, &package, &["file:read=/data"]);
    let error = store(&fixture).check(&package).unwrap_err();
    assert!(
        matches!(&error, GrantError::NotGranted { missing, .. } if missing.len() == 1),
        "{error}"
    );
    grant(
        &fixture,
        &package,
        &["file:read=/data", "system:info", "file:read=/more"],
    );
    let granted = store(&fixture).check(&package).unwrap();
    assert_eq!(
        granted.capabilities,
        capabilities(&["file:read=/data", "file:read=/more", "system:info"])
    );
    let stored = store(&fixture);
    let [kept] = stored.list() else {
        panic!("one grant")
    };
    assert_eq!(
        (kept.granted_by.as_str(), kept.publisher.len()),
        ("olga", 64)
    );
}

#[test]
fn a_grant_says_how_far_it_goes_and_no_further() {
    let fixture = Fixture::signed();
    let package = asking(&fixture, "[\"file:read=/data\"]");
    let open = Grant::for_package(&package, capabilities(&["file:read"]), "olga");
    assert_eq!(code(&store(&fixture).grant(open).unwrap_err()), "ORC-2123");
    grant(&fixture, &package, &["file:read=/data/in"]);
    assert!(
        store(&fixture).check(&package).is_err(),
        "less than what is asked for"
    );
    grant(&fixture, &package, &["file:read=/data-evil"]);
    assert!(store(&fixture).check(&package).is_err());
    grant(&fixture, &package, &["file:read=/"]);
    store(&fixture).check(&package).unwrap();
}

#[test]
fn a_release_that_asks_for_more_is_refused_with_the_difference() {
    let fixture = Fixture::signed();
    let first = asking(&fixture, "[file:read, system:info]");
    grant(&fixture, &first, &["file:read=/data", "system:info"]);
    store(&fixture)
        .check(&asking(&fixture, "[system:info]"))
        .unwrap();
    store(&fixture)
        .check(&asking(&fixture, "[\"file:read=/data/in\"]"))
        .unwrap();
    let greedy = asking(&fixture, "[file:read, \"network:access=evil.example:443\"]");
    let error = store(&fixture).check(&greedy).unwrap_err();
    assert_eq!(code(&error), "ORC-2121");
    let message = error.to_string();
    assert!(
        message.contains("+ network:access=evil.example:443, - system:info"),
        "{message}"
    );
    let less = store(&fixture)
        .check(&asking(&fixture, "[system:info]"))
        .unwrap();
    assert_eq!(
        less.capabilities,
        capabilities(&["system:info"]),
        "what is no longer asked for is not given"
    );
}

/// The operator answered a narrow question; a wide one is new.
#[test]
fn a_wider_request_is_a_new_one() {
    let fixture = Fixture::signed();
    let narrow = asking(&fixture, "[\"file:read=/data/in\"]");
    grant(&fixture, &narrow, &["file:read=/data"]);
    store(&fixture).check(&narrow).unwrap();
    for wider in ["[\"file:read=/data\"]", "[file:read]"] {
        let error = store(&fixture).check(&asking(&fixture, wider)).unwrap_err();
        assert_eq!(code(&error), "ORC-2121", "{wider}");
    }
}

#[test]
fn another_publisher_inherits_nothing() {
    let fixture = Fixture::signed();
    let package = asking(&fixture, "[system:info]");
    grant(&fixture, &package, &["system:info"]);
    let other = SecretKey::generate("other").unwrap();
    sign(&fixture.dir(), &other, &SignOptions::new(9)).unwrap();
    let names = vec!["demo".parse().unwrap()];
    fixture
        .store()
        .add(orchestrator_signing::Delegation::new(
            other.public().clone(),
            TrustLevel::Internal,
            names,
        ))
        .unwrap();
    let error = store(&fixture)
        .check(&fixture.verify().unwrap())
        .unwrap_err();
    assert_eq!(code(&error), "ORC-2122");
}

#[test]
fn an_interpreter_is_granted_like_any_program() {
    let fixture = Fixture::signed();
    let manifest = MANIFEST.replace("entry_point", "interpreter: /bin/sh\nentry_point");
    fixture.write("plugin.yaml", manifest.as_bytes(), 0o644);
    fixture.sign(5);
    let package = fixture.verify().unwrap();
    grant(&fixture, &package, &["file:read=/data", "system:info"]);
    let error = store(&fixture).check(&package).unwrap_err();
    assert!(
        error.to_string().contains("process:spawn=/bin/sh"),
        "{error}"
    );
    grant(
        &fixture,
        &package,
        &["file:read=/data", "system:info", "process:spawn=/bin/sh"],
    );
    store(&fixture).check(&package).unwrap();
}

#[test]
fn what_is_revoked_is_gone() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    let name = PluginName::parse("demo").unwrap();
    grant(&fixture, &package, &["file:read=/data", "system:info"]);
    store(&fixture).check(&package).unwrap();
    let [one] = capabilities(&["system:info"]).try_into().unwrap();
    store(&fixture).revoke(&name, Some(&one)).unwrap();
    assert_eq!(
        code(&store(&fixture).check(&package).unwrap_err()),
        "ORC-2120"
    );
    assert_eq!(
        code(&store(&fixture).revoke(&name, Some(&one)).unwrap_err()),
        "ORC-2124"
    );
    store(&fixture).revoke(&name, None).unwrap();
    assert_eq!(store(&fixture).list(), []);
    assert_eq!(
        code(&store(&fixture).revoke(&name, None).unwrap_err()),
        "ORC-2124"
    );
}

#[test]
fn what_an_interrupted_change_left_goes_with_the_next() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    let left = fixture.path(".staged-abcdef");
    fs::write(&left, "half a file").unwrap();
    grant(&fixture, &package, &["system:info"]);
    assert!(!left.exists());
}

#[test]
fn a_damaged_file_grants_nothing() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    grant(&fixture, &package, &["file:read=/data", "system:info"]);
    let path = fixture.path("grants.toml");
    let good = fs::read_to_string(&path).unwrap();
    assert!(good.starts_with("version = 1\n\n[[grant]]\n"), "{good}");
    for bad in [
        good.replace("version = 1", "version = 2"),
        good.replace("file:read=/data", "file:read"),
        good.replace("file:read=/data", "file:rea=/data"),
        good.replace("granted_by", "granted_for"),
        good.replace("requested = [\"file:read=/data\", ", "requested = ["),
        good[..good.len() / 2].to_owned(),
    ] {
        assert_ne!(bad, good);
        fs::write(&path, &bad).unwrap();
        let error = GrantStore::open(&path).unwrap_err();
        assert_eq!(code(&error), "ORC-2125", "{bad}");
    }
}

#[test]
fn grants_of_an_earlier_version_are_not_passed_over() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    let old = fixture.path("grants.json");
    fs::write(&old, "{}").unwrap();
    let error = GrantStore::open(&fixture.path("grants.toml")).unwrap_err();
    assert_eq!(code(&error), "ORC-2128");
    let text = old.display().to_string();
    assert!(error.to_string().contains(&text), "{error}");

    fs::rename(&old, fixture.path("grants.json.old")).unwrap();
    grant(&fixture, &package, &["file:read=/data", "system:info"]);
    fs::write(&old, "{}").unwrap();
    store(&fixture).check(&package).unwrap();
}

/// The name alone gives nothing, in either direction.
#[test]
fn signed_and_unsigned_packages_of_one_name_share_no_grant() {
    let fixture = Fixture::signed();
    let signed = fixture.verify().unwrap();
    fs::rename(fixture.file("META"), fixture.path("meta")).unwrap();
    let root = fixture.store().root();
    let unsigned = verify_or_unsigned(&fixture.dir(), &root, &[fixture.dir()]).unwrap();

    grant(&fixture, &unsigned, &["file:read=/data", "system:info"]);
    store(&fixture).check(&unsigned).unwrap();
    let error = store(&fixture).check(&signed).unwrap_err();
    assert_eq!(code(&error), "ORC-2122");
    let name = PluginName::parse("demo").unwrap();
    store(&fixture).revoke(&name, None).unwrap();
    grant(&fixture, &signed, &["file:read=/data", "system:info"]);
    store(&fixture).check(&signed).unwrap();
    let error = store(&fixture).check(&unsigned).unwrap_err();
    assert_eq!(code(&error), "ORC-2122");
    let kept: Vec<_> = store(&fixture)
        .list()
        .iter()
        .map(|grant| grant.publisher.clone())
        .collect();
    assert_eq!(kept, [signed.publisher().to_string()]);
}

/// Two people grant and revoke at once: nobody's word undoes the other's.
#[test]
fn what_is_granted_beside_what_there_is_undoes_no_revocation() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    grant(&fixture, &package, &["file:read=/data"]);
    let mut late = store(&fixture);
    let name = PluginName::parse("demo").unwrap();
    let revoked = capabilities(&["file:read=/data"]).remove(0);
    store(&fixture).revoke(&name, Some(&revoked)).unwrap();

    let given = Grant::for_package(&package, capabilities(&["system:info"]), "olga");
    late.extend(given.clone()).unwrap();
    assert_eq!(
        late.list()[0].capabilities,
        capabilities(&["system:info"]),
        "what was taken back meanwhile stays so"
    );
    late.extend(given).unwrap();
    let more = Grant::for_package(&package, capabilities(&["file:read=/data"]), "ada");
    store(&fixture).extend(more).unwrap();
    store(&fixture).check(&package).unwrap();
    assert_eq!(store(&fixture).list()[0].granted_by, "ada");
}

fn trusted(fixture: &Fixture, name: &str, threshold: u32) -> SecretKey {
    let key = SecretKey::generate(name).unwrap();
    let names = vec!["demo".parse().unwrap()];
    let mut terms = Delegation::new(key.public().clone(), TrustLevel::Partner, names);
    terms.threshold = threshold;
    fixture.store().add(terms).unwrap();
    key
}

/// The fixture's package, of another release, signed by these keys.
fn signed_by(fixture: &Fixture, serial: u64, keys: &[&SecretKey]) -> Verified<Package> {
    sign(&fixture.dir(), keys[0], &SignOptions::new(serial)).unwrap();
    for key in &keys[1..] {
        cosign(&fixture.dir(), key).unwrap();
    }
    fixture.verify().unwrap()
}

#[test]
fn whoever_of_several_keys_signs_a_release_it_keeps_its_grants() {
    let fixture = Fixture::unsigned();
    let keys = ["a", "b", "c"].map(|name| trusted(&fixture, name, 2));
    let [a, b, c] = &keys;
    let texts = ["file:read=/data", "system:info"];
    let pairs = [[a, b], [b, c], [a, c], [c, b], [b, a]];
    for granted in pairs {
        grant(&fixture, &signed_by(&fixture, 5, &granted), &texts);
        for (serial, pair) in (6..).zip(pairs) {
            let package = signed_by(&fixture, serial, &pair);
            store(&fixture).check(&package).unwrap();
        }
        let name = PluginName::parse("demo").unwrap();
        store(&fixture).revoke(&name, None).unwrap();
    }
}

#[test]
fn what_both_keys_of_a_rotation_signed_carries_the_grants_over() {
    let fixture = Fixture::unsigned();
    let old = trusted(&fixture, "old", 1);
    let texts = ["file:read=/data", "system:info"];
    grant(&fixture, &signed_by(&fixture, 5, &[&old]), &texts);
    let new = SecretKey::generate("new").unwrap();
    let rotate = |next: &mut NextRoot, until| next.rotate("old", new.public().clone(), until);
    let end = Timestamp::now() + 1.hour();
    fixture
        .store()
        .edit(|next| rotate(next, Some(end)))
        .unwrap();
    let both = signed_by(&fixture, 6, &[&old, &new]);
    let options = InstallOptions::default();
    let plugins = fixture.path("plugins");
    install(&fixture.dir(), &mut fixture.store(), &plugins, options).unwrap();
    store(&fixture).check(&both).unwrap();
    fixture.store().edit(|next| rotate(next, None)).unwrap();
    let later = fixture.store().root().at(end + 1.hour());
    let installed = verify(&plugins.join("demo/1.0.0"), &later).unwrap();
    store(&fixture).check(&installed).unwrap();

    // Granted as what both signed, it is of both.
    let alone = signed_by(&fixture, 7, &[&new]);
    assert_eq!(
        code(&store(&fixture).check(&alone).unwrap_err()),
        "ORC-2122"
    );
    let given = Grant::for_package(&both, capabilities(&texts), "olga");
    store(&fixture).extend(given).unwrap();
    store(&fixture).check(&alone).unwrap();
    assert_eq!(store(&fixture).list().len(), 1);
}

/// A weaker key that signs as well answers for nothing.
#[test]
fn only_the_keys_that_give_the_level_answer_for_a_package() {
    let fixture = Fixture::signed();
    let texts = ["file:read=/data", "system:info"];
    grant(&fixture, &fixture.verify().unwrap(), &texts);
    let strong = SecretKey::generate("strong").unwrap();
    let names = vec!["demo".parse().unwrap()];
    let terms = Delegation::new(strong.public().clone(), TrustLevel::Internal, names);
    fixture.store().add(terms).unwrap();
    let package = signed_by(&fixture, 6, &[&fixture.key, &strong]);
    assert_eq!(package.trust_level(), TrustLevel::Internal);
    assert_eq!(
        code(&store(&fixture).check(&package).unwrap_err()),
        "ORC-2122"
    );
}

/// A key has one grant for a plugin: the last that it was part of.
#[test]
fn a_new_grant_takes_its_publishers_from_an_old_one() {
    let fixture = Fixture::unsigned();
    let keys = ["a", "b", "c"].map(|name| trusted(&fixture, name, 1));
    let [a, b, c] = &keys;
    let all = ["file:read=/data", "system:info"];
    grant(&fixture, &signed_by(&fixture, 5, &[a, b]), &all);
    grant(&fixture, &signed_by(&fixture, 6, &[b, c]), &["system:info"]);
    let refusal = |keys: &[&SecretKey]| {
        let package = signed_by(&fixture, 7, keys);
        store(&fixture)
            .check(&package)
            .map_err(|error| code(&error))
            .err()
    };
    assert_eq!(refusal(&[a]), None);
    assert_eq!(refusal(&[b]).as_deref(), Some("ORC-2120"));
    assert_eq!(refusal(&[c]).as_deref(), Some("ORC-2120"));
    assert_eq!(
        refusal(&[c, a]),
        None,
        "one of those who answer for it suffices"
    );
}

#[test]
fn a_file_that_others_can_write_to_grants_nothing() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    grant(&fixture, &package, &["file:read=/data", "system:info"]);
    let path = fixture.path("grants.toml");
    for mode in [0o664, 0o646] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = GrantStore::open(&path).unwrap_err();
        assert_eq!(code(&error), "ORC-2129", "{mode:o}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    store(&fixture).check(&package).unwrap();
    fs::set_permissions(fixture.path(""), fs::Permissions::from_mode(0o775)).unwrap();
    assert_eq!(code(&GrantStore::open(&path).unwrap_err()), "ORC-2129");
}
