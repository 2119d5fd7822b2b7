//! Signing with a key that is elsewhere: on another machine, or behind a program.

#![expect(
    clippy::disallowed_types,
    reason = "runs the program that signs; the sandbox is for plugins"
)]

use std::{fs, process::Command};

use serde_json::Value;

use crate::harness::{Done, Home, read};

/// An implementation of Ed25519 that shares nothing with ours. Signs its standard
/// input as `argv[1]` says, or writes the public key.
const PROGRAM: &str = r#"
import base64, sys
sys.path.insert(0, sys.argv[2])
from securesystemslib._vendor.ed25519 import ed25519
seed = bytes(range(32))
public = ed25519.publickey_unsafe(seed)
if sys.argv[1] == "public":
    print("orchestrator-key-v1", base64.b64encode(public).decode(), "hsm")
else:
    message = sys.stdin.buffer.read()
    signature = ed25519.signature_unsafe(message, seed, public)
    if sys.argv[1] == "hex":
        signature = signature.hex().encode()
    if sys.argv[1] == "other":
        signature = ed25519.signature_unsafe(message + b" ", seed, public)
    sys.stdout.buffer.write(signature)
    sys.exit(3 if sys.argv[1] == "fail" else 0)
"#;

/// The command line of the program in one of its modes.
fn program(home: &Home, mode: &str) -> String {
    let library = std::env::var("ORCHESTRATOR_TEST_SECURESYSTEMSLIB").expect(
        "ORCHESTRATOR_TEST_SECURESYSTEMSLIB names the folder of securesystemslib; \
         `cargo xtask test` fetches it",
    );
    let script = home.write("sign.py", PROGRAM);
    let python = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .unwrap();
    let python = String::from_utf8(python.stdout).unwrap();
    format!("{} -I {script} {mode} {library}", python.trim())
}

/// Writes the program's public key; returns its path.
fn public(home: &Home) -> String {
    let line = program(home, "public");
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    home.write("hsm.pub", &String::from_utf8(output.stdout).unwrap())
}

fn code(done: &Done) -> Value {
    done.error()["code"].clone()
}

#[test]
fn a_program_signs() {
    let home = Home::new();
    let package = home.greeter("greeter");
    let public = public(&home);
    home.run(&[
        "trust", "add", &public, "--level", "2", "--names", "greeter",
    ])
    .ok();
    let sign = |mode: &str| {
        let program = program(&home, mode);
        let args = [
            "plugin",
            "sign",
            &package,
            "--key-cmd",
            &program,
            "--public",
            &public,
            "--minisign",
            "--json",
        ];
        home.run(&args)
    };
    for (mode, expected) in [
        ("hex", "ORC-5032"),
        ("other", "ORC-5033"),
        ("fail", "ORC-5030"),
    ] {
        assert_eq!(code(&sign(mode)), expected, "{mode}");
        assert!(
            !home.work().join("greeter/META").exists(),
            "{mode}: nothing is written"
        );
    }
    assert_eq!(sign("sign").ok().json()["name"], "greeter");
    let done = home.run(&["plugin", "verify", &package]).ok();
    assert!(
        done.stderr.contains("META/MANIFEST.minisig is good too"),
        "{}",
        done.stderr
    );

    let missing = ["plugin", "sign", &package, "--key-cmd", "true", "--json"];
    home.run(&missing).with_code(2);
    let both = [
        "plugin",
        "sign",
        &package,
        "--key-cmd",
        "true",
        "--public",
        &public,
        "--key",
        "k",
    ];
    home.run(&both).with_code(2);
}

/// A machine that builds and has no key, and one with the key and no package.
struct Machines {
    build: Home,
    safe: Home,
    package: String,
    /// The public key, and the payload, on the machine that builds.
    release: String,
    payload: String,
}

impl Machines {
    fn new() -> Self {
        let (build, safe) = (Home::new(), Home::new());
        safe.run(&["key", "generate", "release", "--no-passphrase"])
            .ok();
        Self {
            package: build.greeter("greeter"),
            release: safe.root().join("keys/release.pub").display().to_string(),
            payload: build.work().join("payload").display().to_string(),
            build,
            safe,
        }
    }

    /// Writes the payload of a release.
    fn digest(&self, serial: &str) -> Value {
        let (package, out) = (&self.package, &self.payload);
        let args = [
            "plugin", "digest", package, "--serial", serial, "--out", out, "--json",
        ];
        self.build.run(&args).ok().json()
    }

    /// Signs it on the other machine.
    fn sign(&self, more: &[&str]) -> Done {
        let args = [
            "plugin",
            "sign",
            "--detached",
            &self.payload,
            "--key",
            "release",
            "--out",
            "s",
        ];
        self.safe.run(&[&args[..], more].concat()).ok()
    }

    fn attach(&self, more: &[&str]) -> Done {
        let signature = self.safe.work().join("s").display().to_string();
        let args = ["plugin", "attach", &self.package, &signature, "--json"];
        self.build.run(&[&args[..], more].concat())
    }
}

#[test]
fn the_key_stays_on_a_machine_of_its_own() {
    let it = Machines::new();
    let drafted = it.digest("7");
    assert!(!it.build.work().join("greeter/META").exists());
    let sum = Command::new("sha256sum").arg(&it.payload).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let said = drafted["message_sha256"].as_str().unwrap();
    assert!(sum.starts_with(said), "{sum}");

    let signed = it.sign(&["--minisign"]);
    for part in [
        "greeter 0.1.0",
        "release       7",
        "asks for      none",
        "greeter.sh",
    ] {
        let shown = &signed.stderr;
        assert!(shown.contains(part), "{part} in {shown}");
    }
    // Nobody has said whose signature it should be.
    assert_eq!(code(&it.attach(&[]).with_code(6)), "ORC-2073");
    let attached = it.attach(&["--public", &it.release]).ok().json();
    assert_eq!(attached["digest"], drafted["digest"]);
    assert_eq!(attached["minisign"], true);
    let trust = [
        "trust",
        "add",
        &it.release,
        "--level",
        "2",
        "--names",
        "greeter",
    ];
    it.build.run(&trust).ok();
    let done = it.build.run(&["plugin", "verify", &it.package]).ok();
    assert!(
        done.stderr.contains("META/MANIFEST.minisig is good too"),
        "{}",
        done.stderr
    );
}

#[test]
fn what_is_attached_is_of_this_very_release() {
    let it = Machines::new();
    let public = ["--public", it.release.as_str()];
    it.digest("7");
    it.sign(&[]);
    it.attach(&public).ok();
    it.digest("8");
    it.sign(&[]);
    assert_eq!(code(&it.attach(&public).with_code(6)), "ORC-2074");
    it.attach(&[&public[..], &["--replace"]].concat()).ok();
    it.build.write("greeter/greeter.sh", "#!/bin/sh\n");
    let signatures = it.build.work().join("greeter/META/signatures.json");
    let before = read(&signatures);
    let changed = it.attach(&[&public[..], &["--replace"]].concat());
    assert_eq!(code(&changed.with_code(6)), "ORC-2072");
    assert_eq!(read(&signatures), before);

    // What is no release is not signed, whatever it is.
    it.safe.write("root.json", "{\"version\":1}");
    let sign = [
        "plugin",
        "sign",
        "--detached",
        "root.json",
        "--key",
        "release",
        "--out",
        "no",
        "--json",
    ];
    assert_eq!(code(&it.safe.run(&sign).with_code(3)), "ORC-2075");
    assert!(!it.safe.work().join("no").exists());
}

/// Sixty-four bytes from a program that knows nothing of us.
#[test]
fn a_bare_signature_is_attached_with_its_payload() {
    let home = Home::new();
    let package = home.greeter("greeter");
    let public = public(&home);
    home.run(&["plugin", "digest", &package, "--out", "payload"])
        .ok();
    let line = program(&home, "sign");
    let mut words = line.split(' ');
    let payload = fs::File::open(home.work().join("payload")).unwrap();
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).stdin(payload).output().unwrap();
    assert_eq!(output.stdout.len(), 64);
    fs::write(home.work().join("raw"), &output.stdout).unwrap();
    let attach = [
        "plugin",
        "attach",
        &package,
        "raw",
        "--payload",
        "payload",
        "--public",
        &public,
        "--json",
    ];
    home.run(&attach).ok();
    home.run(&[
        "trust", "add", &public, "--level", "2", "--names", "greeter",
    ])
    .ok();
    home.run(&["plugin", "verify", &package]).ok();

    let mut flipped = output.stdout;
    flipped[10] ^= 1;
    fs::write(home.work().join("raw"), flipped).unwrap();
    assert_eq!(code(&home.run(&attach).with_code(6)), "ORC-2073");
}

#[test]
fn an_attestation_is_carried_along_and_listed() {
    let home = Home::new();
    let package = home.greeter("greeter");
    home.run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    home.run(&[
        "trust", "add", "release", "--level", "2", "--names", "greeter",
    ])
    .ok();
    // {"predicateType":"https://slsa.dev/provenance/v1"}
    let payload = "eyJwcmVkaWNhdGVUeXBlIjoiaHR0cHM6Ly9zbHNhLmRldi9wcm92ZW5hbmNlL3YxIn0=";
    let envelope = format!(
        r#"{{"payloadType":"application/vnd.in-toto+json","payload":"{payload}","signatures":[{{"sig":"AA=="}}]}}"#
    );
    let file = home.write("slsa.dsse", &envelope);
    let sign = [
        "plugin", "sign", &package, "--key", "release", "--attest", &file, "--json",
    ];
    home.run(&sign).ok();
    let verified = home
        .run(&["plugin", "verify", &package, "--json"])
        .ok()
        .json();
    let listed = &verified["attestations"][0];
    assert_eq!(listed["path"], "META/slsa.dsse");
    assert_eq!(listed["predicate_type"], "https://slsa.dev/provenance/v1");
    let text = home.run(&["plugin", "verify", &package]).ok().stdout;
    assert!(
        text.contains("META/slsa.dsse: https://slsa.dev/provenance/v1"),
        "{text}"
    );
    home.run(&["plugin", "install", &package]).ok();
    let info = home.run(&["plugin", "info", "greeter", "--json"]).ok();
    assert_eq!(info.json()["attestations"], verified["attestations"]);
    let text = home.run(&["plugin", "info", "greeter"]).ok().stdout;
    assert!(text.contains("carries       META/slsa.dsse: "), "{text}");
    let bad = home.write("bad.dsse", "{}");
    let sign = [
        "plugin", "sign", &package, "--key", "release", "--attest", &bad, "--json",
    ];
    assert_eq!(code(&home.run(&sign).with_code(3)), "ORC-2076");
}
