//! The files of a trust store: what may lie there, and what was there before.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use orchestrator_signing::{Delegation, Digest, NamePattern, TrustLevel, TrustStore};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    fixture::code,
    root::{following, key, root_text, signed},
};

struct Store(TempDir);

impl Store {
    /// Whose root has been changed once.
    fn changed() -> Self {
        let store = Self(tempfile::tempdir().unwrap());
        store.open().init().unwrap();
        store.open().add(terms()).unwrap();
        store
    }

    fn dir(&self) -> std::path::PathBuf {
        self.0.path().join("trust")
    }

    fn open(&self) -> TrustStore {
        TrustStore::open(&self.dir()).unwrap()
    }

    fn refusal(&self) -> String {
        match TrustStore::open(&self.dir()) {
            Ok(store) => format!("version {}", store.root().version()),
            Err(error) => code(&error),
        }
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.dir().join(file)).unwrap()
    }

    fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.dir().join(file), bytes).unwrap();
    }

    fn anchor(&self) -> Value {
        serde_json::from_slice(&self.read("anchor.json")).unwrap()
    }
}

fn terms() -> Delegation {
    let names = vec![NamePattern::parse("demo").unwrap()];
    Delegation::new(key("release").public().clone(), TrustLevel::Partner, names)
}

/// Somebody who can write to the folder, or a tool that copies files, puts a
/// root there that signed itself.
#[test]
fn a_root_that_came_another_way_is_refused_though_it_signed_itself() {
    let store = Store::changed();
    let (mine, stranger) = (store.read("root.json"), key("stranger"));
    for version in [2, 3, 1_000] {
        let foreign = signed(&root_text(version, &[&stranger], 1), &[&stranger]);
        store.write("root.json", foreign);
        assert_eq!(store.refusal(), "ORC-2081", "version {version}");
    }
    store.write("root.json", &mine);
    assert_eq!(store.refusal(), "version 2");
    fs::remove_file(store.dir().join("anchor.json")).unwrap();
    assert_eq!(
        store.refusal(),
        "ORC-2081",
        "nothing says which root it was"
    );
}

#[test]
fn a_root_that_is_gone_or_went_back_is_refused() {
    let store = Store(tempfile::tempdir().unwrap());
    store.open().init().unwrap();
    let first = store.read("root.json");
    store.open().add(terms()).unwrap();
    let second = store.read("root.json");
    store.write("root.json", first);
    assert_eq!(store.refusal(), "ORC-2081");
    fs::remove_file(store.dir().join("root.json")).unwrap();
    assert_eq!(store.refusal(), "ORC-2081");
    let names = vec![NamePattern::parse("other").unwrap()];
    let more = Delegation::new(key("more").public().clone(), TrustLevel::Partner, names);
    let error = TrustStore::open(&store.dir()).and_then(|mut it| it.add(more));
    assert_eq!(
        code(&error.unwrap_err()),
        "ORC-2081",
        "nor is it begun anew"
    );
    store.write("root.json", second);
    assert_eq!(store.refusal(), "version 2");
}

/// Each state that a host leaves which is killed while it stores a root.
#[test]
fn every_moment_of_storing_a_root_leaves_the_old_or_the_new_one() {
    let store = Store(tempfile::tempdir().unwrap());
    store.open().init().unwrap();
    let (old, old_anchor) = (store.read("root.json"), store.anchor());
    store.open().add(terms()).unwrap();
    let (new, new_anchor) = (store.read("root.json"), store.anchor());
    let mut between = old_anchor.clone();
    between["next"] = json!(Digest::of(&new));
    for (anchor, root, version) in [
        (&old_anchor, &old, 1),
        (&between, &old, 1),
        (&between, &new, 2),
        (&new_anchor, &new, 2),
    ] {
        store.write("anchor.json", anchor.to_string());
        store.write("root.json", root);
        assert_eq!(store.refusal(), format!("version {version}"));
        // And the same is tried again.
        let names = vec![NamePattern::parse("again").unwrap()];
        let again = Delegation::new(key("again").public().clone(), TrustLevel::Partner, names);
        store.open().add(again).unwrap();
        assert_eq!(store.refusal(), format!("version {}", version + 1));
    }
    // The very first root, before and after it has its name.
    let first = Store(tempfile::tempdir().unwrap());
    fs::create_dir(first.dir()).unwrap();
    fs::set_permissions(
        first.dir(),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    first.write(
        "anchor.json",
        json!({ "version": 0, "next": Digest::of(&old) }).to_string(),
    );
    assert_eq!(first.refusal(), "version 0");
    first.write("root.json", &old);
    assert_eq!(first.refusal(), "version 1");
}

#[test]
fn a_store_of_an_earlier_release_is_read_and_then_kept_better() {
    let store = Store::changed();
    store.write("anchor.json", r#"{"version":2}"#);
    assert_eq!(store.refusal(), "version 2");
    store.write("anchor.json", r#"{"version":3}"#);
    assert_eq!(store.refusal(), "ORC-2081");
    store.write("anchor.json", r#"{"version":2}"#);
    let names = vec![NamePattern::parse("more").unwrap()];
    let more = Delegation::new(key("more").public().clone(), TrustLevel::Partner, names);
    store.open().add(more).unwrap();
    let digest = json!(Digest::of(&store.read("root.json")));
    assert_eq!(store.anchor()["sha256"], digest);
}

/// Whoever only reads takes no lock, and never sees half of a change.
#[test]
fn readers_see_the_old_or_the_new_root_while_it_changes() {
    let (a, dir_and_store) = (key("a"), following);
    let (dir, mut store) = dir_and_store(&[&a], 1);
    let path = dir.path().join("trust");
    let is_over = Arc::new(AtomicBool::new(false));
    let reader = {
        let is_over = Arc::clone(&is_over);
        thread::spawn(move || {
            let (mut last, mut reads) = (1, 0_u32);
            while !is_over.load(Ordering::Relaxed) {
                let version = TrustStore::open(&path).unwrap().root().version();
                assert!(version >= last, "{version} after {last}");
                last = version;
                reads += 1;
            }
            reads
        })
    };
    for version in 2..60 {
        let next = signed(&root_text(version, &[&a], 1), &[&a]);
        store.apply_root(next.as_bytes()).unwrap();
    }
    is_over.store(true, Ordering::Relaxed);
    assert!(reader.join().unwrap() > 20);
}
