//! The store and the lock file are either before or after, wherever a command
//! is killed and whatever room there is.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use orchestrator_signing::{LockFile, TrustStore, installed, rolled_back, stored, verify};
use rustix::process::Signal;

use crate::{
    harness::{Home, finish, read, signal},
    install::{archive, home_with_package, release},
    traced::{End, killed_before, moments},
};

/// What a person sees of a home: versions in use, versions rolled back, and
/// the lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    used: Vec<String>,
    held: Vec<String>,
    lock: Option<String>,
}

/// What there is; everything in it has to be whole.
fn look(home: &Path) -> Seen {
    let plugins = home.join("plugins");
    let trust = TrustStore::open(&home.join("trust")).unwrap();
    let whole = |versions: Vec<orchestrator_signing::Installed>| {
        let whole = versions.into_iter().map(|one| {
            verify(&one.path, &trust.root()).unwrap();
            one.version
        });
        whole.collect::<Vec<_>>()
    };
    let lock = home.join("orchestrator.lock");
    LockFile::read(&lock).unwrap();
    Seen {
        used: whole(installed(&plugins).unwrap()),
        held: whole(rolled_back(&plugins).unwrap()),
        lock: fs::read_to_string(&lock).ok(),
    }
}

pub(crate) fn copy(from: &Path, to: &Path) {
    let metadata = from.symlink_metadata().unwrap();
    if metadata.is_symlink() {
        std::os::unix::fs::symlink(fs::read_link(from).unwrap(), to).unwrap();
    } else if metadata.is_dir() {
        fs::create_dir(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
        fs::set_permissions(to, metadata.permissions()).unwrap();
    } else {
        fs::copy(from, to).unwrap();
    }
}

pub(crate) fn clear(folder: &Path) {
    if folder.symlink_metadata().is_ok_and(|it| it.is_dir()) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        for entry in fs::read_dir(folder).unwrap() {
            clear(&entry.unwrap().path());
        }
    }
}

/// A home and what it was at the beginning.
struct Scene {
    home: Home,
    package: String,
    kept: PathBuf,
}

impl Scene {
    /// With 0.1.0 installed and written down, and 0.2.0 in the folder it came from.
    fn new() -> Self {
        let (home, package) = home_with_package();
        // It has tests of its own, and would refuse before the store does.
        let config = "[audit]\nenabled = false\n";
        fs::write(home.root().join("config.toml"), config).unwrap();
        home.run(&["plugin", "install", &package]).ok();
        home.run(&["plugin", "lock"]).ok();
        release(&home, &package, "0.2.0", "2");
        let kept = home.work().join("kept");
        copy(&home.root(), &kept);
        Self {
            home,
            package,
            kept,
        }
    }

    /// The same after a command.
    fn after(self, args: &[&str]) -> Self {
        self.home.run(args).ok();
        self.keep();
        self
    }

    /// Begins with what there is now from here on.
    fn keep(&self) {
        clear(&self.kept);
        fs::remove_dir_all(&self.kept).unwrap();
        copy(&self.home.root(), &self.kept);
    }

    fn reset(&self) {
        let root = self.home.root();
        clear(&root);
        fs::remove_dir_all(&root).unwrap();
        copy(&self.kept, &root);
    }

    /// Kills `args` before the [moments] of it, one after the other. Returns how many
    /// calls there are that change files.
    fn kill_everywhere(&self, args: &[&str]) -> usize {
        let (before, after) = self.ends(args);
        for nth in moments() {
            self.reset();
            let end = killed_before(&self.home.command(args), nth);
            if end == End::Exited(0) {
                assert_eq!(look(&self.home.root()), after);
                return nth - 1;
            }
            assert_eq!(end, End::Killed, "{args:?} before call {nth}");
            self.check(args, &before, &after, nth);
        }
        unreachable!()
    }

    fn ends(&self, args: &[&str]) -> (Seen, Seen) {
        self.reset();
        let before = look(&self.home.root());
        self.home.run(args).ok();
        let after = look(&self.home.root());
        assert_ne!(before, after);
        (before, after)
    }

    /// Before or after, and as after once the command is repeated; no litter.
    fn check(&self, args: &[&str], before: &Seen, after: &Seen, nth: usize) {
        let seen = look(&self.home.root());
        // The lock file of an update follows, in a step of its own.
        let is_between = seen.used == after.used && seen.lock == before.lock;
        assert!(
            seen == *before || seen == *after || is_between,
            "{args:?} before call {nth}: {seen:?}"
        );
        if seen != *after {
            self.home.run(args).ok();
            let repeated = look(&self.home.root());
            assert_eq!(repeated, *after, "{args:?} before call {nth}");
        }
        self.home.run(&["plugin", "gc"]).ok();
        let root = self.home.root();
        for folder in ["plugins", "plugins/.store", "trust", "."] {
            for entry in fs::read_dir(root.join(folder)).into_iter().flatten() {
                let name = entry.unwrap().file_name();
                let name = name.to_string_lossy();
                let is_litter = [".incoming-", ".outgoing-", ".staged-"]
                    .iter()
                    .any(|prefix| name.starts_with(prefix));
                assert!(!is_litter, "{args:?} before call {nth}: {folder}/{name}");
            }
        }
    }
}

#[test]
fn an_installation_killed_anywhere_is_before_or_after() {
    let scene = Scene::new();
    let package = scene.package.clone();
    let calls = scene.kill_everywhere(&["plugin", "install", &package]);
    assert!(calls > 20, "{calls}");
}

#[test]
fn an_installation_from_an_archive_killed_anywhere_is_before_or_after() {
    let scene = Scene::new();
    let file = scene.home.work().join("greeter.opkg");
    fs::write(&file, archive(&scene.package)).unwrap();
    let file = file.display().to_string();
    let calls = scene.kill_everywhere(&["plugin", "install", &file]);
    assert!(calls > 30, "{calls}");
}

#[test]
fn an_update_killed_anywhere_is_before_or_after() {
    let scene = Scene::new();
    let calls = scene.kill_everywhere(&["plugin", "update"]);
    assert!(calls > 25, "{calls}");
}

#[test]
fn writing_the_lock_file_killed_anywhere_is_before_or_after() {
    let scene = Scene::new();
    let package = scene.package.clone();
    let scene = scene.after(&["plugin", "install", &package]);
    let calls = scene.kill_everywhere(&["plugin", "lock"]);
    assert!(calls >= 3, "{calls}");
}

#[test]
fn rolling_back_and_removing_killed_anywhere_is_before_or_after() {
    let scene = Scene::new();
    let package = scene.package.clone();
    let scene = scene.after(&["plugin", "install", &package]);
    let (before, after) = scene.ends(&["plugin", "rollback", "greeter"]);
    for nth in moments() {
        scene.reset();
        let args = ["plugin", "rollback", "greeter"];
        if killed_before(&scene.home.command(&args), nth) == End::Exited(0) {
            break;
        }
        let seen = look(&scene.home.root());
        assert!(seen == before || seen == after, "{seen:?}");
    }
    let args = ["plugin", "remove", "greeter", "0.1.0"];
    let (before, after) = scene.ends(&args);
    for nth in moments() {
        scene.reset();
        if killed_before(&scene.home.command(&args), nth) == End::Exited(0) {
            break;
        }
        let seen = look(&scene.home.root());
        assert!(seen == before || seen == after, "{seen:?}");
        scene.home.run(&["plugin", "gc"]).ok();
        assert!(look(&scene.home.root()).used.contains(&"0.2.0".to_owned()));
    }
}

/// What was installed before contents had digests is a folder.
#[test]
fn an_old_home_killed_on_its_way_to_the_present_form_stays_whole() {
    let scene = Scene::new();
    let plugins = scene.home.root().join("plugins");
    let link = plugins.join("greeter/0.1.0");
    let real = stored(&link).unwrap();
    fs::remove_file(&link).unwrap();
    fs::set_permissions(&real, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&real, &link).unwrap();
    fs::remove_dir_all(plugins.join(".store")).unwrap();
    scene.keep();
    let before = look(&scene.home.root());
    let args = ["plugin", "gc"];
    for nth in moments() {
        scene.reset();
        let end = killed_before(&scene.home.command(&args), nth);
        assert_eq!(look(&scene.home.root()), before, "before call {nth}");
        scene.home.run(&args).ok();
        assert_eq!(look(&scene.home.root()), before, "before call {nth}");
        assert!(stored(&link).is_some());
        let left = fs::read_dir(&plugins).unwrap().count();
        assert_eq!(left, 3, "before call {nth}");
        if end == End::Exited(0) {
            break;
        }
    }
}

/// Whatever the kernel was asked at that moment: forty times at random.
#[test]
fn commands_killed_at_any_moment_leave_a_home_before_or_after() {
    let scene = Scene::new();
    let package = scene.package.clone();
    let mut random = fastrand::Rng::with_seed(20);
    for args in [
        ["plugin", "install", &package].as_slice(),
        &["plugin", "update"],
    ] {
        let (before, after) = scene.ends(args);
        for turn in 0..20 {
            scene.reset();
            let child = scene.home.command(args).spawn().unwrap();
            let (_never, receiver) = std::sync::mpsc::channel::<()>();
            let moment = Duration::from_micros(random.u64(0..60_000));
            receiver.recv_timeout(moment).ok();
            signal(child.id(), Signal::KILL);
            finish(child);
            scene.check(args, &before, &after, turn);
        }
    }
}

/// No file may be longer than 512 bytes; the manifest alone is.
#[test]
fn without_room_nothing_changes() {
    let scene = Scene::new();
    let package = scene.package.clone();
    let before = look(&scene.home.root());
    let no_room = "trap '' XFSZ; ulimit -f 0";
    for (args, code) in [
        (
            ["plugin", "install", &package, "--json"].as_slice(),
            "ORC-2156",
        ),
        (&["plugin", "lock", "--json"], "ORC-2164"),
    ] {
        if args[1] == "lock" {
            scene.home.run(&["plugin", "remove", "greeter"]).ok();
        }
        let child = scene.home.command_after(no_room, args).spawn().unwrap();
        let done = finish(child).with_code(1);
        assert_eq!(done.error()["code"], code, "{args:?}");
        let seen = look(&scene.home.root());
        assert_eq!(seen.lock, before.lock);
        if args[1] == "install" {
            assert_eq!(seen, before);
            scene.home.run(&args[..3]).ok();
        }
    }
    scene.home.run(&["plugin", "lock"]).ok();
    assert!(!read(scene.home.root().join("orchestrator.lock")).contains("greeter"));
}
