//! Signatures that come to a release after it was installed, and contents that
//! are signed anew while somebody has them loaded.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

use orchestrator_manifest::PluginName;
use orchestrator_signing::{
    Delegation, Envelope, InUse, InstallError, InstallOptions, NamePattern, Package, SecretKey,
    TrustLevel, Verified, cosign, install, remove, stored, verify,
};

use crate::fixture::{Fixture, code};

fn put(fixture: &Fixture) -> Result<Verified<Package>, InstallError> {
    let (dir, plugins) = (fixture.dir(), fixture.path("plugins"));
    let options = InstallOptions::default();
    install(&dir, &mut fixture.store(), &plugins, options)
}

fn link(fixture: &Fixture) -> PathBuf {
    fixture.path("plugins/demo/1.0.0")
}

fn terms(key: &SecretKey, threshold: u32) -> Delegation {
    let names = vec![NamePattern::parse("demo").unwrap()];
    let mut terms = Delegation::new(key.public().clone(), TrustLevel::Partner, names);
    terms.threshold = threshold;
    terms
}

/// An installed release that two keys have to sign from now on, and only one has.
fn below_the_threshold() -> (Fixture, SecretKey) {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    let second = SecretKey::generate("second").unwrap();
    fixture.store().add(terms(&second, 2)).unwrap();
    fixture.store().replace(terms(&fixture.key, 2)).unwrap();
    verify(&link(&fixture), &fixture.store().root()).unwrap_err();
    (fixture, second)
}

#[test]
fn a_signature_that_was_added_reaches_an_installed_release() {
    let (fixture, second) = below_the_threshold();
    let files = stored(&link(&fixture)).unwrap().join("plugin.yaml");
    let before = files.metadata().unwrap().ino();
    cosign(&fixture.dir(), &second).unwrap();
    put(&fixture).unwrap();
    verify(&link(&fixture), &fixture.store().root()).unwrap();
    assert_eq!(files.metadata().unwrap().ino(), before, "the files stay");
    let meta = stored(&link(&fixture)).unwrap().join("META");
    assert_eq!(meta.metadata().unwrap().mode() & 0o7777, 0o555);
}

/// Who gives fewer signatures takes none away.
#[test]
fn signatures_are_added_and_never_lost() {
    let (fixture, second) = below_the_threshold();
    let one = fs::read(fixture.file("META/signatures.json")).unwrap();
    cosign(&fixture.dir(), &second).unwrap();
    put(&fixture).unwrap();
    fixture.store().replace(terms(&fixture.key, 1)).unwrap();
    fixture.store().replace(terms(&second, 1)).unwrap();
    fs::write(fixture.file("META/signatures.json"), one).unwrap();
    put(&fixture).unwrap();
    let there = fs::read(link(&fixture).join("META/signatures.json")).unwrap();
    let there = Envelope::parse(&there).unwrap();
    assert_eq!(there.claimed_keys().count(), 2);
}

/// Those of keys that nobody here trusts are not collected.
#[test]
fn signatures_of_strangers_are_not_added() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    let stranger = SecretKey::generate("stranger").unwrap();
    cosign(&fixture.dir(), &stranger).unwrap();
    put(&fixture).unwrap();
    let there = fs::read(link(&fixture).join("META/signatures.json")).unwrap();
    assert_eq!(Envelope::parse(&there).unwrap().claimed_keys().count(), 1);
}

/// The same files, signed as another release, have the same content.
#[test]
fn what_is_loaded_stays_when_its_files_are_signed_anew() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    let real = stored(&link(&fixture)).unwrap().canonicalize().unwrap();
    let before = real.metadata().unwrap().ino();
    let loaded = InUse::of(&link(&fixture)).unwrap();
    let name = PluginName::parse("demo").unwrap();
    remove(&fixture.path("plugins"), &name, None).unwrap();
    assert_eq!(real.metadata().unwrap().ino(), before, "it is in use");
    fixture.sign(6);
    let package = put(&fixture).unwrap();
    assert_eq!(package.release().unwrap().serial, 6);
    assert_eq!(real.metadata().unwrap().ino(), before, "it is in use still");
    verify(&link(&fixture), &fixture.store().root()).unwrap();
    drop(loaded);
}

/// One whose files are not what they were cannot be mended while it is loaded.
#[test]
fn what_is_loaded_and_damaged_is_refused_and_stays() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    let real = stored(&link(&fixture)).unwrap().canonicalize().unwrap();
    let loaded = InUse::of(&link(&fixture)).unwrap();
    let name = PluginName::parse("demo").unwrap();
    remove(&fixture.path("plugins"), &name, None).unwrap();
    crate::fixture::write(&real.join("assets/empty"), b"changed", 0o644);
    assert_eq!(code(&put(&fixture).unwrap_err()), "ORC-2158");
    assert!(real.join("assets/empty").exists());
    drop(loaded);
    put(&fixture).unwrap();
}
