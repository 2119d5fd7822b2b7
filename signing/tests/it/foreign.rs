//! Package signatures, as other implementations of DSSE and in-toto see them.
#![expect(
    clippy::disallowed_types,
    reason = "runs another verifier; the sandbox is for plugins"
)]

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::Value;

use crate::fixture::Fixture;

/// Verifies the envelope `argv[1]` with the 32 hex bytes of `argv[2]`, by nothing
/// of ours, and writes the payload.
const VERIFY: &str = "\
import json, sys
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
envelope = json.load(open(sys.argv[1]))
keyid = envelope['signatures'][0]['keyid']
key = SSlibKey(keyid, 'ed25519', 'ed25519', {'public': sys.argv[2]})
envelope = Envelope.from_dict(envelope)
assert list(envelope.verify([key], 1)) == [keyid]
sys.stdout.write(envelope.payload.decode())
";

fn verify(fixture: &Fixture) -> Output {
    let path = std::env::var_os("ORCHESTRATOR_TEST_SECURESYSTEMSLIB").expect(
        "ORCHESTRATOR_TEST_SECURESYSTEMSLIB names the folder of securesystemslib; \
         `cargo xtask test` fetches it",
    );
    let public = fixture.key.public().as_bytes();
    let public: String = public.iter().map(|byte| format!("{byte:02x}")).collect();
    Command::new("python3")
        .args(["-I", "-c"])
        .arg(format!(
            "import sys; sys.path.insert(0, {path:?})\n{VERIFY}"
        ))
        .arg(fixture.file("META/signatures.json"))
        .arg(public)
        .output()
        .unwrap()
}

#[test]
fn another_implementation_of_dsse_agrees() {
    let fixture = Fixture::signed();
    let done = verify(&fixture);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let statement: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicate"]["serial"], 5);
    let subjects = statement["subject"].as_array().unwrap();
    assert!(
        subjects
            .iter()
            .any(|subject| subject["name"] == "META/MANIFEST")
    );

    // And disagrees with what it should.
    let file = fixture.file("META/signatures.json");
    let good = fs::read_to_string(&file).unwrap();
    let renamed = good.replace(
        "application/vnd.in-toto+json",
        "application/vnd.in-toto+jsom",
    );
    assert_ne!(renamed, good);
    fs::write(&file, renamed).unwrap();
    let done = verify(&fixture);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(
        !done.status.success() && said.contains("VerificationError"),
        "{said}"
    );
}
