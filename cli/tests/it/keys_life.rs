//! A key from its making to its end: shown, exported, imported, rotated, revoked.

#![expect(
    clippy::disallowed_types,
    reason = "runs minisign itself; the sandbox is for plugins"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::SystemTime,
};

use serde_json::{Value, json};

use crate::harness::{Done, Home, finish, read};

/// How often a command is killed.
const KILLS: u32 = 60;

/// Runs minisign in the working directory of a home.
#[track_caller]
fn minisign(home: &Home, args: &[&str]) {
    let program = std::env::var_os("ORCHESTRATOR_TEST_MINISIGN")
        .expect("ORCHESTRATOR_TEST_MINISIGN names minisign; `cargo xtask test` fetches it");
    let mut command = Command::new(program);
    command.current_dir(home.work()).args(args);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    assert!(status.unwrap().success(), "{args:?}");
}

fn key(home: &Home, name: &str) {
    home.run(&["key", "generate", name, "--no-passphrase"]).ok();
}

/// Runs a command line that the command itself has printed, in the folder `dir`.
fn printed(home: &Home, dir: &Path, line: &Value) -> Done {
    let rest = line
        .as_str()
        .unwrap()
        .strip_prefix("orchestrator ")
        .unwrap();
    // The words are those that a shell makes of it, after the program and its home.
    let before = format!("cd '{}'\nset -- \"$1\" \"$2\" \"$3\" {rest}", dir.display());
    finish(home.command_after(&before, &[]).spawn().unwrap())
}

#[test]
fn a_key_is_shown_with_all_there_is_to_know() {
    let home = Home::new();
    let generate = [
        "key",
        "generate",
        "release",
        "--passphrase-cmd",
        "echo secret",
        "--comment",
        "in the safe",
    ];
    home.run(&generate).ok();
    let shown = home.run(&["key", "show", "release", "--json"]).ok().json();
    assert_eq!(shown["name"], "release");
    assert_eq!(shown["comment"], "in the safe");
    assert_eq!(shown["protection"]["kdf"], "argon2id");
    assert_eq!(shown["protection"]["memory_kib"], 65_536);
    assert_eq!(shown["trust"], Value::Null);
    assert_eq!(shown["revoked"], Value::Null);
    let created: jiff::Timestamp = shown["created"].as_str().unwrap().parse().unwrap();
    assert!(created <= jiff::Timestamp::now());
    let id = shown["key_id"].as_str().unwrap();
    let fingerprint = shown["fingerprint"].as_str().unwrap().replace(' ', "");
    assert!(id.starts_with(&fingerprint) && fingerprint.len() == 32);

    home.run(&["trust", "add", "release", "--level", "2", "--names", "demo"])
        .ok();
    let text = home.run(&["key", "show", "release"]).ok().stdout;
    for part in [
        "passphrase, argon2id with 64 MiB, 3 passes, 4 lanes",
        "active at level 2 for demo",
        "in the safe",
        id,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let public = home.root().join("keys/release.pub").display().to_string();
    let elsewhere = home.run(&["key", "show", &public, "--json"]).ok().json();
    assert_eq!(elsewhere["has_secret"], false);
    assert_eq!(elsewhere["key_id"], id);
    let nobody = home.run(&["key", "show", "nobody", "--json"]).with_code(4);
    assert_eq!(nobody.error()["code"], "ORC-2010");
}

#[test]
fn a_key_is_exported_as_others_read_it() {
    let home = Home::new();
    key(&home, "release");
    let export = |format: &str| {
        let args = ["key", "export", "release", "--public", "--format", format];
        home.run(&args).ok().stdout
    };
    assert_eq!(
        export("orchestrator"),
        read(home.root().join("keys/release.pub"))
    );
    assert!(export("minisign").starts_with("untrusted comment: minisign public key "));
    assert!(export("note").starts_with("release+"), "{}", export("note"));

    let package = home.greeter("greeter");
    let sign = ["plugin", "sign", &package, "--key", "release", "--minisign"];
    home.run(&sign).ok();
    home.write("exported.pub", &export("minisign"));
    minisign(
        &home,
        &["-V", "-m", "greeter/META/MANIFEST", "-p", "exported.pub"],
    );

    // What is exported is trusted elsewhere, in either form.
    let other = Home::new();
    let line = other.write("line.pub", &export("orchestrator"));
    let file = other.write("theirs.pub", &export("minisign"));
    other
        .run(&["trust", "add", &line, "--level", "2", "--names", "*"])
        .ok();
    let done = other.run(&["plugin", "verify", &package]).ok();
    assert!(
        done.stderr.contains("META/MANIFEST.minisig is good too"),
        "{}",
        done.stderr
    );
    other.run(&["trust", "remove", "release"]).ok();
    other
        .run(&["trust", "add", &file, "--level", "2", "--names", "*"])
        .ok();
    other.run(&["plugin", "verify", &package]).ok();

    let export = home.work().join("greeter/META/MANIFEST.minisig");
    let edited = read(&export).replace("release:", "release:9");
    fs::write(&export, edited).unwrap();
    let done = other.run(&["plugin", "verify", &package]).ok();
    assert!(
        done.stderr.contains("misleads (ORC-2033)"),
        "{}",
        done.stderr
    );
}

#[test]
fn keys_are_imported_from_minisign() {
    let home = Home::new();
    minisign(&home, &["-G", "-W", "-p", "their.pub", "-s", "their.key"]);
    let import = [
        "key",
        "import",
        "their.key",
        "--name",
        "release",
        "--no-passphrase",
        "--json",
    ];
    let imported = home.run(&import).ok().json();
    let number = imported["minisign_id"].as_str().unwrap();
    // minisign writes it without leading zeros.
    let shown = number.trim_start_matches('0');
    assert!(read(home.work().join("their.pub")).contains(shown));
    let taken = home.run(&import).with_code(1);
    assert_eq!(taken.error()["code"], "ORC-5041");

    // What it signs verifies with the public key that people have.
    let package = home.greeter("greeter");
    home.run(&["plugin", "sign", &package, "--key", "release", "--minisign"])
        .ok();
    minisign(
        &home,
        &["-V", "-m", "greeter/META/MANIFEST", "-p", "their.pub"],
    );

    // So does the half that is exported, also where its file was lost.
    let export = ["key", "export", "release", "--format", "minisign"];
    let verify = ["-V", "-m", "greeter/META/MANIFEST", "-p", "exported.pub"];
    home.write("exported.pub", &home.run(&export).ok().stdout);
    minisign(&home, &verify);
    fs::remove_file(home.root().join("keys/release.pub")).unwrap();
    home.run(&["key", "list"]).ok();
    home.write("exported.pub", &home.run(&export).ok().stdout);
    minisign(&home, &verify);

    // What minisign signs by itself, with the comment that it makes, is good.
    home.run(&["trust", "add", "release", "--level", "2", "--names", "*"])
        .ok();
    minisign(
        &home,
        &["-S", "-s", "their.key", "-m", "greeter/META/MANIFEST"],
    );
    let done = home.run(&["plugin", "verify", &package]).ok();
    assert!(done.stderr.contains("is good too"), "{}", done.stderr);

    // A public key alone keeps its number too.
    home.run(&["key", "import", "their.pub"]).ok();
    let shown = home.run(&["key", "show", "their", "--json"]).ok().json();
    assert_eq!(shown["minisign_id"], number);
    assert_eq!(shown["key_id"], imported["key_id"]);
}

#[test]
fn keys_are_imported_from_files_of_ours() {
    let (home, other) = (Home::new(), Home::new());
    let package = home.greeter("greeter");
    // Under its own passphrase and another name.
    let generate = [
        "key",
        "generate",
        "moved",
        "--passphrase-cmd",
        "echo secret",
    ];
    other.run(&generate).ok();
    let file = other.root().join("keys/moved.key").display().to_string();
    let import = ["key", "import", &file, "--name", "here", "--json"];
    let right = [&import[..], &["--passphrase-cmd", "echo secret"]].concat();
    let wrong = [&import[..], &["--passphrase-cmd", "echo guess"]].concat();
    assert_eq!(home.run(&wrong).with_code(5).error()["code"], "ORC-2013");
    assert_eq!(home.run(&right).ok().json()["name"], "here");
    let sign = [
        "plugin",
        "sign",
        &package,
        "--key",
        "here",
        "--passphrase-cmd",
        "echo secret",
    ];
    home.run(&sign).ok();

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let import = ["key", "import", &file, "--name", "again", "--json"];
    assert_eq!(home.run(&import).with_code(5).error()["code"], "ORC-2011");
    let text = home.write("text.pub", "hello\n");
    let import = ["key", "import", &text, "--json"];
    assert_eq!(home.run(&import).with_code(3).error()["code"], "ORC-2004");
}

#[test]
fn a_key_is_replaced_with_a_statement_that_others_can_check() {
    let home = Home::new();
    key(&home, "release");
    home.run(&[
        "trust", "add", "release", "--level", "2", "--names", "greeter",
    ])
    .ok();
    let rotate = ["key", "rotate", "release", "--no-passphrase", "--json"];
    let made = home.run(&rotate).ok().json();
    assert_eq!(made["name"], "release-2");
    let keys = home.root().join("keys");
    for file in [
        "release.key",
        "release-2.key",
        "release-2.pub",
        "release-2.rotation.json",
    ] {
        assert!(keys.join(file).is_file(), "{file}");
    }
    assert_eq!(home.run(&rotate).ok().json()["name"], "release-3");

    let statement = made["statement"].as_str().unwrap();
    let check = ["key", "rotate", "release", "--check", statement, "--json"];
    let checked = home.run(&check).ok().json();
    assert_eq!(checked["public"], made["public"]);
    let other = ["key", "rotate", "release-3", "--check", statement, "--json"];
    assert_eq!(home.run(&other).with_code(6).error()["code"], "ORC-2037");
    let edited = read(statement).replace("payload\":\"", "payload\":\"e30");
    let edited = home.write("edited.json", &edited);
    let edited = ["key", "rotate", "release", "--check", &edited, "--json"];
    assert_ne!(home.run(&edited).code, 0);

    // What is printed for the verifiers is all that they have to do, with the files
    // that they were given.
    let their = Home::new();
    for file in ["release.pub", "release-2.pub", "release-2.rotation.json"] {
        fs::copy(keys.join(file), their.work().join(file)).unwrap();
    }
    let terms = ["--level", "2", "--names", "x"];
    their
        .run(&[&["trust", "add", "./release.pub"], &terms[..]].concat())
        .ok();
    for line in made["at_verifiers"].as_array().unwrap() {
        printed(&their, &their.work(), line).ok();
    }
    assert!(made["at_verifiers"].as_array().unwrap().len() > 1);
    printed(&home, &keys, &made["at_verifiers"][1]).ok();
    let package = home.greeter("greeter");
    for key in ["release", "release-2"] {
        home.run(&["plugin", "sign", &package, "--key", key]).ok();
        home.run(&["plugin", "verify", &package]).ok();
    }
}

#[test]
fn a_revoked_key_no_longer_signs() {
    let home = Home::new();
    key(&home, "release");
    home.run(&[
        "trust", "add", "release", "--level", "2", "--names", "greeter",
    ])
    .ok();
    let package = home.greeter("greeter");
    let sign = ["plugin", "sign", &package, "--key", "release", "--json"];
    home.run(&sign).ok();
    let revoke = [
        "key",
        "revoke",
        "release",
        "--reason",
        "it's stolen",
        "--json",
    ];
    let revoked = home.run(&revoke).ok().json();
    assert_eq!(home.run(&revoke).ok().json(), revoked, "twice is once");
    let refused = home.run(&sign).with_code(6);
    assert_eq!(refused.error()["code"], "ORC-2018");
    let message = refused.error()["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with(": it's stolen"), "{message}");
    for command in [
        &["key", "passphrase", "release", "--no-passphrase", "--json"][..],
        &["key", "rotate", "release", "--no-passphrase", "--json"],
    ] {
        assert_eq!(home.run(command).with_code(6).error()["code"], "ORC-2018");
    }
    assert!(!home.root().join("keys/release-2.key").exists());
    let listed = home.run(&["key", "list"]).ok().stdout;
    assert!(listed.contains("revoked: it's stolen"), "{listed}");
    let mode = home
        .root()
        .join("keys/release.key")
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    // Its signatures still count, until the verifiers are told so too.
    home.run(&["plugin", "verify", &package]).ok();
    printed(&home, &home.root(), &revoked["at_verifiers"][0]).ok();
    let verify = home
        .run(&["plugin", "verify", &package, "--json"])
        .with_code(6);
    assert_eq!(verify.error()["code"], "ORC-2046");
}

#[test]
fn a_passphrase_is_changed() {
    let home = Home::new();
    home.run(&["key", "generate", "release", "--passphrase-cmd", "echo old"])
        .ok();
    let before = home.run(&["key", "show", "release", "--json"]).ok().json();
    let change = |old: &str, new: &str| {
        let args = [
            "key",
            "passphrase",
            "release",
            "--passphrase-cmd",
            old,
            "--new-passphrase-cmd",
            new,
            "--json",
        ];
        home.run(&args)
    };
    assert_eq!(
        change("echo wrong", "echo new").with_code(5).error()["code"],
        "ORC-2013"
    );
    assert_eq!(
        change("echo old", "echo new").ok().json()["encrypted"],
        true
    );
    assert_eq!(
        change("echo old", "echo new").with_code(5).error()["code"],
        "ORC-2013"
    );
    assert_eq!(
        home.run(&["key", "show", "release", "--json"]).ok().json(),
        before
    );

    let args = [
        "key",
        "passphrase",
        "release",
        "--passphrase-cmd",
        "echo new",
        "--no-passphrase",
        "--json",
    ];
    let done = home.run(&args).ok();
    assert!(done.stderr.contains("not encrypted"), "{}", done.stderr);
    let shown = home.run(&["key", "show", "release", "--json"]).ok().json();
    assert_eq!(shown["protection"], json!({ "kind": "none" }));
    assert_eq!(shown["created"], before["created"]);
}

/// Kills what rewrites a key file at moments spread over the time it takes.
#[test]
fn a_key_file_that_is_killed_while_it_is_rewritten_is_whole() {
    let home = Home::new();
    key(&home, "release");
    let rewrite = ["key", "passphrase", "release", "--no-passphrase"];
    let began = SystemTime::now();
    home.run(&rewrite).ok();
    let usual = began.elapsed().unwrap();
    let file = home.root().join("keys/release.key");
    let before = read(&file);
    let (_never, clock) = mpsc::channel::<()>();
    for attempt in 0..KILLS {
        let mut child = home.command(&rewrite).spawn().unwrap();
        clock.recv_timeout(usual * attempt / KILLS).ok();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(read(&file), before, "after {attempt} kills");
    }
    home.run(&["key", "list"]).ok();
    let left = fs::read_dir(home.root().join("keys")).unwrap().count();
    assert_eq!(left, 2, "what was left is swept");
    home.run(&rewrite).ok();
}
