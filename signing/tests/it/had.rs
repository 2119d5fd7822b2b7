//! What a host remembers of the releases it has had, and what that is worth.

use std::fs;

use jiff::{Timestamp, ToSpan as _};
use miette::Diagnostic as _;
use orchestrator_signing::{
    Arrivals, Delegation, Digest, GrantStore, InstallError, InstallOptions, KeyStatus, NamePattern,
    NextRoot, Package, SecretKey, SignOptions, TrustError, TrustLevel, TrustStore, Verified,
    cosign, install, remove, sign, verify,
};
use serde_json::{Value, json};

use crate::fixture::{Fixture, MANIFEST, code};

fn put(fixture: &Fixture) -> Result<Verified<Package>, InstallError> {
    let plugins = fixture.path("plugins");
    let options = InstallOptions::default();
    install(&fixture.dir(), &mut fixture.store(), &plugins, options)
}

fn set_version(fixture: &Fixture, version: &str) {
    let manifest = MANIFEST.replace("1.0.0", version);
    fixture.write("plugin.yaml", manifest.as_bytes(), 0o644);
}

fn terms(key: &SecretKey, level: TrustLevel, names: &str) -> Delegation {
    let names = vec![NamePattern::parse(names).unwrap()];
    Delegation::new(key.public().clone(), level, names)
}

fn set_status(fixture: &Fixture, key: &SecretKey, status: KeyStatus) {
    let id = key.public().id().to_string();
    let set = |next: &mut NextRoot| next.set_status(&id, status, None);
    fixture.store().edit(set).unwrap();
}

fn read(fixture: &Fixture, file: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture.path("trust").join(file)).unwrap()).unwrap()
}

fn write(fixture: &Fixture, file: &str, value: &Value) {
    fs::write(fixture.path("trust").join(file), value.to_string()).unwrap();
}

/// A thief of a retired key adds its signature to what the host has had from
/// another key: it is worth what the other key makes it, and no more.
#[test]
fn a_key_that_came_to_its_end_gains_nothing_by_signing_what_is_known() {
    for has_expired in [false, true] {
        let fixture = Fixture::signed();
        fixture.trust(TrustLevel::Untrusted, "demo");
        put(&fixture).unwrap();
        let strong = SecretKey::generate("strong").unwrap();
        let mut strong_terms = terms(&strong, TrustLevel::Internal, "demo");
        match has_expired {
            true => strong_terms.not_after = Some(Timestamp::now() - 1.hour()),
            false => strong_terms.status = KeyStatus::Retired,
        }
        fixture.store().add(strong_terms).unwrap();
        cosign(&fixture.dir(), &strong).unwrap();
        let package = fixture.verify().unwrap();
        assert_eq!(package.trust_level(), TrustLevel::Untrusted);
        assert!(package.publisher().to_string() == fixture.key.public().id().to_string());

        // Nor by being installed anew.
        remove(&fixture.path("plugins"), &"demo".parse().unwrap(), None).unwrap();
        let package = put(&fixture).unwrap();
        assert_eq!(package.trust_level(), TrustLevel::Untrusted);
        set_status(&fixture, &fixture.key, KeyStatus::Retired);
        let package = fixture.verify().unwrap();
        assert_eq!(
            package.trust_level(),
            TrustLevel::Untrusted,
            "known by its own key"
        );
    }
}

/// What was allowed by its digest says nothing for the key that signed it.
#[test]
fn an_allowed_release_is_none_that_its_key_vouched_for() {
    let fixture = Fixture::signed();
    set_status(&fixture, &fixture.key, KeyStatus::Retired);
    let digest = {
        set_status(&fixture, &fixture.key, KeyStatus::Active);
        let digest = fixture.verify().unwrap().statement_digest().unwrap();
        set_status(&fixture, &fixture.key, KeyStatus::Retired);
        digest
    };
    assert_eq!(fixture.refusal(), "ORC-2047");
    let allow = |next: &mut NextRoot| next.allow_digest(digest);
    fixture.store().edit(allow).unwrap();
    put(&fixture).unwrap();
    let had = &read(&fixture, "serials.json")["plugins"]["demo"]["releases"];
    assert_eq!(had[0]["keys"], json!([]), "{had}");
}

#[test]
fn a_minimum_takes_nothing_from_what_is_installed() {
    let fixture = Fixture::unsigned();
    fixture.sign(50);
    fixture.trust(TrustLevel::Partner, "demo");
    put(&fixture).unwrap();
    set_status(&fixture, &fixture.key, KeyStatus::Retired);
    let other = SecretKey::generate("other").unwrap();
    let mut everything = terms(&other, TrustLevel::Partner, "*");
    everything.min_serial = Some(10);
    fixture.store().add(everything).unwrap();
    let installed = fixture.path("plugins/demo/1.0.0");
    verify(&installed, &fixture.store().root()).unwrap();

    // Nor does it make a step back of what was one.
    set_version(&fixture, "1.1.0");
    sign(&fixture.dir(), &other, &SignOptions::new(11)).unwrap();
    let error = put(&fixture).unwrap_err();
    assert_eq!(code(&error), "ORC-2150");
    assert!(error.to_string().contains("release 50"), "{error}");
    sign(&fixture.dir(), &other, &SignOptions::new(51)).unwrap();
    put(&fixture).unwrap();
    verify(&installed, &fixture.store().root()).unwrap();
}

/// A stolen key is revoked, and only then does a minimum undo its numbers; one
/// release that is revoked counts as little.
#[test]
fn a_minimum_undoes_the_numbers_that_only_a_thief_vouches_for() {
    for whole_key in [true, false] {
        let fixture = Fixture::signed();
        put(&fixture).unwrap();
        set_version(&fixture, "1.1.0");
        fixture.sign(u64::MAX);
        let stolen = put(&fixture).unwrap().statement_digest().unwrap();
        let fresh = SecretKey::generate("fresh").unwrap();
        let mut recovery = terms(&fresh, TrustLevel::Partner, "demo");
        recovery.min_serial = Some(6);
        fixture.store().add(recovery).unwrap();
        set_version(&fixture, "1.2.0");
        sign(&fixture.dir(), &fresh, &SignOptions::new(7)).unwrap();
        assert_eq!(
            code(&put(&fixture).unwrap_err()),
            "ORC-2150",
            "still counted"
        );
        match whole_key {
            true => set_status(&fixture, &fixture.key, KeyStatus::Revoked),
            false => {
                let revoke = |next: &mut NextRoot| next.revoke_digest(stolen, "by a thief");
                fixture.store().edit(revoke).unwrap();
            }
        }
        put(&fixture).unwrap();
        // The key counts again; its numbers do not.
        set_status(&fixture, &fixture.key, KeyStatus::Active);
        set_version(&fixture, "1.3.0");
        sign(&fixture.dir(), &fresh, &SignOptions::new(8)).unwrap();
        put(&fixture).unwrap();
    }
}

/// Found in any folder, a release is had from the moment it is loaded.
#[test]
fn what_was_loaded_is_known_and_what_is_older_and_new_is_a_step_back() {
    let fixture = Fixture::unsigned();
    fixture.sign(7);
    fixture.trust(TrustLevel::Partner, "demo");
    let mut store = fixture.store();
    let newest = fixture.verify().unwrap();
    newest
        .check_may_come(&store.root(), &mut Arrivals::default())
        .unwrap();
    store.record([&newest]).unwrap();
    let written = fs::metadata(fixture.path("trust/serials.json")).unwrap();
    fixture.store().record([&newest]).unwrap();
    let again = fs::metadata(fixture.path("trust/serials.json")).unwrap();
    assert_eq!(written.modified().unwrap(), again.modified().unwrap());

    set_version(&fixture, "0.9.0");
    fixture.sign(6);
    let older = fixture.verify().unwrap();
    let error = older
        .check_may_come(&fixture.store().root(), &mut Arrivals::default())
        .unwrap_err();
    assert_eq!(code(&error), "ORC-2101");
    assert!(error.to_string().contains("release 7"), "{error}");
    assert_eq!(code(&put(&fixture).unwrap_err()), "ORC-2150");
    let options = InstallOptions {
        allow_downgrade: true,
        ..InstallOptions::default()
    };
    let plugins = fixture.path("plugins");
    install(&fixture.dir(), &mut fixture.store(), &plugins, options).unwrap();
    older
        .check_may_come(&fixture.store().root(), &mut Arrivals::default())
        .unwrap();

    set_status(&fixture, &fixture.key, KeyStatus::Retired);
    fixture.verify().unwrap();
    newest.judged_by(&fixture.store().root()).unwrap();
}

/// Fills what is remembered with newer releases, so that one more would drop what is
/// there now.
fn fill(fixture: &Fixture) {
    let mut all = read(fixture, "serials.json");
    let seen = &mut all["plugins"]["demo"];
    let releases = seen["releases"].as_array_mut().unwrap();
    let newer = 1_000..2_024 - releases.len() as u64;
    for serial in newer {
        let sha256 = Digest::of(&serial.to_be_bytes());
        releases.push(json!({ "sha256": sha256, "serial": serial, "keys": [] }));
    }
    assert_eq!(releases.len(), 1_024);
    seen["highest"] = json!(2_022);
    write(fixture, "serials.json", &all);
}

/// An installed version loads at every start, which writes nothing.
#[test]
fn what_is_installed_is_remembered_however_many_releases_follow() {
    let fixture = Fixture::unsigned();
    fixture.sign(7);
    fixture.trust(TrustLevel::Partner, "demo");
    put(&fixture).unwrap();
    fill(&fixture);
    set_version(&fixture, "1.1.0");
    fixture.sign(3_000);
    put(&fixture).unwrap();
    set_status(&fixture, &fixture.key, KeyStatus::Retired);
    let root = fixture.store().root();
    let older = verify(&fixture.path("plugins/demo/1.0.0"), &root).unwrap();
    older
        .check_may_come(&root, &mut Arrivals::default())
        .unwrap();
}

/// Nor one that is in another folder than that of the installed.
#[test]
fn what_is_loaded_is_remembered_however_many_releases_follow() {
    let fixture = Fixture::unsigned();
    fixture.sign(7);
    fixture.trust(TrustLevel::Partner, "demo");
    let older = fixture.verify().unwrap();
    fixture.store().record([&older]).unwrap();
    fill(&fixture);
    fixture.store().record([&older]).unwrap();
    set_version(&fixture, "1.1.0");
    fixture.sign(3_000);
    let newer = fixture.verify().unwrap();
    fixture.store().record([&newer]).unwrap();
    older
        .check_may_come(&fixture.store().root(), &mut Arrivals::default())
        .unwrap();
    let all = read(&fixture, "serials.json");
    let releases = all["plugins"]["demo"]["releases"].as_array().unwrap();
    assert_eq!(releases.len(), 1_024);
}

/// Written by an earlier release of this program.
#[test]
fn an_old_file_is_read_and_brought_up_to_date() {
    let fixture = Fixture::signed();
    let digest = put(&fixture).unwrap().statement_digest().unwrap();
    let seen = json!({ "highest": 5, "min_serial": 0, "releases": [digest] });
    write(
        &fixture,
        "serials.json",
        &json!({ "plugins": { "demo": seen } }),
    );
    let anchor = read(&fixture, "anchor.json");
    set_status(&fixture, &fixture.key, KeyStatus::Retired);
    let package = fixture.verify().unwrap();
    fixture.store().record([&package]).unwrap();
    let key = fixture.key.public().id();
    let expected = json!([{ "sha256": digest, "serial": 5, "keys": [key] }]);
    let now = read(&fixture, "serials.json");
    assert_eq!(now["plugins"]["demo"]["releases"], expected);
    assert_eq!(
        (&now["version"], &anchor["has_serials"]),
        (&json!(2), &json!(true))
    );

    write(
        &fixture,
        "serials.json",
        &json!({ "version": 3, "plugins": {} }),
    );
    let error = TrustStore::open(&fixture.path("trust")).unwrap_err();
    assert!(
        error.to_string().contains("serials.json: version 3"),
        "{error}"
    );
}

/// Without it nothing would be a step back.
#[test]
fn numbers_that_are_gone_are_missed() {
    let fixture = Fixture::signed();
    assert!(
        fixture.store().root().version() == 1,
        "a host that had nothing has none"
    );
    put(&fixture).unwrap();
    fs::remove_file(fixture.path("trust/serials.json")).unwrap();
    let error = TrustStore::open(&fixture.path("trust")).unwrap_err();
    assert_eq!(code(&error), "ORC-2081");
    assert!(
        error.to_string().contains("serials.json is gone"),
        "{error}"
    );
    // The way out that it names.
    write(&fixture, "serials.json", &json!({ "plugins": {} }));
    fixture.trust(TrustLevel::Partner, "demo");
    fs::remove_file(fixture.path("trust/serials.json")).unwrap();
    let error = TrustStore::open(&fixture.path("trust")).unwrap_err();
    assert_eq!(code(&error), "ORC-2081", "a new root forgets nothing");
}

#[test]
fn a_clock_that_went_back_does_not_take_the_time_of_the_root_with_it() {
    let fixture = Fixture::signed();
    let mut anchor = read(&fixture, "anchor.json");
    // As if the clock had been there, and were back.
    let before = Timestamp::now() + (10 * 24).hours();
    anchor["stored_at"] = json!(before);
    write(&fixture, "anchor.json", &anchor);
    let mut ended = terms(&fixture.key, TrustLevel::Partner, "demo");
    ended.not_after = Some(before - 1.hour());
    fixture.store().replace(ended).unwrap();
    assert_eq!(read(&fixture, "anchor.json")["stored_at"], json!(before));
    assert_eq!(fixture.refusal(), "ORC-2047", "the key is no younger");
}

/// The refusal names the key that it is true of.
#[test]
fn a_refusal_names_the_key_that_is_refused() {
    let fixture = Fixture::signed();
    let ops = SecretKey::generate("ops").unwrap();
    sign(&fixture.dir(), &ops, &SignOptions::new(5)).unwrap();
    cosign(&fixture.dir(), &fixture.key).unwrap();
    fixture
        .store()
        .add(terms(&ops, TrustLevel::Internal, "other"))
        .unwrap();
    let id = fixture.key.public().id().to_string();
    let revoke = |next: &mut NextRoot| next.set_status(&id, KeyStatus::Revoked, Some("stolen"));
    fixture.store().edit(revoke).unwrap();
    let retired = SecretKey::generate("retired").unwrap();
    let mut gone = terms(&retired, TrustLevel::Internal, "demo");
    gone.status = KeyStatus::Retired;
    fixture.store().add(gone).unwrap();
    cosign(&fixture.dir(), &retired).unwrap();
    let error = fixture.verify().unwrap_err();
    assert_eq!(code(&error), "ORC-2046");
    let expected = "the key `release` that signed plugin `demo` is revoked: stolen";
    assert_eq!(error.to_string(), expected);
    fixture.store().edit(|next| next.remove(&id)).unwrap();
    let error = fixture.verify().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the key `retired` that signed plugin `demo` no longer signs new releases"
    );
}

/// What others can write to is not gone by, however it came there.
#[test]
fn a_home_that_others_can_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::signed();
    let home = fixture.path("");
    for (mode, expected) in [
        (0o775, true),
        (0o757, true),
        (0o755, false),
        (0o1777, false),
    ] {
        fs::set_permissions(&home, fs::Permissions::from_mode(mode)).unwrap();
        let opened = TrustStore::open(&fixture.path("trust"));
        let is_exposed = matches!(&opened, Err(TrustError::Exposed { .. }));
        assert_eq!(is_exposed, expected, "{mode:o}");
    }
}

/// Whoever owns a folder exchanges what lies in it, sticky or not.
#[test]
fn somebody_elses_home_is_refused() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let fixture = Fixture::signed();
    if !rustix::process::geteuid().is_root() {
        // Nobody else can give a folder away.
        return;
    }
    let home = fixture.path("");
    chown(&home, Some(65_534), None).unwrap();
    for mode in [0o755, 0o1755, 0o1777] {
        fs::set_permissions(&home, fs::Permissions::from_mode(mode)).unwrap();
        let trust = TrustStore::open(&fixture.path("trust"));
        assert!(
            matches!(&trust, Err(TrustError::Exposed { .. })),
            "{mode:o}"
        );
        let grants = GrantStore::open(&fixture.path("grants.toml"));
        assert_eq!(code(&grants.unwrap_err()), "ORC-2129", "{mode:o}");
    }
}

/// A host that began to load before a key was retired or revoked has not had its
/// releases while the key counted, once it writes them down.
#[test]
fn what_was_verified_by_an_older_root_is_judged_anew() {
    for status in [KeyStatus::Retired, KeyStatus::Revoked] {
        let fixture = Fixture::signed();
        fixture.trust(TrustLevel::Internal, "demo");
        let mut loading = fixture.store();
        let package = verify(&fixture.dir(), &loading.root()).unwrap();
        set_status(&fixture, &fixture.key, status);
        loading.record([&package]).unwrap();
        let had = &read(&fixture, "serials.json")["plugins"];
        assert_eq!(*had, json!({}), "{status:?}");
        let refused = match status {
            KeyStatus::Retired => "ORC-2047",
            _ => "ORC-2046",
        };
        assert_eq!(fixture.refusal(), refused);
    }
}

/// Who may not know what was revoked takes nothing new, wherever it lies.
#[test]
fn an_expired_root_approves_nothing_that_this_host_never_had() {
    let fixture = Fixture::signed();
    let had = fixture.verify().unwrap();
    fixture.store().record([&had]).unwrap();
    set_version(&fixture, "1.1.0");
    fixture.sign(6);
    let new = fixture.verify().unwrap();
    new.check_may_come(&fixture.store().root(), &mut Arrivals::default())
        .unwrap();
    let expire = |next: &mut NextRoot| {
        next.set_expires(Some(Timestamp::now() - 1.hour()));
        Ok(())
    };
    fixture.store().edit(expire).unwrap();
    let root = fixture.store().root();
    had.check_may_come(&root, &mut Arrivals::default()).unwrap();
    let refused = new
        .check_may_come(&root, &mut Arrivals::default())
        .unwrap_err();
    assert_eq!(code(&refused), "ORC-2094");
    let installed = put(&fixture).unwrap_err();
    assert_eq!(code(&installed), "ORC-2094");
    assert_eq!(
        refused.help().map(|help| help.to_string()),
        installed.help().map(|help| help.to_string())
    );
}

/// What runs from a folder that is only read goes on when the root has expired.
#[test]
fn a_host_that_cannot_remember_goes_on_with_an_expired_root() {
    let fixture = Fixture::signed();
    let package = fixture.verify().unwrap();
    let expire = |next: &mut NextRoot| {
        next.set_expires(Some(Timestamp::now() - 1.hour()));
        Ok(())
    };
    fixture.store().edit(expire).unwrap();
    let root = fixture.store().root();
    package
        .check_may_come(&root, &mut Arrivals::default())
        .unwrap();
}

#[test]
fn a_second_release_with_the_same_number_does_not_come() {
    let fixture = Fixture::signed();
    let first = fixture.verify().unwrap();
    set_version(&fixture, "1.1.0");
    fixture.sign(5);
    let second = fixture.verify().unwrap();
    let (root, mut both) = (fixture.store().root(), Arrivals::default());
    for again in [first.clone(), first.clone()] {
        again.check_may_come(&root, &mut both).unwrap();
    }
    let refused = second.check_may_come(&root, &mut both).unwrap_err();
    assert_eq!(code(&refused), "ORC-2159", "found together");
    fixture.store().record([&first]).unwrap();
    let root = fixture.store().root();
    first
        .check_may_come(&root, &mut Arrivals::default())
        .unwrap();
    let refused = second
        .check_may_come(&root, &mut Arrivals::default())
        .unwrap_err();
    assert_eq!(code(&refused), "ORC-2159");
    assert_eq!(code(&put(&fixture).unwrap_err()), "ORC-2159");
}
