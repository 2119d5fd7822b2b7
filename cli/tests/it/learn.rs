//! What a plugin uses becomes what it is granted, and what it is refused is recorded.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Home, read};

const MANIFEST: &str = "\
name: learner
version: 0.1.0
description: Copies a file.
kind: exec
entry_point: learner.sh
interpreter: /bin/sh
# What it asks for:
capabilities: [system:info, 'env:read=HOME']
phases:
  - { name: copy, effect: pure }
";

const SCRIPT: &str = r#"case "$1" in
validate) ;;
info) echo '{"id":"learner","version":"0.1.0","phases":["copy"]}' ;;
execute) read -r input; from=${input#*'"from":"'}; from=${from%%'"'*}
    /usr/bin/cat "$from" > "${from%/*}/out/copy" && echo '"copied"' ;;
esac
"#;

/// A signed package in the working directory, of a publisher at level 1, and what it works
/// with.
fn learner() -> Home {
    let home = Home::new();
    home.write("learner/plugin.yaml", MANIFEST);
    home.write("learner/learner.sh", SCRIPT);
    let from = home.write("data/from", "word\n");
    home.write("data/out/kept", "");
    home.write("input.json", &json!({ "from": from }).to_string());
    home.run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    sign(&home);
    let trust = ["trust", "add", "release", "--names", "*", "--level", "1"];
    home.run(&trust).ok();
    home
}

fn sign(home: &Home) {
    home.run(&["plugin", "sign", "learner", "--key", "release"])
        .ok();
}

const LEARN: [&str; 5] = ["plugin", "learn", "./learner", "--input", "input.json"];

#[test]
fn what_was_learned_is_what_is_granted() {
    let home = learner();
    let data = home.work().join("data").display().to_string();
    let learned = home.run(&[&LEARN[..], &["--json"]].concat()).ok();
    assert!(learned.stderr.contains("with your rights"), "{learned:?}");
    let learned = learned.json();
    let seen = [
        format!("file:read={data}/from"),
        format!("file:write={data}/out"),
        "process:spawn=/usr/bin/cat".to_owned(),
    ];
    assert_eq!(learned["added"], json!(seen));
    assert_eq!(learned["unused"], json!(["system:info"]));
    assert_eq!(learned["withheld"], json!([]));
    assert_eq!(learned["outcome"], "success");
    let mut whole = seen.to_vec();
    // Nobody sees who reads a variable, and its interpreter it needs.
    whole.extend(["process:spawn=/bin/sh", "env:read=HOME"].map(ToOwned::to_owned));
    let sorted = |value: &Value| {
        let mut texts: Vec<_> = value
            .as_array()
            .unwrap()
            .iter()
            .map(|it| it.as_str().unwrap().to_owned())
            .collect();
        texts.sort();
        texts
    };
    whole.sort();
    assert_eq!(sorted(&learned["capabilities"]), whole);

    fs::remove_file(format!("{data}/out/copy")).unwrap();
    let text = home.run(&[&LEARN[..], &["--write"]].concat()).ok();
    assert!(text.stderr.contains("sign the package again"), "{text:?}");
    let manifest = read(home.work().join("learner/plugin.yaml"));
    assert!(
        manifest.contains("# What it asks for:\ncapabilities:\n"),
        "{manifest}"
    );
    assert!(!manifest.contains("system:info"), "{manifest}");
    sign(&home);
    home.run(&["plugin", "install", "./learner"]).ok();
    let command = text.stdout.lines().last().unwrap().to_owned();
    let grant: Vec<_> = command.split(' ').skip(1).collect();
    assert_eq!(&grant[..3], ["plugin", "grant", "learner"]);
    home.run(&grant).ok();

    fs::remove_file(format!("{data}/out/copy")).unwrap();
    let pipeline = home.write(
        "copy.yaml",
        &format!("version: 1\nname: copy\nsteps:\n  - {{ id: a, plugin: learner, phase: copy, input: {{ from: \"{data}/from\" }} }}\n"),
    );
    home.run(&["run", "start", &pipeline]).ok();
    assert_eq!(read(format!("{data}/out/copy")), "word\n");
    let info = home
        .run(&["plugin", "info", "learner", "--json"])
        .ok()
        .json();
    assert_eq!(info["sandbox"]["state"], "confined");

    let records = home.audited(&[]);
    assert!(
        records
            .iter()
            .any(|it| it["action"] == "plugin learn" && it["outcome"] == "ok")
    );
}

#[test]
fn what_cannot_be_learned_is_said() {
    let home = learner();
    let wrong = ["plugin", "learn", "./learner", "--phase", "paste", "--json"];
    let error = home.run(&wrong).with_code(4).error();
    assert_eq!(error["code"], "ORC-5065");
    assert_eq!(error["help"], "give `--phase`, one of: copy");
    // A phase that fails has shown what it used until then.
    let nothing = ["plugin", "learn", "./learner", "--json"];
    let failed = home.run(&nothing).with_code(1);
    assert_eq!(failed.json()["outcome"], "failed");
    assert!(
        failed.stderr.contains("may want more than this"),
        "{failed:?}"
    );

    home.run(&["plugin", "install", "./learner"]).ok();
    let write = ["plugin", "learn", "learner", "--write", "--json"];
    let error = home.run(&write).with_code(3).error();
    assert_eq!(error["code"], "ORC-5066");
}

#[test]
fn a_refusal_by_the_proxy_is_recorded() {
    const PYTHON: &str = "/usr/bin/python3";
    if !std::path::Path::new(PYTHON).exists() {
        return;
    }
    let home = learner();
    let manifest = MANIFEST
        .replace("/bin/sh", PYTHON)
        .replace("system:info, ", "'network:access=api.example.com:443', ");
    home.write("learner/plugin.yaml", &manifest);
    home.write(
        "learner/learner.sh",
        "import socket, sys\n\
         if sys.argv[1] == 'info':\n    print('{\"id\":\"learner\",\"version\":\"0.1.0\",\"phases\":[\"copy\"]}')\n\
         if sys.argv[1] == 'execute':\n    it = socket.create_connection(('127.0.0.1', 3128))\n    \
             it.sendall(b'CONNECT evil.example.com:443 HTTP/1.1\\r\\n\\r\\n')\n    \
             print('\"' + it.recv(12).decode() + '\"')\n",
    );
    sign(&home);
    home.run(&["plugin", "install", "./learner"]).ok();
    let python = format!("process:spawn={PYTHON}");
    let asked = [
        "env:read=HOME",
        "network:access=api.example.com:443",
        &python,
    ];
    home.run(&[&["plugin", "grant", "learner"][..], &asked].concat())
        .ok();
    let pipeline = home.write(
        "copy.yaml",
        "version: 1\nname: copy\nsteps:\n  - { id: a, plugin: learner, phase: copy, input: {} }\n",
    );
    home.run(&["run", "start", &pipeline]).ok();
    let shown = ["audit", "show", "--kind", "denial", "--json"];
    let record: Value = serde_json::from_str(home.run(&shown).ok().stdout.trim()).unwrap();
    assert_eq!(record["plugin"], "learner");
    assert_eq!(record["capability"], "network:access");
    assert_eq!(record["resource"], "evil.example.com:443");
    assert_eq!(
        (&record["rule"], &record["outcome"]),
        (&json!("not_granted"), &json!("denied"))
    );
}
