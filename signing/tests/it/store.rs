//! Contents by digest, versions by link: rollback, collection, old homes.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
};

use jiff::Timestamp;
use orchestrator_manifest::{PluginName, Version};
use orchestrator_signing::{
    CollectOptions, Digest, InstallOptions, Package, SignOptions, Source, TrustLevel, Verified,
    collect, install, install_from, installed, migrate, receipt, remove, roll_back, rolled_back,
    sign, stored, tree_digest, verify,
};

use crate::fixture::{Fixture, MANIFEST, code};

fn name() -> PluginName {
    PluginName::parse("demo").unwrap()
}

fn plugins(fixture: &Fixture) -> PathBuf {
    fixture.path("plugins")
}

fn put(fixture: &Fixture, version: &str, serial: u64) -> Verified<Package> {
    let manifest = MANIFEST.replace("1.0.0", version);
    fixture.write("plugin.yaml", manifest.as_bytes(), 0o644);
    sign_again(fixture, serial);
    let options = InstallOptions::default();
    install(
        &fixture.dir(),
        &mut fixture.store(),
        &plugins(fixture),
        options,
    )
    .unwrap()
}

/// The same statement for the same files, whenever it is signed.
fn sign_again(fixture: &Fixture, serial: u64) {
    let options = SignOptions {
        created: Timestamp::UNIX_EPOCH,
        ..SignOptions::new(serial)
    };
    sign(&fixture.dir(), &fixture.key, &options).unwrap();
}

/// Versions 1.0.0 (release 5), 2.0.0 (release 6) and 10.0.0 (release 7).
fn three_versions() -> Fixture {
    let fixture = Fixture::signed();
    put(&fixture, "1.0.0", 5);
    put(&fixture, "2.0.0", 6);
    put(&fixture, "10.0.0", 7);
    fixture
}

fn versions(fixture: &Fixture) -> Vec<String> {
    let listed = installed(&plugins(fixture)).unwrap();
    listed.into_iter().map(|one| one.version).collect()
}

fn contents(fixture: &Fixture) -> usize {
    let entries = fs::read_dir(plugins(fixture).join(".store")).unwrap();
    let is_folder = |entry: &fs::DirEntry| entry.file_type().unwrap().is_dir();
    entries.map(Result::unwrap).filter(is_folder).count()
}

#[test]
fn a_content_lies_under_the_digest_of_its_files() {
    let fixture = Fixture::signed();
    let package = put(&fixture, "1.0.0", 5);
    let tree = tree_digest(&package);
    let listing: String = package
        .files()
        .map(|file| {
            let mode = match file.path().as_str() {
                "bin/run" => "0755",
                _ => "0644",
            };
            format!(
                "{mode} {} {}  {}\n",
                file.size(),
                file.digest(),
                file.path()
            )
        })
        .collect();
    assert_eq!(tree, Digest::of(listing.as_bytes()));
    let link = plugins(&fixture).join("demo/1.0.0");
    let real = plugins(&fixture).join(format!(".store/sha256-{tree}"));
    assert_eq!(
        stored(&link).unwrap().canonicalize().unwrap(),
        real.canonicalize().unwrap()
    );
    let mode = real.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode, 0o555);
    let receipt = receipt(&plugins(&fixture), tree).unwrap();
    assert_eq!(receipt.source, fixture.dir().display().to_string());
    assert_eq!(Some(receipt.statement), package.statement_digest());
}

#[test]
fn no_link_but_those_of_the_store_is_followed() {
    let fixture = Fixture::signed();
    let tree = tree_digest(&put(&fixture, "1.0.0", 5));
    for (number, text) in [
        fixture.dir().display().to_string(),
        format!("../../plugins/.store/sha256-{tree}"),
        format!("../.store/sha256-{tree}/"),
        format!("../.store/sha256-{}", &tree.to_string()[1..]),
        format!("../.store/../.store/sha256-{tree}"),
    ]
    .iter()
    .enumerate()
    {
        let link = plugins(&fixture).join(format!("demo/2.0.{number}"));
        symlink(text, &link).unwrap();
        assert!(stored(&link).is_none(), "{text}");
        let refused = verify(&link, &fixture.store().root());
        assert!(refused.is_err(), "{text}");
    }
    assert_eq!(versions(&fixture), ["1.0.0"]);
}

#[test]
fn a_rollback_goes_to_the_version_below_and_installing_comes_back() {
    let fixture = three_versions();
    let (dir, trust) = (plugins(&fixture), fixture.store());
    assert_eq!(versions(&fixture), ["1.0.0", "2.0.0", "10.0.0"]);
    let done = roll_back(&dir, &name(), &trust).unwrap();
    assert_eq!((done.from.as_str(), done.to.as_str()), ("10.0.0", "2.0.0"));
    assert_eq!(versions(&fixture), ["1.0.0", "2.0.0"]);
    assert_eq!(rolled_back(&dir).unwrap()[0].version, "10.0.0");
    roll_back(&dir, &name(), &trust).unwrap();
    let last = roll_back(&dir, &name(), &trust).unwrap_err();
    assert_eq!(code(&last), "ORC-2157");
    put(&fixture, "10.0.0", 7);
    assert_eq!(versions(&fixture), ["1.0.0", "10.0.0"]);
    assert_eq!(contents(&fixture), 3);
    // What was rolled back is older than what was installed since.
    let manifest = MANIFEST.replace("1.0.0", "2.0.0");
    fixture.write("plugin.yaml", manifest.as_bytes(), 0o644);
    sign_again(&fixture, 6);
    let options = InstallOptions::default();
    let refused = install(&fixture.dir(), &mut fixture.store(), &dir, options).unwrap_err();
    assert_eq!(code(&refused), "ORC-2150");
}

#[test]
fn nobody_goes_back_to_what_is_no_longer_trusted() {
    let fixture = three_versions();
    fixture.trust(TrustLevel::Partner, "other");
    let (dir, trust) = (plugins(&fixture), fixture.store());
    let refused = roll_back(&dir, &name(), &trust).unwrap_err();
    assert_eq!(code(&refused), "ORC-2153");
    assert_eq!(versions(&fixture).len(), 3);
    let unknown = PluginName::parse("nobody").unwrap();
    let refused = roll_back(&dir, &unknown, &trust).unwrap_err();
    assert_eq!(code(&refused), "ORC-2154");
}

#[test]
fn only_what_nothing_refers_to_is_collected() {
    let fixture = three_versions();
    let dir = plugins(&fixture);
    roll_back(&dir, &name(), &fixture.store()).unwrap();
    let all = CollectOptions::default();
    assert_eq!(collect(&dir, &all).unwrap().removed, []);
    let link = dir.join("demo/1.0.0");
    let lost = stored(&link).unwrap();
    fs::remove_file(&link).unwrap();
    fs::create_dir(dir.join(".incoming-dead")).unwrap();
    let look = CollectOptions {
        dry_run: true,
        ..CollectOptions::default()
    };
    let would = collect(&dir, &look).unwrap();
    assert_eq!(would.removed[0].what, "demo 1.0.0");
    assert!(would.removed[0].bytes > 0 && lost.exists());
    let wanted = CollectOptions {
        wanted: BTreeSet::from([would.removed[0].tree]),
        ..CollectOptions::default()
    };
    assert_eq!(collect(&dir, &wanted).unwrap().removed, []);
    assert_eq!(collect(&dir, &all).unwrap().removed, would.removed);
    assert!(!lost.exists() && !lost.with_extension("json").exists());
    assert!(!dir.join(".incoming-dead").exists());
    assert_eq!((versions(&fixture).len(), contents(&fixture)), (1, 2));
}

#[test]
fn the_highest_versions_are_kept() {
    let fixture = three_versions();
    let dir = plugins(&fixture);
    let wanted = installed(&dir).unwrap()[0].tree.unwrap();
    let keep_one = CollectOptions {
        keep: Some(1),
        wanted: BTreeSet::from([wanted]),
        ..CollectOptions::default()
    };
    let collected = collect(&dir, &keep_one).unwrap();
    assert_eq!(collected.removed[0].what, "demo 2.0.0");
    assert_eq!(versions(&fixture), ["1.0.0", "10.0.0"]);
}

#[test]
fn what_is_loaded_stays() {
    let fixture = three_versions();
    let dir = plugins(&fixture);
    let loaded = verify(&dir.join("demo/1.0.0"), &fixture.store().root()).unwrap();
    let keep_one = CollectOptions {
        keep: Some(1),
        ..CollectOptions::default()
    };
    let collected = collect(&dir, &keep_one).unwrap();
    assert_eq!((collected.removed.len(), collected.in_use), (1, 1));
    assert_eq!(versions(&fixture), ["1.0.0", "10.0.0"]);
    let first = Version::new(1, 0, 0);
    remove(&dir, &name(), Some(&first)).unwrap();
    assert_eq!(contents(&fixture), 2);
    let file = loaded.file("bin/run").unwrap();
    assert!(crate::fixture::content(file).is_ok());
    drop(loaded);
    let collected = collect(&dir, &CollectOptions::default()).unwrap();
    assert_eq!((collected.removed.len(), collected.in_use), (1, 0));
    assert_eq!(contents(&fixture), 1);
}

/// A home with 1.0.0 as it was installed before contents had digests: a folder.
fn old_home() -> Fixture {
    let fixture = Fixture::signed();
    let dir = plugins(&fixture);
    put(&fixture, "1.0.0", 5);
    let link = dir.join("demo/1.0.0");
    let real = stored(&link).unwrap();
    fs::remove_file(&link).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&real, &link).unwrap();
    fs::set_permissions(&link, fs::Permissions::from_mode(0o555)).unwrap();
    fs::remove_dir_all(dir.join(".store")).unwrap();
    fixture
}

#[test]
fn an_old_home_is_brought_to_the_present_form() {
    let fixture = old_home();
    let (dir, trust) = (plugins(&fixture), fixture.store());
    put(&fixture, "2.0.0", 6);
    let link = dir.join("demo/1.0.0");
    assert!(stored(&link).is_none());
    assert_eq!(migrate(&dir, &trust).unwrap(), 1);
    assert_eq!(migrate(&dir, &trust).unwrap(), 0);
    let package = verify(&link, &trust.root()).unwrap();
    let tree = installed(&dir).unwrap()[0].tree.unwrap();
    assert_eq!(tree, tree_digest(&package));
    assert_eq!(versions(&fixture), ["1.0.0", "2.0.0"]);
    let mut left: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, [".lock", ".store", "demo"]);
}

#[test]
fn what_does_not_verify_is_not_brought_anywhere() {
    let fixture = old_home();
    let dir = plugins(&fixture);
    fixture.trust(TrustLevel::Partner, "other");
    assert_eq!(migrate(&dir, &fixture.store()).unwrap(), 0);
    assert!(dir.join("demo/1.0.0/plugin.yaml").is_file());
}

#[test]
fn an_old_home_stays_usable() {
    let fixture = old_home();
    let dir = plugins(&fixture);
    assert_eq!(versions(&fixture), ["1.0.0"]);
    put(&fixture, "1.0.0", 5);
    put(&fixture, "2.0.0", 6);
    roll_back(&dir, &name(), &fixture.store()).unwrap();
    assert_eq!(versions(&fixture), ["1.0.0"]);
    assert_eq!(collect(&dir, &CollectOptions::default()).unwrap().in_use, 0);
    remove(&dir, &name(), None).unwrap();
    assert_eq!((versions(&fixture).len(), contents(&fixture)), (0, 0));
}

/// A content that an interrupted installation left is used if it is whole, and
/// written anew if it is not.
#[test]
fn what_an_interrupted_installation_left_is_used_or_replaced() {
    let fixture = Fixture::signed();
    let dir = plugins(&fixture);
    put(&fixture, "1.0.0", 5);
    let link = dir.join("demo/1.0.0");
    let real = stored(&link).unwrap();
    for is_damaged in [false, true] {
        fs::remove_file(&link).unwrap();
        if is_damaged {
            let file = real.join("plugin.yaml");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(&file, "half").unwrap();
        }
        put(&fixture, "1.0.0", 5);
        verify(&link, &fixture.store().root()).unwrap();
    }
    assert_eq!(contents(&fixture), 1);
}

#[test]
fn a_receipt_says_where_to_ask_again() {
    let fixture = Fixture::signed();
    fixture.trust(TrustLevel::Partner, "demo");
    let source = Source {
        location: "https://example.org/demo.opkg".to_owned(),
        archive: Some(Digest::of(b"archive")),
    };
    let dir = plugins(&fixture);
    let options = InstallOptions::default();
    let package =
        install_from(&fixture.dir(), &source, &mut fixture.store(), &dir, options).unwrap();
    let tree = tree_digest(&package);
    assert_eq!(receipt(&dir, tree).unwrap().source(), source);
    let file = dir.join(format!(".store/sha256-{tree}.json"));
    fs::write(&file, "half").unwrap();
    assert!(receipt(&dir, tree).is_none());
    assert_eq!(versions(&fixture), ["1.0.0"]);
}
