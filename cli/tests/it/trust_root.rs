//! The trust root from its first version to its last: made, shared, signed by
//! several, followed, and looked after.

use std::fs;

use jiff::{Timestamp, ToSpan};
use serde_json::json;

use crate::{
    harness::{Done, Home},
    trust_check::kinds,
};

fn key(home: &Home, name: &str) {
    home.run(&["key", "generate", name, "--no-passphrase"]).ok();
}

/// The public key file of `name` in `home`.
fn public(home: &Home, name: &str) -> String {
    let file = home.root().join(format!("keys/{name}.pub"));
    file.display().to_string()
}

fn trust(home: &Home, args: &[&str]) -> Done {
    home.run(&[&["trust"], args, &["--json"]].concat())
}

#[track_caller]
fn refused(done: Done, status: i32) -> String {
    let error = done.with_code(status).error();
    assert!(!error["help"].as_str().unwrap().is_empty(), "{error}");
    error["code"].as_str().unwrap().to_owned()
}

#[test]
fn one_key_is_enough_to_begin_with() {
    let home = Home::new();
    let none = trust(&home, &["show"]).ok().json();
    assert_eq!(
        (&none["version"], &none["root_keys"]),
        (&json!(0), &json!([]))
    );
    let made = trust(&home, &["init"]).ok().json();
    assert_eq!(
        (&made["version"], &made["root_threshold"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(refused(trust(&home, &["init"]), 1), "ORC-2096");
    key(&home, "release");
    trust(
        &home,
        &["add", "release", "--level", "3", "--names", "greeter"],
    )
    .ok();
    let shown = trust(&home, &["show"]).ok().json();
    assert_eq!(shown["version"], 2);
    assert_eq!(shown["keys"][0]["names"], json!(["greeter"]));
    let rotated = trust(&home, &["rotate", "--root"]).ok().json();
    assert_eq!(rotated["version"], 3);
    assert_ne!(rotated["root_keys"], shown["root_keys"]);
    trust(&home, &["remove", "release"]).ok();
    assert_eq!(refused(trust(&home, &["remove", "release"]), 4), "ORC-2086");
    let text = home.run(&["trust", "show"]).ok().stdout;
    assert!(
        text.starts_with("version    4\nexpires    never\n"),
        "{text}"
    );
}

/// Two people who hold a root key each, a host that knows none of their
/// secrets, and the first root, which both have signed.
struct TwoKeys {
    ada: Home,
    bob: Home,
    host: Home,
    first: String,
}

impl TwoKeys {
    fn new() -> Self {
        let (ada, bob, host) = (Home::new(), Home::new(), Home::new());
        key(&ada, "root-a");
        key(&bob, "root-b");
        key(&ada, "release");
        let first = host.work().join("root.1.json").display().to_string();
        let (a, b) = (public(&ada, "root-a"), public(&bob, "root-b"));
        let keys = ["propose", "--root-key", &a, "--root-key", &b];
        let rest = ["--threshold", "2", "--out", &first];
        let proposed = trust(&ada, &[&keys[..], &rest].concat()).ok().json();
        assert_eq!(proposed["version"], 1);
        Self {
            ada,
            bob,
            host,
            first,
        }
    }
}

#[test]
fn the_first_root_of_two_is_proposed_signed_apart_and_adopted() {
    let TwoKeys {
        ada,
        bob,
        host,
        first,
    } = TwoKeys::new();
    let names = ["add", "release", "--level", "2", "--names", "com.example.*"];
    let release = [&names[..], &["--out", &first]].concat();
    trust(&ada, &release).ok();
    let listed = trust(&ada, &["list"]).ok().json();
    assert_eq!(listed, json!([]), "nothing holds yet");
    let by_release = trust(&ada, &["sign", &first, "--key", "release"]);
    assert_eq!(refused(by_release, 6), "ORC-2097");
    let once = trust(&ada, &["sign", &first, "--key", "root-a"])
        .ok()
        .json();
    assert_eq!(once["signed_by_new_root_keys"], 1);
    let early = trust(&host, &["init", "--from", &first]);
    assert_eq!(refused(early, 6), "ORC-2093");
    let late = trust(&ada, &release);
    assert_eq!(refused(late, 6), "ORC-2085", "signed is not edited");
    let both = trust(&bob, &["sign", &first, "--key", "root-b"])
        .ok()
        .json();
    assert_eq!(both["signed_by_new_root_keys"], 2);

    assert_eq!(refused(trust(&host, &["update", &first]), 4), "ORC-2095");
    let digest = both["sha256"].as_str().unwrap().to_owned();
    let other = "0".repeat(64);
    let from = |sha256: &str| trust(&host, &["init", "--from", &first, "--sha256", sha256]);
    assert_eq!(refused(from(&other), 6), "ORC-5040");
    from(&digest).ok();
    assert_eq!(trust(&host, &["list"]).ok().json()[0]["level"], 2);
    let local = trust(&host, &["remove", "release"]);
    assert_eq!(refused(local, 6), "ORC-2084");
}

/// It drops a key, for which enough of the old ones sign.
#[test]
fn the_next_root_is_signed_by_the_old_keys_and_followed() {
    let TwoKeys {
        ada,
        bob,
        host,
        first,
    } = TwoKeys::new();
    let names = ["--level", "2", "--names", "a", "--out", &first];
    trust(&ada, &[&["add", "release"], &names[..]].concat()).ok();
    trust(&ada, &["sign", &first, "--key", "root-a"]).ok();
    trust(&bob, &["sign", &first, "--key", "root-b"]).ok();
    for home in [&ada, &bob, &host] {
        trust(home, &["init", "--from", &first]).ok();
    }
    let next = host.work().join("root.2.json").display().to_string();
    let propose = ["propose", "--drop-root-key", "root-b", "--threshold", "1"];
    trust(&ada, &[&propose[..], &["--out", &next]].concat()).ok();
    let reason = ["revoke", "release", "--reason", "stolen", "--out", &next];
    trust(&ada, &reason).ok();
    trust(&ada, &["sign", &next, "--key", "root-a"]).ok();
    let seen = trust(&host, &["show", &next]).ok().json();
    assert_eq!(seen["follows"], true);
    assert_eq!(seen["signed_by_present_root_keys"], 1);
    assert_eq!(seen["changes"].as_array().unwrap().len(), 4, "{seen}");
    assert_eq!(refused(trust(&host, &["update", &next]), 6), "ORC-2093");
    assert_eq!(trust(&host, &["show"]).ok().json()["version"], 1);

    trust(&bob, &["sign", &next, "--key", "root-b"]).ok();
    let done = trust(&host, &["update", &next]).ok().json();
    assert_eq!((&done["before"], &done["version"]), (&json!(1), &json!(2)));
    let listed = trust(&host, &["list"]).ok().json();
    assert_eq!(listed[0]["status"], "revoked");
    assert_eq!(listed[0]["reason"], "stolen");
    for old in [&first, &next] {
        let back = trust(&host, &["update", old]);
        assert_eq!(refused(back, 6), "ORC-2085", "never back");
    }
}

#[test]
fn a_host_of_one_key_is_handed_over_to_several() {
    let home = Home::new();
    trust(&home, &["init"]).ok();
    for name in ["a", "b"] {
        key(&home, name);
    }
    let own = trust(&home, &["show"]).ok().json()["root_keys"][0]["key_id"].clone();
    let own = own.as_str().unwrap();
    let propose = [
        "propose",
        "--root-key",
        "a",
        "--root-key",
        "b",
        "--drop-root-key",
        own,
        "--threshold",
        "2",
        "--expires",
        "2099-12-31",
        "--out",
        "next.json",
    ];
    trust(&home, &propose).ok();
    for signer in [&["--key", "a"][..], &["--key", "b"]] {
        trust(&home, &[&["sign", "next.json"], signer].concat()).ok();
    }
    assert_eq!(
        refused(trust(&home, &["update", "next.json"]), 6),
        "ORC-2093"
    );
    trust(&home, &["sign", "next.json", "--own"]).ok();
    trust(&home, &["update", "next.json"]).ok();
    let shown = trust(&home, &["show"]).ok().json();
    assert_eq!(
        (&shown["version"], &shown["root_threshold"]),
        (&json!(2), &json!(2))
    );
    assert_eq!(shown["expires"], "2099-12-31T00:00:00Z");
    assert_eq!(refused(trust(&home, &["rotate", "--root"]), 6), "ORC-2084");
}

#[test]
fn what_is_revoked_stops_loading_and_says_why() {
    let home = Home::with_greeter();
    let installed = home
        .root()
        .join("plugins/greeter/0.1.0")
        .display()
        .to_string();
    let verified = home
        .run(&["plugin", "verify", &installed, "--json"])
        .ok()
        .json();
    let digest = verified["digest"].as_str().unwrap().to_owned();
    let pipeline = home.pipeline("greet");
    let run = ["run", "start", &pipeline, "--json"];
    home.run(&run).ok();

    let revoked = trust(&home, &["revoke", "release", "--reason", "stolen laptop"])
        .ok()
        .json();
    assert_eq!(revoked["refused"][0]["error"]["code"], "ORC-2046");
    let error = home.run(&run).with_code(6).error();
    assert_eq!(error["code"], "ORC-2046");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("is revoked: stolen laptop (plugin greeter 0.1.0 in "),
        "{error}"
    );
    let check = trust(&home, &["check"]).with_code(6).json();
    assert_eq!(check["findings"][0]["kind"], "does_not_load", "{check}");

    let allow = [
        "revoke",
        "release",
        "--reason",
        "stolen laptop",
        "--allow",
        &digest,
    ];
    let allowed = trust(&home, &allow).ok().json();
    assert_eq!(allowed["refused"], json!([]));
    let ran = home.run(&["run", "start", &pipeline]).ok();
    drop(ran);
    let release = format!("sha256:{digest}");
    trust(&home, &["revoke", &release, "--reason", "steals cookies"]).ok();
    let error = home.run(&run).with_code(6).error();
    assert_eq!(error["code"], "ORC-2048");
    assert_eq!(
        refused(trust(&home, &["revoke", "nobody", "--reason", "x"]), 4),
        "ORC-2086"
    );
    assert_eq!(
        refused(trust(&home, &["revoke", "sha256:12", "--reason", "x"]), 2),
        "ORC-5015"
    );
    assert_eq!(
        refused(trust(&home, &["revoke", &release, "--reason", "a\nb"]), 2),
        "ORC-2102"
    );
}

#[test]
fn a_release_key_is_replaced_while_both_count() {
    let home = Home::with_greeter();
    key(&home, "release-2");
    let rotated = trust(&home, &["rotate", "release", "release-2", "--overlap", "7"])
        .ok()
        .json();
    let until: Timestamp = rotated["until"].as_str().unwrap().parse().unwrap();
    assert!(until > Timestamp::now() + (6 * 24).hours(), "{until}");
    let listed = trust(&home, &["list"]).ok().json();
    assert_eq!(listed[0]["status"], "active");
    assert_eq!(listed[0]["not_after"], rotated["until"]);
    assert_eq!(
        (&listed[1]["level"], &listed[1]["names"]),
        (&json!(3), &json!(["*"]))
    );
    let soon = trust(&home, &["check", "--strict"]).with_code(1).json();
    let kinds: Vec<_> = soon["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["kind"])
        .collect();
    assert!(kinds.contains(&&json!("key_expires_soon")), "{kinds:?}");
    trust(&home, &["rotate", "release", "release-2", "--overlap", "0"]).ok();
    assert_eq!(trust(&home, &["list"]).ok().json()[0]["status"], "retired");
    let pipeline = home.pipeline("greet");
    home.run(&["run", "start", &pipeline]).ok();
    let package = home.work().join("greeter");
    let manifest = fs::read_to_string(package.join("plugin.yaml")).unwrap();
    fs::write(
        package.join("plugin.yaml"),
        manifest.replace("0.1.0", "0.2.0"),
    )
    .unwrap();
    for (name, status) in [("release", 6), ("release-2", 0)] {
        let serial = ["--serial", "4000000000000"];
        home.run(&[&["plugin", "sign", "greeter", "--key", name], &serial[..]].concat())
            .ok();
        home.run(&["plugin", "install", "greeter"])
            .with_code(status);
    }
}

#[test]
fn a_root_without_an_end_is_told_of_where_others_send_it() {
    let keys = TwoKeys::new();
    trust(&keys.ada, &["sign", &keys.first, "--key", "root-a"]).ok();
    trust(&keys.bob, &["sign", &keys.first, "--key", "root-b"]).ok();
    trust(&keys.host, &["init", "--from", &keys.first]).ok();
    let check = trust(&keys.host, &["check"]).ok().json();
    assert!(
        kinds(&check).contains(&"root_never_expires".to_owned()),
        "{check}"
    );
    let own = Home::new();
    trust(&own, &["init"]).ok();
    assert_eq!(kinds(&trust(&own, &["check"]).ok().json()), [] as [&str; 0]);
}

#[test]
fn an_upgrade_that_asks_for_more_is_listed_with_what_is_new() {
    let home = Home::with_greeter();
    let package = home.work().join("greeter");
    let manifest = fs::read_to_string(package.join("plugin.yaml")).unwrap();
    let more = "capabilities: [\"file:read=/srv\"]\n";
    let script = fs::read_to_string(package.join("greeter.sh")).unwrap();
    fs::write(
        package.join("plugin.yaml"),
        manifest.replace("0.1.0", "0.2.0") + more,
    )
    .unwrap();
    fs::write(package.join("greeter.sh"), script.replace("0.1.0", "0.2.0")).unwrap();
    let serial = (Timestamp::now().as_millisecond() + 60_000).to_string();
    let sign = ["plugin", "sign", "greeter", "--key", "release"];
    home.run(&[&sign[..], &["--serial", &serial]].concat()).ok();
    let installed = home.run(&["plugin", "install", "greeter"]).ok();
    assert!(
        installed.stderr.contains("+ file:read=/srv"),
        "{}",
        installed.stderr
    );
    let listed = home.run(&["plugin", "list"]).ok().stdout;
    assert!(
        listed.contains("ORC-2121: plugin `greeter` now asks for more: + file:read=/srv"),
        "{listed}"
    );
    for name in ["greeter", "greeter@0.2.0"] {
        let info = home.run(&["plugin", "info", name]).ok().stdout;
        assert!(
            info.contains("orchestrator plugin grant greeter file:read=/srv"),
            "{info}"
        );
    }
    let pipeline = home.pipeline("greet");
    let report = home.run(&["run", "start", &pipeline, "--json"]).ok().json();
    assert_eq!(report["steps"][0]["version"], "0.1.0", "{report}");
    home.run(&["plugin", "grant", "greeter", "file:read=/srv"])
        .ok();
    let report = home.run(&["run", "start", &pipeline, "--json"]).ok().json();
    assert_eq!(report["steps"][0]["version"], "0.2.0", "{report}");
}
