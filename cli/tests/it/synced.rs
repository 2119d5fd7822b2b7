//! What a command has changed outlasts a power cut: no file gets its name before its
//! bytes are on disk, and no command ends before the names are.
//!
//! Watched from outside, call by call, so that it is the same whoever writes.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::libc;

use crate::{
    harness::{Home, read},
    install::{archive, home_with_package, release},
    traced::{Call, End, traced},
};

/// What lies there is made anew, or its own library sees to it.
const NOT_OURS: [&str; 3] = ["run", "journal", "downloads"];

/// Folders of the home with what a command is about.
const LASTING: [&str; 4] = ["trust", "keys", "plugins", "audit"];

type Inode = (u64, u64);

fn inode(path: &Path) -> Option<Inode> {
    let metadata = path.symlink_metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// What is not on disk for certain, by inode.
struct Unsynced {
    folders: [PathBuf; 2],
    /// Written to.
    files: BTreeMap<Inode, PathBuf>,
    /// Something got a name in it that is to last.
    placed: BTreeMap<Inode, PathBuf>,
    /// Something was made in it, which may be of use to this process alone.
    made: BTreeMap<Inode, PathBuf>,
    faults: Vec<String>,
}

impl Unsynced {
    fn of(home: &Home) -> Self {
        Self {
            folders: [home.root(), home.work()],
            files: BTreeMap::new(),
            placed: BTreeMap::new(),
            made: BTreeMap::new(),
            faults: Vec::new(),
        }
    }

    fn is_ours(&self, path: &Path) -> bool {
        let is_in = |folder: &PathBuf| path.strip_prefix(folder).ok();
        let inner = self.folders.iter().find_map(is_in);
        inner.is_some_and(|inner| !NOT_OURS.iter().any(|it| inner.starts_with(it)))
    }

    /// Takes in a call that is about to be made.
    fn see(&mut self, call: &Call) {
        let arguments = call.arguments;
        let at = |folder: usize, path: usize| call.path(arguments[folder], arguments[path]);
        let here = |path: usize| call.path_here(arguments[path]);
        match call.number {
            libc::SYS_fsync | libc::SYS_fdatasync => self.synced(call, arguments[0]),
            libc::SYS_write
            | libc::SYS_writev
            | libc::SYS_pwrite64
            | libc::SYS_pwritev
            | libc::SYS_sendfile
            | libc::SYS_ftruncate => self.written(call, arguments[0]),
            libc::SYS_copy_file_range | libc::SYS_splice => self.written(call, arguments[2]),
            libc::SYS_openat if arguments[2] & libc::O_CREAT as u64 != 0 => self.made(&at(0, 1)),
            libc::SYS_unlink | libc::SYS_rmdir => self.gone(&here(0)),
            libc::SYS_unlinkat => self.gone(&at(0, 1)),
            libc::SYS_mkdir => self.new_folder(&here(0)),
            libc::SYS_mkdirat => self.new_folder(&at(0, 1)),
            libc::SYS_symlink => self.made(&here(1)),
            libc::SYS_symlinkat => self.made(&at(1, 2)),
            libc::SYS_rename => self.placed(&here(0), &here(1), false),
            libc::SYS_renameat => self.placed(&at(0, 1), &at(2, 3), false),
            // Nothing is there that would be replaced.
            libc::SYS_link => self.placed(&here(0), &here(1), true),
            libc::SYS_linkat => self.placed(&at(0, 1), &at(2, 3), true),
            libc::SYS_renameat2 => {
                let is_exchange = arguments[4] & u64::from(libc::RENAME_EXCHANGE) != 0;
                self.placed(&at(0, 1), &at(2, 3), is_exchange);
                if is_exchange {
                    self.placed(&at(2, 3), &at(0, 1), true);
                }
            }
            _ => {}
        }
    }

    fn written(&mut self, call: &Call, descriptor: u64) {
        if let Some((inode, path)) = call.file(descriptor)
            && path.is_absolute()
        {
            self.files.insert(inode, path);
        }
    }

    fn synced(&mut self, call: &Call, descriptor: u64) {
        if let Some((inode, _)) = call.file(descriptor) {
            self.forget(inode);
        }
    }

    /// Its inode is another file's next.
    fn gone(&mut self, path: &Path) {
        if let Some(inode) = inode(path) {
            self.forget(inode);
        }
    }

    fn forget(&mut self, inode: Inode) {
        for unsynced in [&mut self.files, &mut self.placed, &mut self.made] {
            unsynced.remove(&inode);
        }
    }

    fn made(&mut self, path: &Path) {
        let parent = path.parent().unwrap();
        if let Some(inode) = inode(parent).filter(|_| path.symlink_metadata().is_err()) {
            self.made.insert(inode, parent.to_owned());
        }
    }

    /// A folder whose name is for good when it is made.
    fn new_folder(&mut self, path: &Path) {
        self.made(path);
        let parent = path.parent().unwrap();
        let is_to_last = LASTING.iter().any(|name| path.ends_with(name));
        if let Some(inode) = inode(parent).filter(|_| is_to_last && !path.exists()) {
            self.placed.insert(inode, parent.to_owned());
        }
    }

    /// The file or folder at `from` gets the name `to`. What had it before `stays`
    /// somewhere, or is gone.
    fn placed(&mut self, from: &Path, to: &Path, stays: bool) {
        if !self.is_ours(to) {
            return;
        }
        // What is about to be done is on record before it is done.
        let is_record = |path: &&PathBuf| path.extension().is_some_and(|it| it == "ndjson");
        let mut records = self.files.values().filter(is_record);
        if let Some(record) = records.find(|it| it.parent() != from.parent()) {
            let fault = format!("{} came before {}", to.display(), record.display());
            self.faults.push(fault);
        }
        // What is thrown away, and what is there for this process alone, has such a name.
        let is_hidden = |path: &Path| {
            let inner = self
                .folders
                .iter()
                .find_map(|it| path.strip_prefix(it).ok());
            let mut parts = inner.into_iter().flat_map(Path::iter);
            parts.any(|part| part.to_string_lossy().starts_with(".outgoing-"))
        };
        if !is_hidden(to) {
            self.whole(from, to);
        }
        if !stays {
            self.gone(to);
        }
        // A name of a file that is not whole yet may outlast it.
        let was_staged = from.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.starts_with(".staged-")
        });
        // A file without a name lies in no folder of ours.
        let parents = [(from, !was_staged), (to, true)];
        for parent in parents.iter().filter(|it| it.1).map(|it| it.0.parent()) {
            let parent = parent.unwrap();
            if let Some(inode) = inode(parent).filter(|_| self.is_ours(parent)) {
                self.placed.insert(inode, parent.to_owned());
            }
        }
    }

    /// All that gets a name with `path` has to be on disk.
    fn whole(&mut self, path: &Path, to: &Path) {
        // A file without a name is named after its descriptor.
        let found = match path.starts_with("/proc") {
            true => path.metadata().map(|it| (it.dev(), it.ino())).ok(),
            false => inode(path),
        };
        let Some(found) = found else { return };
        let is_a = |what: fn(&fs::FileType) -> bool| {
            let metadata = path.symlink_metadata();
            metadata.is_ok_and(|it| what(&it.file_type()))
        };
        let is_folder = is_a(fs::FileType::is_dir);
        if is_a(fs::FileType::is_symlink) && !path.starts_with("/proc") {
            // It has nothing in it that could be synced.
            return;
        }
        for unsynced in [&self.files, &self.placed, &self.made] {
            if unsynced.contains_key(&found) {
                let fault = format!("{} became {} unsynced", path.display(), to.display());
                self.faults.push(fault);
            }
        }
        for entry in is_folder
            .then(|| fs::read_dir(path).unwrap())
            .into_iter()
            .flatten()
        {
            let entry = entry.unwrap();
            self.whole(&entry.path(), &to.join(entry.file_name()));
        }
    }

    /// What is wrong when the command has ended.
    fn faults(mut self) -> Vec<String> {
        let left = self.files.iter().chain(&self.placed);
        let left: Vec<_> = left
            .filter(|(known, path)| self.is_ours(path) && inode(path) == Some(**known))
            .map(|(_, path)| format!("{} is not synced at the end", path.display()))
            .collect();
        self.faults.extend(left);
        self.faults
    }
}

/// Runs a command, which has to keep to the rules and change something.
fn durable(home: &Home, args: &[&str]) {
    let mut unsynced = Unsynced::of(home);
    let mut syncs = 0;
    let end = traced(&home.command(args), |call| {
        syncs += usize::from(matches!(call.number, libc::SYS_fsync | libc::SYS_fdatasync));
        unsynced.see(call);
    });
    assert_eq!(end, End::Exited(0), "{args:?}");
    assert_eq!(unsynced.faults(), [] as [&str; 0], "{args:?}");
    assert!(syncs > 1, "{args:?}: {syncs}");
}

#[test]
fn trust_and_keys_outlast_a_power_cut() {
    let home = Home::new();
    let all = "2099-01-01";
    let digest = format!("sha256:{}", "0".repeat(64));
    for line in [
        "key generate release --no-passphrase".to_owned(),
        "trust add release --level 3 --names *".to_owned(),
        format!("trust revoke {digest} --reason it"),
        "trust rotate --root".to_owned(),
        "key rotate release --no-passphrase".to_owned(),
        "key revoke release --reason it".to_owned(),
    ] {
        let args: Vec<_> = line.split(' ').collect();
        durable(&home, &args);
    }
    home.run(&["trust", "propose", "--expires", all, "--out", "next.json"])
        .ok();
    home.run(&["trust", "sign", "next.json", "--own"]).ok();
    durable(&home, &["trust", "update", "next.json"]);
}

#[test]
fn packages_and_grants_outlast_a_power_cut() {
    let (home, package) = home_with_package();
    durable(&home, &["plugin", "install", &package]);
    durable(&home, &["plugin", "lock"]);
    durable(
        &home,
        &["plugin", "grant", "greeter", "process:spawn=/bin/sh"],
    );
    durable(
        &home,
        &[
            "plugin", "sign", &package, "--key", "release", "--serial", "1",
        ],
    );
    release(&home, &package, "0.2.0", "2");
    durable(&home, &["plugin", "update"]);
    durable(&home, &["plugin", "rollback", "greeter"]);
    durable(&home, &["plugin", "install", &package]);
    durable(&home, &["plugin", "remove", "greeter", "0.1.0"]);
    release(&home, &package, "0.3.0", "3");
    let file = home.work().join("greeter.opkg");
    fs::write(&file, archive(&package)).unwrap();
    durable(&home, &["plugin", "install", file.to_str().unwrap()]);
    durable(&home, &["plugin", "revoke", "greeter"]);
}

#[test]
fn a_new_audit_log_outlasts_a_power_cut() {
    let home = Home::with_greeter();
    let log = home.root().join("audit/00000000000000000000.ndjson");
    let lines = read(&log);
    fs::write(&log, lines.lines().next().unwrap().to_owned() + "\n").unwrap();
    durable(&home, &["audit", "repair"]);
}
