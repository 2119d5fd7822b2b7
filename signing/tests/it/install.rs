//! Packages in the store.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use orchestrator_manifest::{PluginName, Version};
use orchestrator_signing::{
    InstallError, InstallOptions, Package, Verified, install, installed, remove, verify,
};

use crate::fixture::{Fixture, MANIFEST, code};

fn put(fixture: &Fixture) -> Result<Verified<Package>, InstallError> {
    put_with(fixture, InstallOptions::default())
}

fn put_with(
    fixture: &Fixture,
    options: InstallOptions<'_>,
) -> Result<Verified<Package>, InstallError> {
    install(
        &fixture.dir(),
        &mut fixture.store(),
        &fixture.path("plugins"),
        options,
    )
}

fn set_version(fixture: &Fixture, version: &str) {
    fixture.write(
        "plugin.yaml",
        MANIFEST.replace("1.0.0", version).as_bytes(),
        0o644,
    );
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o7777
}

fn name() -> PluginName {
    PluginName::parse("demo").unwrap()
}

#[test]
fn an_installed_package_is_read_only_and_verifies() {
    let fixture = Fixture::signed();
    let package = put(&fixture).unwrap();
    let target = fixture.path("plugins/demo/1.0.0");
    let again = verify(&target, &fixture.store().root()).unwrap();
    assert_eq!(again.statement_digest(), package.statement_digest());
    assert_eq!(
        (
            mode(&target.join("bin/run")),
            mode(&target.join("plugin.yaml"))
        ),
        (0o555, 0o444)
    );
    assert_eq!((mode(&target), mode(&target.join("bin"))), (0o555, 0o555));
    let listed = installed(&fixture.path("plugins")).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].name.as_str(), listed[0].version.as_str()),
        ("demo", "1.0.0")
    );
}

#[test]
fn installing_twice_does_nothing_twice() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    let before = fixture
        .path("plugins/demo/1.0.0")
        .metadata()
        .unwrap()
        .modified()
        .unwrap();
    put(&fixture).unwrap();
    assert_eq!(
        fixture
            .path("plugins/demo/1.0.0")
            .metadata()
            .unwrap()
            .modified()
            .unwrap(),
        before
    );
}

#[test]
fn a_version_never_changes() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    fixture.write("assets/empty", b"changed", 0o644);
    fixture.sign(6);
    assert_eq!(code(&put(&fixture).unwrap_err()), "ORC-2152");
    let installed = fixture.path("plugins/demo/1.0.0/assets/empty");
    assert_eq!(fs::read(&installed).unwrap(), b"");
    fs::set_permissions(&installed, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&installed, "tampered").unwrap();
    assert_eq!(code(&put(&fixture).unwrap_err()), "ORC-2153");
}

#[test]
fn versions_live_side_by_side_and_serials_only_rise() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    set_version(&fixture, "2.0.0");
    fixture.sign(7);
    put(&fixture).unwrap();
    assert_eq!(installed(&fixture.path("plugins")).unwrap().len(), 2);
    verify(&fixture.path("plugins/demo/1.0.0"), &fixture.store().root()).unwrap();

    set_version(&fixture, "1.5.0");
    fixture.sign(6);
    let error = put(&fixture).unwrap_err();
    assert_eq!(code(&error), "ORC-2150");
    remove(&fixture.path("plugins"), &name(), None).unwrap();
    assert_eq!(
        code(&put(&fixture).unwrap_err()),
        "ORC-2150",
        "removing does not forget"
    );
    put_with(
        &fixture,
        InstallOptions {
            allow_downgrade: true,
            ..InstallOptions::default()
        },
    )
    .unwrap();
    set_version(&fixture, "1.6.0");
    assert_eq!(
        code(&{
            fixture.sign(6);
            put(&fixture).unwrap_err()
        }),
        "ORC-2150",
        "once is not for ever"
    );
}

#[test]
fn removing_one_version_or_all() {
    let fixture = Fixture::signed();
    let plugins = fixture.path("plugins");
    put(&fixture).unwrap();
    set_version(&fixture, "2.0.0");
    fixture.sign(7);
    put(&fixture).unwrap();
    remove(&plugins, &name(), Some(&Version::new(1, 0, 0))).unwrap();
    assert!(plugins.join("demo/2.0.0").exists() && !plugins.join("demo/1.0.0").exists());
    let error = remove(&plugins, &name(), Some(&Version::new(1, 0, 0))).unwrap_err();
    assert_eq!(code(&error), "ORC-2154");
    remove(&plugins, &name(), Some(&Version::new(2, 0, 0))).unwrap();
    assert!(!plugins.join("demo").exists());
    let mut left: Vec<_> = fs::read_dir(&plugins)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, [".lock", ".store"]);
    assert_eq!(fs::read_dir(plugins.join(".store")).unwrap().count(), 0);
}

#[test]
fn what_does_not_verify_is_not_installed() {
    let fixture = Fixture::signed();
    fixture.write("bin/run", b"#!/bin/sh\necho HELLO\n", 0o755);
    assert_eq!(code(&put(&fixture).unwrap_err()), "ORC-2055");
    assert_eq!(installed(&fixture.path("plugins")).unwrap().len(), 0);
    fixture.sign(1);
    put(&fixture).unwrap();
}

/// What `kill -9` leaves at any moment before the rename: a folder with a dot.
#[test]
fn interrupted_work_is_ignored_and_cleared() {
    let fixture = Fixture::signed();
    for leftover in [
        ".incoming-abc/package/bin/run",
        ".outgoing-xyz/package/plugin.yaml",
    ] {
        let path = fixture.path("plugins").join(leftover);
        crate::fixture::write(&path, b"half", 0o444);
        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o555)).unwrap();
    }
    assert_eq!(installed(&fixture.path("plugins")).unwrap().len(), 0);
    put(&fixture).unwrap();
    let mut left: Vec<_> = fs::read_dir(fixture.path("plugins"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, [".lock", ".store", "demo"]);
}

#[test]
fn whoever_waits_too_long_for_another_installation_is_told() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    let lock = fs::File::open(fixture.path("plugins/.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let options = InstallOptions {
        patience: std::time::Duration::ZERO,
        ..InstallOptions::default()
    };
    assert_eq!(code(&put_with(&fixture, options).unwrap_err()), "ORC-2155");
}

/// Many at once, each with its own version: they take their turn, whichever it is, and
/// none is lost.
#[test]
fn installations_take_their_turn() {
    let fixture = Fixture::signed();
    let packages: Vec<_> = (1..=8_u64)
        .map(|number| {
            set_version(&fixture, &format!("1.0.{number}"));
            fixture.sign(5 + number);
            let copy = fixture.path(&format!("copy-{number}"));
            copy_folder(&fixture.dir(), &copy);
            copy
        })
        .collect();
    let fixture = &fixture;
    std::thread::scope(|scope| {
        for package in &packages {
            scope.spawn(move || {
                let plugins = fixture.path("plugins");
                let options = InstallOptions {
                    allow_downgrade: true,
                    ..InstallOptions::default()
                };
                install(package, &mut fixture.store(), &plugins, options).unwrap();
            });
        }
    });
    let listed = installed(&fixture.path("plugins")).unwrap();
    assert_eq!(listed.len(), packages.len());
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            let bytes = fs::read(entry.path()).unwrap();
            crate::fixture::write(&target, &bytes, mode(&entry.path()));
        }
    }
}

/// Numbers tell releases apart, so each has one of its own.
#[test]
fn two_releases_do_not_have_the_same_number() {
    let fixture = Fixture::signed();
    put(&fixture).unwrap();
    set_version(&fixture, "2.0.0");
    fixture.sign(5);
    assert_eq!(code(&put(&fixture).unwrap_err()), "ORC-2159");
    assert_eq!(installed(&fixture.path("plugins")).unwrap().len(), 1);
    let options = InstallOptions {
        allow_downgrade: true,
        ..InstallOptions::default()
    };
    put_with(&fixture, options).unwrap();
    remove(&fixture.path("plugins"), &name(), None).unwrap();
    put(&fixture).expect("this very release was there before");
}
