//! Packages from folders, archives and web servers.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use orchestrator_signing::{Digest, archive::pack};
use orchestrator_testkit::lay_out_installed;
use rustix::process::Signal;
use serde_json::json;

use crate::{
    file_server::{Answer, FileServer},
    harness::{Done, Home, eventually, finish, read, signal},
    serve::Service,
};

/// A home that trusts `release`, with a signed `greeter` that is not installed.
pub(crate) fn home_with_package() -> (Home, String) {
    let home = Home::new();
    let package = home.greeter("greeter");
    home.run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    home.run(&["trust", "add", "release", "--level", "3", "--names", "*"])
        .ok();
    sign(&home, &package, "1");
    (home, package)
}

pub(crate) fn sign(home: &Home, package: &str, serial: &str) {
    let args = [
        "plugin", "sign", package, "--key", "release", "--serial", serial,
    ];
    home.run(&args).ok();
}

/// The next release of the package.
pub(crate) fn release(home: &Home, package: &str, version: &str, serial: &str) {
    let manifest = Path::new(package).join("plugin.yaml");
    let text = read(&manifest);
    let text: Vec<_> = text
        .lines()
        .map(|line| match line.starts_with("version:") {
            true => format!("version: {version}"),
            false => line.to_owned(),
        })
        .collect();
    fs::write(&manifest, text.join("\n") + "\n").unwrap();
    sign(home, package, serial);
}

pub(crate) fn archive(package: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    pack(Path::new(package), &mut bytes).unwrap();
    bytes
}

fn install(home: &Home, source: &str) -> Done {
    home.run(&["plugin", "install", source, "--json"])
}

/// Nothing is left of a download.
fn is_clean(home: &Home) -> bool {
    let left = fs::read_dir(home.root().join("downloads")).unwrap();
    let names = left.map(|entry| entry.unwrap().file_name());
    names.count() == 0
}

#[test]
fn an_archive_is_installed_like_the_folder_it_was_made_of() {
    let (home, package) = home_with_package();
    let file = home.work().join("greeter.opkg");
    fs::write(&file, archive(&package)).unwrap();
    let path = file.display().to_string();
    let done = install(&home, &path).ok();
    assert_eq!(done.json()["version"], "0.1.0");
    let listed = home.run(&["plugin", "list", "--installed", "--json"]).ok();
    assert_eq!(listed.json()[0]["source"], path);
    assert!(is_clean(&home));
    let refused = install(&home, "nowhere").with_code(4);
    assert_eq!(refused.error()["code"], "ORC-5020");
    let folder = [
        "plugin",
        "install",
        &package,
        "--sha256",
        &"0".repeat(64),
        "--json",
    ];
    assert_eq!(home.run(&folder).with_code(2).error()["code"], "ORC-5021");
}

#[test]
fn what_was_fetched_once_is_not_asked_for_again() {
    let (home, package) = home_with_package();
    let server = FileServer::start();
    let bytes = archive(&package);
    let digest = Digest::of(&bytes).to_string();
    let url = server.put("/greeter.opkg", Answer::File(bytes));
    install(&home, &url).ok();
    assert_eq!(server.asked().len(), 1);
    install(&home, &url).ok();
    home.run(&["plugin", "install", &url, "--sha256", &digest])
        .ok();
    home.run(&["plugin", "lock"]).ok();
    home.run(&["plugin", "install", &url, "--locked"]).ok();
    home.run(&["plugin", "install", "--locked"]).ok();
    assert_eq!(server.asked(), []);
    home.run(&["plugin", "remove", "greeter"]).ok();
    home.run(&["plugin", "install", "--locked"]).ok();
    assert_eq!(server.asked().len(), 1);
    assert!(is_clean(&home));
}

/// What a URL asks with may be a password: it is sent, and neither written down nor
/// said.
#[test]
fn what_a_url_asks_with_is_nowhere_afterwards() {
    let (home, package) = home_with_package();
    let server = FileServer::start();
    let bytes = archive(&package);
    let secret = "hunter2";
    let path = format!("/greeter.opkg?token={secret}");
    let url = server.put(&path, Answer::File(bytes.clone()));
    let from = server.put(
        &format!("/from?key={secret}"),
        Answer::Redirect(url.clone()),
    );
    let gone = server.put(&format!("/gone?key={secret}"), Answer::Status(403));
    let long = server.put(&format!("/long?key={secret}"), Answer::Long(1 << 40));
    let bad = format!("http://me:{secret}@127.0.0.1/?key={secret}");
    let ways = [&url, &from, &gone, &long, &bad];
    let said: String = ways
        .into_iter()
        .map(|url| {
            let done = home.run(&["plugin", "install", url]);
            done.stdout + &done.stderr
        })
        .collect();
    home.run(&["plugin", "lock"]).ok();
    let listed = home.run(&["plugin", "list", "--installed", "--json"]).ok();
    let location = url.split('?').next().unwrap();
    assert_eq!(listed.json()[0]["source"], location);
    assert!(!said.contains(secret), "{said}");
    assert!(said.contains("written down"), "{said}");
    assert!(!has(&home.root(), secret));
    // Another question is another package, though the rest of the URL is the same.
    server.asked();
    let other = server.put("/greeter.opkg?token=other", Answer::File(bytes));
    install(&home, &other).ok();
    assert_eq!(server.asked().len(), 1);
}

/// Whether a file, or one below a folder, has the text in it or in its name.
fn has(path: &Path, text: &str) -> bool {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap();
        return entries.map(Result::unwrap).any(|it| has(&it.path(), text));
    }
    let bytes = fs::read(path).unwrap_or_default();
    path.display().to_string().contains(text) || String::from_utf8_lossy(&bytes).contains(text)
}

/// Damage, a forged signature, an unknown key and a rule are never mixed up.
#[test]
fn four_kinds_of_refusal() {
    let (home, package) = home_with_package();
    let server = FileServer::start();
    let good = archive(&package);

    let mut damaged = good.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let url = server.put("/damaged", Answer::File(damaged));
    let done = install(&home, &url).with_code(3);
    assert_eq!(done.error()["code"], "ORC-2171");

    let url = server.put("/other", Answer::File(good.clone()));
    let asked_for = "0".repeat(64);
    let args = ["plugin", "install", &url, "--sha256", &asked_for, "--json"];
    let done = home.run(&args).with_code(6);
    assert_eq!(done.error()["code"], "ORC-5027");

    let stranger = Home::new();
    let theirs = stranger.greeter("greeter");
    stranger
        .run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    sign(&stranger, &theirs, "1");
    let url = server.put("/stranger", Answer::File(archive(&theirs)));
    let done = install(&home, &url).with_code(6);
    assert_eq!(done.error()["code"], "ORC-2041");

    let url = server.put("/forged", Answer::File(forged(&home, &package)));
    let done = install(&home, &url).with_code(6);
    assert_eq!(done.error()["code"], "ORC-2042");

    sign(&home, &package, "9");
    let newer = server.put("/newer", Answer::File(archive(&package)));
    install(&home, &newer).ok();
    home.run(&["plugin", "remove", "greeter"]).ok();
    let older = server.put("/older", Answer::File(good));
    let done = install(&home, &older).with_code(6);
    assert_eq!(done.error()["code"], "ORC-2150");
    home.run(&["plugin", "install", &older, "--allow-downgrade"])
        .ok();
    assert!(is_clean(&home));
}

/// The package with another signature under the name of the trusted key.
fn forged(home: &Home, package: &str) -> Vec<u8> {
    let path = Path::new(package).join("META/signatures.json");
    let kept = read(&path);
    let mut envelope: serde_json::Value = serde_json::from_str(&kept).unwrap();
    let theirs = Home::new();
    let copy = theirs.greeter("greeter");
    theirs
        .run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    sign(&theirs, &copy, "1");
    let other = read(Path::new(&copy).join("META/signatures.json"));
    let other: serde_json::Value = serde_json::from_str(&other).unwrap();
    envelope["signatures"][0]["sig"] = other["signatures"][0]["sig"].clone();
    fs::write(&path, envelope.to_string()).unwrap();
    let bytes = archive(package);
    fs::write(&path, kept).unwrap();
    assert!(home.root().exists());
    bytes
}

#[test]
fn a_download_that_breaks_off_is_continued() {
    let (home, package) = home_with_package();
    let server = FileServer::start();
    let bytes = archive(&package);
    let half = bytes.len() / 2;
    let url = server.put("/greeter", Answer::CutOnce(bytes, half));
    install(&home, &url).ok();
    let ranges: Vec<_> = server.asked().into_iter().map(|(_, range)| range).collect();
    assert_eq!(ranges, [None, Some(format!("bytes={half}-"))]);
    assert!(is_clean(&home));
}

/// Killed while the server says nothing, the command leaves what has arrived;
/// another file at the same place does not fit it, and is fetched anew.
#[test]
fn a_killed_download_is_continued_or_started_over() {
    let (home, package) = home_with_package();
    let server = FileServer::start();
    let bytes = archive(&package);
    let url = server.put("/greeter", Answer::Long(bytes.len() as u64));
    let child = home.command(&["plugin", "install", &url]).spawn().unwrap();
    let part = home
        .root()
        .join("downloads")
        .join(format!("{}.part", Digest::of(url.as_bytes())));
    eventually("a begun download", || part.exists());
    signal(child.id(), Signal::KILL);
    finish(child);
    for (begun, requests) in [(&bytes[..10], 1), (b"something else", 2), (&bytes[..], 2)] {
        fs::write(&part, begun).unwrap();
        server.put("/greeter", Answer::File(bytes.clone()));
        server.asked();
        install(&home, &url).ok();
        let asked = server.asked();
        assert_eq!(asked.len(), requests, "{asked:?}");
        assert!(is_clean(&home));
        home.run(&["plugin", "remove", "greeter"]).ok();
    }
}

#[test]
fn ways_that_are_not_gone() {
    let (home, package) = home_with_package();
    let server = FileServer::start();
    let file = server.put("/file", Answer::File(archive(&package)));
    let once = server.put("/once", Answer::Redirect("/file".to_owned()));
    install(&home, &once).ok();
    assert_eq!(server.asked().len(), 2);
    let mut refusals = Vec::new();
    for (path, answer) in [
        ("/round", Answer::Redirect("/round".to_owned())),
        ("/disk", Answer::Redirect("file:///etc/passwd".to_owned())),
        ("/gone", Answer::Status(410)),
        ("/broken", Answer::Status(500)),
        ("/long", Answer::Long(1 << 40)),
    ] {
        let url = server.put(path, answer);
        let done = install(&home, &url);
        refusals.push(done.error()["code"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        refusals,
        ["ORC-5023", "ORC-5023", "ORC-5024", "ORC-5024", "ORC-5026"]
    );
    assert_eq!(server.asked().len(), 6 + 1 + 1 + 1 + 1);
    let secret = file.replace("http://", "http://me:hush@");
    let done = install(&home, &secret).with_code(2);
    assert_eq!(done.error()["code"], "ORC-5022");
    assert!(!done.stderr.contains("hush"), "{}", done.stderr);
    let done = install(&home, "http://127.0.0.1:1/x").with_code(7);
    assert_eq!(done.error()["code"], "ORC-5025");
}

#[test]
fn updates_come_from_where_the_plugin_came_from() {
    let (home, package) = home_with_package();
    let server = FileServer::start();
    let url = server.put("/latest", Answer::File(archive(&package)));
    install(&home, &url).ok();
    home.run(&["plugin", "lock"]).ok();
    let outdated = || {
        let rows = home.run(&["plugin", "outdated", "--json"]).ok().json();
        (rows[0]["state"].clone(), rows[0]["available"].clone())
    };
    assert_eq!(outdated().0, "current");
    release(&home, &package, "0.2.0", "2");
    server.put("/latest", Answer::File(archive(&package)));
    assert_eq!(outdated(), ("outdated".into(), "0.2.0".into()));
    let rows = home.run(&["plugin", "update", "--json"]).ok().json();
    assert_eq!(rows[0]["state"], "updated");
    home.run(&["plugin", "lock", "--locked"]).ok();
    assert_eq!(outdated().0, "current");

    let done = home.run(&["plugin", "rollback", "greeter", "--json"]).ok();
    assert_eq!(done.json()["to"], "0.1.0");
    assert_eq!(outdated().0, "rolled_back");
    home.run(&["plugin", "update"]).ok();
    let info = home.run(&["plugin", "info", "greeter", "--json"]).ok();
    assert_eq!(info.json()["version"], "0.1.0");
    home.run(&["plugin", "lock", "--locked"]).with_code(6);
    let args = ["plugin", "gc", "--keep", "1", "--json"];
    let kept = home.run(&args).ok().json();
    assert_eq!(
        kept["removed"],
        serde_json::json!([]),
        "the lock file wants it"
    );
    home.run(&["plugin", "lock"]).ok();
    let gone = home.run(&args).ok().json();
    assert_eq!(gone["removed"][0]["what"], "greeter 0.2.0");
    home.run(&["plugin", "rollback", "greeter"]).with_code(4);
    let unknown = home
        .run(&["plugin", "update", "greter", "--json"])
        .with_code(4);
    assert_eq!(unknown.error()["code"], "ORC-5011");
}

/// What a service has loaded is not collected before it ends.
#[test]
fn what_a_running_service_has_loaded_is_not_collected() {
    let (home, package) = home_with_package();
    install(&home, &package).ok();
    release(&home, &package, "0.2.0", "2");
    install(&home, &package).ok();
    home.run(&["plugin", "grant", "greeter", "process:spawn=/bin/sh"])
        .ok();
    let service = Service::start(&home, &[]);
    let collect = ["plugin", "gc", "--keep", "1", "--json"];
    let kept = home.run(&collect).ok().json();
    assert_eq!((&kept["removed"], &kept["in_use"]), (&json!([]), &json!(1)));
    service.signal(Signal::TERM);
    service.wait();
    let gone = home.run(&collect).ok().json();
    assert_eq!(gone["removed"][0]["what"], "greeter 0.1.0");
}

/// As many names, links and receipts as ten thousand installations leave.
#[test]
fn ten_thousand_installed_plugins_are_listed() {
    let home = Home::new();
    lay_out_installed(&home.root().join("plugins"), 10_000);
    let begun = SystemTime::now();
    let listed = home.run(&["plugin", "list", "--installed"]).ok();
    // Less than a second, when nobody else works here; a minute is something else.
    let took = begun.elapsed().unwrap();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert_eq!(listed.stdout.lines().count(), 10_001);
    let last = listed.stdout.lines().last().unwrap();
    assert!(last.contains("/packages/plugin-9999.opkg"), "{last}");
}
