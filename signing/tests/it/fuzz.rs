//! Every parser of bytes from outside gets bytes that nobody would write: no
//! panic, and no more memory than a parser needs.
//!
//! To add a parser: one `#[test]` at the bottom that names itself, gives a few
//! good inputs to start from, and feeds what it is given to the parser. Each
//! runs for [`SECONDS`] in a process of its own; set `ORCHESTRATOR_FUZZ_SECONDS`
//! for longer. A failure says where the input is; `ORCHESTRATOR_FUZZ_INPUT` with
//! that file plays it again.
#![expect(
    clippy::disallowed_types,
    reason = "runs this test again with less memory; the sandbox is for plugins"
)]

mod mutate;

use std::{
    env,
    fs::{self, File},
    io::{Seek as _, Write as _},
    path::Path,
    process::Command,
    time::Duration,
};

use arbtest::arbtest;
use flate2::read::GzDecoder;
use orchestrator_manifest::{Format, Manifest};
use orchestrator_signing::{
    Delegation, Draft, Envelope, Grant, GrantStore, LockFile, MinisignSignature, NamePattern,
    Protection, PublicKey, ReleasePayload, RootFile, SecretKey, SignOptions, TrustLevel,
    TrustStore, archive,
    audit::{Proof, VerifierKey, prove, verifier_key},
};
use rustix::process::{Resource, Rlimit, setrlimit};

use self::mutate::mutated;
use crate::{
    archive::{gzip, packed, sealed},
    audit::{event, open},
    fixture::{Fixture, MANIFEST},
};

/// How long each parser is tried.
const SECONDS: u64 = 5;
/// Bytes that the process may have: what a test needs, and some for the parser.
const MEMORY_MAX: u64 = 96 << 20;
/// Says to the process that it is the one with less memory, and where it keeps
/// the input that it is at.
const INNER: &str = "ORCHESTRATOR_TEST_FUZZ";

/// Runs the test `name` again with little memory, and there feeds `parse` with
/// mutations of `seeds`, all of which it has to take.
fn fuzz(name: &str, seeds: &[&[u8]], mut parse: impl FnMut(&[u8]) -> bool) {
    if let Some(input) = env::var_os("ORCHESTRATOR_FUZZ_INPUT") {
        parse(&fs::read(input).unwrap());
        return;
    }
    let Some(input) = env::var_os(INNER) else {
        return outer(name);
    };
    for seed in seeds {
        assert!(parse(seed), "not a good input: {}", text(seed));
    }
    let limit = Some(MEMORY_MAX);
    let (current, maximum) = (limit, limit);
    setrlimit(Resource::Data, Rlimit { current, maximum }).unwrap();
    let seconds = env::var("ORCHESTRATOR_FUZZ_SECONDS").ok();
    let seconds = seconds.map_or(SECONDS, |seconds| seconds.parse().unwrap());
    let mut input = File::create(input).unwrap();
    arbtest(|random| {
        let bytes = mutated(seeds, random)?;
        input.set_len(0).unwrap();
        input.rewind().unwrap();
        input.write_all(&bytes).unwrap();
        parse(&bytes);
        Ok(())
    })
    .budget(Duration::from_secs(seconds))
    .run();
}

/// The process that outlives an input that is too much for the other.
fn outer(name: &str) {
    let input = tempfile::Builder::new()
        .prefix(&format!("fuzz-{name}-"))
        .tempfile_in(env!("CARGO_TARGET_TMPDIR"))
        .unwrap();
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", &format!("fuzz::{name}"), "--nocapture"])
        .env(INNER, input.path())
        .output()
        .unwrap();
    let ran = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    if !output.status.success() || !ran {
        let text = String::from_utf8_lossy(&output.stderr);
        let (_, input) = input.keep().unwrap();
        panic!("{} with {}\n{text}", output.status, input.display());
    }
}

/// Bytes that have to be text before a parser sees them.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn manifests() {
    let json = br#"{"name":"demo","version":"1.0.0","description":"d","entry_point":"bin/run"}"#;
    let toml =
        b"name = \"demo\"\nversion = \"1.0.0\"\ndescription = \"d\"\nentry_point = \"run\"\n";
    let seeds = [MANIFEST.as_bytes(), json, toml];
    fuzz("manifests", &seeds, |bytes| {
        let formats = [Format::Yaml, Format::Json, Format::Toml];
        let parsed = formats.map(|format| Manifest::parse(bytes, format, "plugin").is_ok());
        parsed.contains(&true)
    });
}

#[test]
fn envelopes() {
    let fixture = Fixture::signed();
    let envelope = fs::read(fixture.file("META/signatures.json")).unwrap();
    fuzz("envelopes", &[&envelope], |bytes| {
        let Ok(envelope) = Envelope::parse(bytes) else {
            return false;
        };
        let text = envelope.to_json();
        let again = Envelope::parse(text.as_bytes()).unwrap();
        assert_eq!(again.to_json(), text);
        true
    });
}

#[test]
fn roots() {
    let fixture = Fixture::signed();
    let key = SecretKey::generate("root").unwrap();
    let names = vec![NamePattern::parse("com.acme.*").unwrap()];
    let delegation = Delegation::new(key.public().clone(), TrustLevel::Partner, names);
    fixture.store().add(delegation).unwrap();
    let root = fs::read(fixture.path("trust/root.json")).unwrap();
    fuzz("roots", &[&root], |bytes| {
        let root = RootFile::parse(bytes);
        root.is_ok_and(|root| RootFile::parse(root.to_json().as_bytes()).is_ok())
    });
}

#[test]
fn lock_files() {
    let key = SecretKey::generate("release").unwrap().public().id();
    let digest = "0".repeat(64);
    let lock = format!(
        "version = 1\n\n[[plugin]]\nname = \"demo\"\nversion = \"1.0.0\"\nsource = \"/demo\"\n\
         statement = \"sha256:{digest}\"\nkeys = [\"{key}\"]\nroot_version = 1\nserial = 5\n\
         grants = \"sha256:{digest}\"\ntrees = {{ any = \"sha256:{digest}\" }}\n"
    );
    fuzz("lock_files", &[lock.as_bytes()], |bytes| {
        let lock = LockFile::parse(&text(bytes));
        lock.is_ok_and(|lock| LockFile::parse(&lock.to_text().unwrap()).is_ok())
    });
}

#[test]
fn archives() {
    let fixture = Fixture::signed();
    fixture.write(&format!("assets/{}", "f".repeat(130)), b"long", 0o644);
    fixture.sign(6);
    let whole = packed(&fixture);
    let mut tar = Vec::new();
    std::io::copy(&mut GzDecoder::new(&whole[..]), &mut tar).unwrap();
    let dest = tempfile::tempdir().unwrap();
    fuzz("archives", &[&whole, &tar], |bytes| {
        // As it comes; beneath a seal; and beneath the compression too.
        let ways = [bytes.to_vec(), sealed(bytes.to_vec()), sealed(gzip(bytes))];
        ways.map(|bytes| unpacks(&bytes, dest.path()))
            .contains(&true)
    });
}

fn unpacks(bytes: &[u8], dest: &Path) -> bool {
    let is_good = archive::unpack(bytes, dest).is_ok();
    assert_eq!(fs::read_dir(dest).unwrap().count(), 0);
    is_good
}

#[test]
fn minisign_files() {
    let key = SecretKey::generate("release").unwrap();
    let public = key.public().to_minisign();
    let signature = MinisignSignature::sign(&key, b"file", "said so").unwrap();
    let seeds = [public.into_bytes(), signature.to_text().into_bytes()];
    let seeds = seeds.each_ref().map(Vec::as_slice);
    fuzz("minisign_files", &seeds, |bytes| {
        let text = text(bytes);
        // Without its passphrase, an encrypted key costs nothing.
        let _ = SecretKey::from_minisign(&text, "release", || None);
        let signature = MinisignSignature::parse(&text);
        let again = signature.map(|it| MinisignSignature::parse(&it.to_text()) == Ok(it));
        again == Ok(true) || PublicKey::from_minisign(&text, "release").is_ok()
    });
}

#[test]
fn release_payloads() {
    let fixture = Fixture::unsigned();
    let draft = Draft::new(&fixture.dir(), &SignOptions::new(5)).unwrap();
    fuzz("release_payloads", &[&draft.payload().message()], |bytes| {
        let payload = ReleasePayload::from_message(bytes, Path::new("payload"));
        // What is signed is what was given, to the last byte.
        payload.is_ok_and(|payload| payload.message() == bytes)
    });
}

#[test]
fn proofs_of_the_audit_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    for number in 0..5 {
        log.record(event(number)).wait().unwrap();
    }
    drop(log);
    let key = verifier_key(dir.path()).unwrap();
    let (line, proof) = prove(dir.path(), &key, 2).unwrap();
    let seeds = [
        proof.to_text(),
        proof.checkpoint.clone(),
        key.to_text(),
        format!("{}\n", key.to_text()),
    ];
    let seeds = seeds.each_ref().map(String::as_bytes);
    fuzz("proofs_of_the_audit_log", &seeds, |bytes| {
        // Nothing makes a checkpoint speak of another tree.
        let opened = key.open(bytes, "the note");
        if let Ok(checkpoint) = &opened {
            assert_eq!(checkpoint.size, 5);
        }
        let text = text(bytes);
        let proof = Proof::parse(&text);
        if let Ok(proof) = &proof {
            assert_eq!(Proof::parse(&proof.to_text()).unwrap(), *proof);
            assert!(proof.verify(&line, &key).is_err() || proof.seq == 2);
            assert!(proof.verify(b"another line", &key).is_err());
        }
        let read = VerifierKey::parse(&text);
        if let Ok(read) = &read {
            assert_eq!(VerifierKey::parse(&read.to_text()).unwrap(), *read);
        }
        opened.is_ok() || proof.is_ok() || read.is_ok()
    });
}

/// What a home keeps for itself: a backup that was cut short, or somebody's hand.
fn home_files(name: &str, file: &Path, mut opens: impl FnMut() -> bool) {
    let good = fs::read(file).unwrap();
    fuzz(name, &[&good], |bytes| {
        fs::write(file, bytes).unwrap();
        opens()
    });
}

#[test]
fn grants() {
    let fixture = Fixture::signed();
    let path = fixture.path("grants.toml");
    let package = fixture.verify().unwrap();
    let capabilities = package.manifest().capabilities.clone();
    let grant = Grant::for_package(&package, capabilities, "a person");
    GrantStore::open(&path).unwrap().grant(grant).unwrap();
    home_files("grants", &path, || {
        let store = GrantStore::open(&path);
        store.is_ok_and(|store| {
            // Whatever it says, it is asked and answers.
            let _ = store.check(&package);
            true
        })
    });
}

/// A host that has installed something, in which one file is another.
fn trust_file(name: &str, file: &str) {
    let fixture = Fixture::signed();
    let plugins = fixture.path("plugins");
    let options = orchestrator_signing::InstallOptions::default();
    orchestrator_signing::install(&fixture.dir(), &mut fixture.store(), &plugins, options).unwrap();
    let trust = fixture.path("trust");
    home_files(name, &trust.join(file), || {
        let store = TrustStore::open(&trust);
        store.is_ok_and(|store| {
            let _ = orchestrator_signing::verify(&fixture.dir(), &store.root());
            true
        })
    });
}

#[test]
fn serials() {
    trust_file("serials", "serials.json");
}

#[test]
fn anchors() {
    trust_file("anchors", "anchor.json");
}

#[test]
fn secret_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("release.key");
    let key = SecretKey::generate("release").unwrap();
    key.write_file(&path, &Protection::None).unwrap();
    home_files("secret_keys", &path, || {
        SecretKey::read_file(&path, || None).is_ok_and(|key| !key.public().name().is_empty())
    });
}
