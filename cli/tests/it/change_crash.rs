//! What is signed and who is trusted is either before or after, wherever a command
//! is killed. The audit log is on, as it is by default.

use std::{fs, path::PathBuf};

use orchestrator_signing::{PublicKey, SecretKey, TrustStore, verify};

use crate::{
    harness::Home,
    install::{home_with_package, sign},
    store_crash::{clear, copy},
    traced::{End, killed_before, moments},
};

/// A home and the folder beside it, and what they were at the beginning.
struct Scene {
    home: Home,
    kept: tempfile::TempDir,
}

impl Scene {
    fn of(home: Home) -> Self {
        let kept = tempfile::tempdir().unwrap();
        let scene = Self { home, kept };
        for (folder, kept) in scene.folders() {
            copy(&folder, &kept);
        }
        scene
    }

    fn folders(&self) -> [(PathBuf, PathBuf); 2] {
        let kept = self.kept.path();
        [
            (self.home.root(), kept.join("home")),
            (self.home.work(), kept.join("work")),
        ]
    }

    fn reset(&self) {
        for (folder, kept) in self.folders() {
            clear(&folder);
            fs::remove_dir_all(&folder).unwrap();
            copy(&kept, &folder);
        }
    }

    /// Kills `args` before the [moments] of it. What `look` sees is then as before or
    /// as after, and the command works when it is given again, or ends with `then`
    /// because it was done. Returns how many calls there are that change files.
    fn kill_everywhere<T: PartialEq + std::fmt::Debug>(
        &self,
        args: &[&str],
        then: i32,
        look: impl Fn(&Home) -> T,
    ) -> usize {
        let before = look(&self.home);
        self.home.run(args).ok();
        let after = look(&self.home);
        assert_ne!(before, after);
        for nth in moments() {
            self.reset();
            let end = killed_before(&self.home.command(args), nth);
            let seen = look(&self.home);
            if end == End::Exited(0) {
                assert_eq!(seen, after);
                return nth;
            }
            assert_eq!(end, End::Killed, "{args:?} before call {nth}");
            assert!(
                seen == before || seen == after,
                "{args:?} before call {nth}: {seen:?}, not {before:?} or {after:?}"
            );
            let again = self.home.run(args);
            let expected = if seen == after { then } else { 0 };
            assert_eq!(
                again.code, expected,
                "{args:?} before call {nth}: {again:?}"
            );
        }
        unreachable!()
    }
}

/// The version of the root, which has to be whole.
fn version(home: &Home) -> u64 {
    let trust = TrustStore::open(&home.root().join("trust")).unwrap();
    trust.root().version()
}

#[test]
fn a_change_of_the_root_killed_anywhere_is_before_or_after() {
    let (home, _) = home_with_package();
    let scene = Scene::of(home);
    let digest = format!("sha256:{}", "0".repeat(64));
    let calls = scene.kill_everywhere(&["trust", "revoke", &digest, "--reason", "it"], 0, version);
    assert!(calls > 5, "{calls}");
}

#[test]
fn an_update_of_the_root_killed_anywhere_is_before_or_after() {
    let (home, _) = home_with_package();
    let end = "2099-01-01T00:00:00Z";
    home.run(&["trust", "propose", "--expires", end, "--out", "next.json"])
        .ok();
    home.run(&["trust", "sign", "next.json", "--own"]).ok();
    let scene = Scene::of(home);
    // Version 2 is there already, and is not the next one.
    let calls = scene.kill_everywhere(&["trust", "update", "next.json"], 6, version);
    assert!(calls > 5, "{calls}");
}

#[test]
fn a_new_root_key_killed_anywhere_is_the_old_one_or_the_new_one() {
    let (home, _) = home_with_package();
    let scene = Scene::of(home);
    let calls = scene.kill_everywhere(&["trust", "rotate", "--root"], 0, |home| {
        let trust = TrustStore::open(&home.root().join("trust")).unwrap();
        // It is there to sign the next version with.
        trust.root().version()
    });
    assert!(calls > 5, "{calls}");
}

#[test]
fn signing_again_killed_anywhere_is_before_or_after() {
    let (home, package) = home_with_package();
    sign(&home, &package, "1");
    let args = [
        "plugin", "sign", &package, "--key", "release", "--serial", "2",
    ];
    home.run(&[&args[..], &["--minisign"]].concat()).ok();
    sign(&home, &package, "1");
    let scene = Scene::of(home);
    let calls = scene.kill_everywhere(&args, 0, |home| {
        let trust = TrustStore::open(&home.root().join("trust")).unwrap();
        let signed = verify(package.as_ref(), &trust.root()).unwrap();
        signed.release().unwrap().serial
    });
    assert!(calls > 3, "{calls}");
}

/// Every key file that there is can be used, and one of the same name can be made.
#[test]
fn a_new_key_killed_anywhere_leaves_whole_files() {
    let (home, _) = home_with_package();
    let scene = Scene::of(home);
    let args = ["key", "rotate", "release", "--no-passphrase"];
    let calls = scene.kill_everywhere(&args, 0, |home| {
        let keys = fs::read_dir(home.root().join("keys")).unwrap();
        let mut is_made = false;
        for entry in keys.map(|entry| entry.unwrap().path()) {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            match entry.extension().and_then(|it| it.to_str()) {
                Some("key") => drop(SecretKey::read_file(&entry, || None).unwrap()),
                Some("pub") => drop(PublicKey::read_file(&entry).unwrap()),
                _ => is_made |= name.ends_with(".rotation.json"),
            }
        }
        is_made
    });
    assert!(calls > 3, "{calls}");
}
