//! Packages in one file: `plugin pack`, `unpack`, `verify` and `info`.

use std::{
    fs,
    io::{BufWriter, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use crate::harness::{Home, finish};

/// A home in which the `greeter` is signed and trusted, and its archive.
fn packed() -> (Home, String) {
    let home = Home::new();
    let package = home.greeter("greeter");
    home.run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    home.run(&["plugin", "sign", &package, "--key", "release"])
        .ok();
    home.run(&["trust", "add", "release", "--level", "3", "--names", "*"])
        .ok();
    let done = home.run(&["plugin", "pack", &package, "--json"]).ok();
    assert_eq!(done.json()["path"], "greeter-0.1.0.opkg");
    let archive = home.work().join("greeter-0.1.0.opkg");
    (home, archive.display().to_string())
}

#[test]
fn an_archive_is_verified_shown_and_unpacked() {
    let (home, archive) = packed();
    let folder = home.work().join("greeter").display().to_string();
    let verify = |package: &str| {
        home.run(&["plugin", "verify", package, "--json"])
            .ok()
            .json()
    };
    assert_eq!(verify(&archive), verify(&folder));
    let info = home.run(&["plugin", "info", &archive]).ok();
    for line in [
        "name          greeter",
        "phase         greet",
        "files         4",
    ] {
        assert!(info.stdout.contains(line), "{}", info.stdout);
    }
    let info = home.run(&["plugin", "info", &archive, "--json"]).ok();
    assert_eq!(info.json()["files"], 4);
    assert_eq!(
        fs::read_dir(home.root().join("downloads")).unwrap().count(),
        0
    );

    home.run(&["plugin", "unpack", &archive, "copy"]).ok();
    assert_eq!(verify("copy"), verify(&folder));
    home.run(&["plugin", "pack", "copy", "--out", "again.opkg"])
        .ok();
    let again = fs::read(home.work().join("again.opkg")).unwrap();
    assert!(again == fs::read(&archive).unwrap());
}

/// Whoever may write to it decides what runs, so it would be refused.
#[test]
fn a_home_is_of_its_owner_alone_whatever_makes_it() {
    let (_home, archive) = packed();
    for command in ["verify", "info"] {
        let other = Home::new();
        fs::remove_dir(other.root()).unwrap();
        let looks = other.command_after("umask 002", &["plugin", command, &archive]);
        finish({ looks }.spawn().unwrap());
        let mode = other.root().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{command}");
        other.run(&["trust", "init"]).ok();
    }
}

#[test]
fn what_is_there_is_not_replaced() {
    let (home, archive) = packed();
    let refused = |args: &[&str]| {
        let done = home.run(&[args, &["--json"]].concat());
        done.with_code(1).error()["code"].clone()
    };
    let before = fs::read(&archive).unwrap();
    assert_eq!(refused(&["plugin", "pack", "greeter"]), "ORC-2189");
    assert_eq!(
        refused(&["plugin", "unpack", &archive, "greeter"]),
        "ORC-2189"
    );
    assert!(fs::read(&archive).unwrap() == before);
    assert_eq!(names(&home.work()), ["greeter", "greeter-0.1.0.opkg"]);
}

#[test]
fn damage_a_stranger_and_a_forgery_are_told_apart() {
    let (home, archive) = packed();
    let told = |home: &Home, archive: &str| {
        let done = home.run(&["plugin", "verify", archive, "--json"]);
        assert_ne!(done.code, 0);
        (done.code, done.error()["code"].as_str().unwrap().to_owned())
    };
    let bytes = fs::read(&archive).unwrap();
    let cut = home.work().join("cut.opkg").display().to_string();
    fs::write(&cut, &bytes[..bytes.len() - 100]).unwrap();
    assert_eq!(told(&home, &cut), (3, "ORC-2171".to_owned()));

    let stranger = Home::new();
    assert_eq!(told(&stranger, &archive), (6, "ORC-2041".to_owned()));

    fs::write(&cut, "not at all").unwrap();
    assert_eq!(told(&home, &cut), (3, "ORC-2172".to_owned()));
    let missing = home.run(&["plugin", "unpack", "missing.opkg", "copy"]);
    missing.with_code(4);
}

#[test]
fn nothing_is_left_where_there_is_no_room() {
    let (home, archive) = packed();
    let folder = home.work().join("greeter");
    noise(&folder.join("model.bin"), 64 << 10);
    home.run(&["plugin", "sign", "greeter", "--key", "release"])
        .ok();
    home.run(&["plugin", "pack", "greeter", "--out", "large.opkg"])
        .ok();
    // What a full disk says, to a process that outlives the signal.
    let limited = |args: &[&str]| {
        let command = home
            .command_after("trap '' XFSZ; ulimit -f 8", args)
            .spawn();
        finish(command.unwrap()).with_code(1).error()["code"].clone()
    };
    let before = names(&home.work());
    assert_eq!(
        limited(&["plugin", "unpack", "large.opkg", "copy", "--json"]),
        "ORC-2190"
    );
    assert_eq!(
        limited(&["plugin", "pack", "greeter", "--out", "b.opkg", "--json"]),
        "ORC-2190"
    );
    assert_eq!(
        limited(&["plugin", "verify", "large.opkg", "--json"]),
        "ORC-2190"
    );
    assert_eq!(names(&home.work()), before);
    assert_eq!(names(&home.root().join("downloads")), [] as [&str; 0]);
    home.run(&["plugin", "verify", &archive]).ok();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A file that can be compressed, but no more than others.
fn noise(path: &Path, size: u64) {
    let mut file = BufWriter::new(fs::File::create(path).unwrap());
    let mut block = [0; 64];
    for index in 0..size / 64 {
        let random = index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        block[..8].copy_from_slice(&random);
        file.write_all(&block).unwrap();
    }
    file.flush().unwrap();
}
