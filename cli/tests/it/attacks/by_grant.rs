//! What a plugin reaches with each grant, and that this is all: every probe is tried with
//! every grant, at both levels that are confined.

use std::{
    collections::BTreeSet,
    os::unix::{fs::MetadataExt as _, net::UnixDatagram},
};

use super::*;
use crate::users::WITHOUT_NAMESPACES;

/// Of `more.c`: files and what is known of them.
const FILES: [&str; 43] = [
    "granted",
    "granted-stat",
    "granted-write",
    "granted-create",
    "granted-chmod",
    "granted-times",
    "granted-setxattr",
    "granted-rename",
    "granted-mkfifo",
    "dotdot",
    "beside",
    "link",
    "new-link",
    "hard-link",
    "hard-link-out",
    "rename-in",
    "rename-out",
    "exchange",
    "self-root",
    "first-root",
    "first-cwd",
    "known-handle",
    "list",
    "enter",
    "make",
    "make-link",
    "make-pipe",
    "remove",
    "access",
    "readlink",
    "statx",
    "statfs",
    "getxattr",
    "listxattr",
    "chown",
    "lchown",
    "setxattr",
    "removexattr",
    "fanotify",
    "passwords",
    "kernel",
    "devices",
    "terminal",
];
/// Of `more.c`: the network, other processes, the machine.
const OTHERS: [&str; 44] = [
    "tcp-connect",
    "tcp-connect-other",
    "tcp-bind",
    "udp-send",
    "udp-connect",
    "mptcp-connect",
    "sctp",
    "raw6",
    "alg",
    "unix-path",
    "unix-datagram",
    "unix-abstract",
    "unix-bind",
    "pair-to-path",
    "proxied",
    "proxied-other",
    "victim-seen",
    "victim-cwd",
    "victim-root",
    "victim-environ",
    "victim-memory",
    "parent-environ",
    "signal-all",
    "signal-group",
    "signal-by-descriptor",
    "signal-queued",
    "limit-host",
    "set-limit",
    "scheduler",
    "io-priority",
    "seen-affinity",
    "granted-program",
    "other-program",
    "copied-program",
    "request-key",
    "memory",
    "load",
    "machine-memory",
    "secret-variable",
    "other-variable",
    "descriptors",
    "priority",
    "affinity",
    "prlimit",
];
/// Of `probes.c`.
const CALLS: [&str; 52] = [
    "read",
    "write",
    "truncate",
    "stat",
    "chmod",
    "utimes",
    "inotify",
    "notify",
    "lease",
    "handle",
    "tcp",
    "tcp6",
    "udp",
    "mptcp",
    "raw",
    "unix",
    "netlink",
    "packet",
    "vsock",
    "every-family",
    "fast-open",
    "linger",
    "io-uring",
    "ptrace",
    "traceme",
    "vm-read",
    "getfd",
    "signal",
    "kcmp",
    "keyctl",
    "add-key",
    "bpf",
    "perf",
    "userfaultfd",
    "shm",
    "mq",
    "personality",
    "sysinfo",
    "unshare",
    "clone-namespace",
    "clone3",
    "fork",
    "mount",
    "chroot",
    "setns",
    "injection",
    "reexec",
    "memfd-exec",
    "guessed-token",
    "thread",
    "option",
    "stream-pair",
];
/// All of TCP and UDP.
const INTERNET: [&str; 9] = [
    "tcp",
    "tcp6",
    "udp",
    "tcp-connect",
    "tcp-connect-other",
    "tcp-bind",
    "udp-send",
    "udp-connect",
    "every-family",
];
/// What every program may.
const ALWAYS: [&str; 3] = ["thread", "option", "stream-pair"];

fn probes() -> Vec<&'static str> {
    FILES.into_iter().chain(OTHERS).chain(CALLS).collect()
}

/// A scene with more in it.
pub(super) struct Furnished {
    pub(super) scene: Scene,
    _datagrams: UnixDatagram,
}

impl Furnished {
    pub(super) fn new(user: User) -> Self {
        let scene = Scene::new(user);
        let secret = scene.home.work().join("secret");
        symlink("file", secret.join("link")).unwrap();
        Self {
            _datagrams: UnixDatagram::bind(secret.join("datagrams")).unwrap(),
            scene,
        }
    }

    /// Installs the plugin with what it is granted.
    fn grant(self, grants: &[&str]) -> Self {
        self.with(&probes(), grants)
    }

    /// The same with these probes alone.
    pub(super) fn with(self, phases: &[&str], grants: &[&str]) -> Self {
        let program = self.compiled(phases);
        let each = phases.iter();
        let each = each.map(|it| format!("{{ name: {it}, effect: pure, max_retries: 0 }}"));
        let phases = each.collect::<Vec<_>>().join(", ");
        let manifest = format!("phases: [{phases}]\n");
        self.scene.install(&manifest, &program, grants);
        self
    }

    fn compiled(&self, phases: &[&str]) -> Vec<u8> {
        let secret = self.scene.home.work().join("secret/file");
        let handle = built(&self.scene, "handle", include_str!("handle.c"));
        let handle = Command::new(handle).arg(secret).output().unwrap();
        assert!(handle.status.success());
        let phases: Vec<_> = phases.iter().map(|it| format!("\\\"{it}\\\"")).collect();
        let more = include_str!("more.c")
            .replace("@PHASES@", &phases.join(","))
            .replace("@HANDLE@", &String::from_utf8(handle.stdout).unwrap());
        let more = self.scene.filled(&more);
        let program = built(
            &self.scene,
            "attacker",
            &format!("#define main of_probes\n{TRIES}\n{more}"),
        );
        fs::read(program).unwrap()
    }

    /// Whether a control group counts its memory: where none does, it makes no file there.
    fn counts_memory(&self) -> bool {
        self.scene.trust("1");
        let info = ["plugin", "info", "attacker", "--json"];
        let info = self.scene.run(&info).ok().json();
        let by = info["limits_held"][0]["by"][0].as_str().unwrap().to_owned();
        by.starts_with("cgroup")
    }

    /// Puts there what the probes change.
    fn furnish(&self) {
        for name in ["granted/leaves", "granted/mine", "granted/renamed"] {
            self.scene.home.write(name, "mine\n");
        }
        for name in ["secret/moved", "secret/theirs", "secret/removed"] {
            self.scene.home.write(name, "theirs\n");
        }
        for name in ["hard", "new", "newer", "pipe", "soft", "program", "moved"] {
            fs::remove_file(self.scene.home.work().join("granted").join(name)).ok();
        }
    }

    /// What works at this trust level, where the host has run `before`.
    fn open(&self, level: &str, before: &str) -> BTreeSet<&'static str> {
        self.furnish();
        self.scene.trust(level);
        let probes = probes();
        let answers = self.scene.answers_after(before, &probes);
        let open = probes.into_iter().zip(answers);
        open.filter(|(_, answer)| answer == "open")
            .map(|(probe, _)| probe)
            .collect()
    }
}

/// Fails unless with these grants `expected` is open, and what is open always, and nothing
/// else: to whoever runs the host, at both levels.
#[track_caller]
fn only(grants: &[&str], expected: &[&str]) {
    for user in users() {
        let furnished = Furnished::new(user).grant(grants);
        let has_memory_files = furnished.counts_memory();
        let is_there = |it: &&&str| **it != "memfd-exec" || has_memory_files;
        let expected = ALWAYS.iter().chain(expected.iter().filter(is_there));
        let expected: BTreeSet<_> = expected.copied().collect();
        for level in ["1", "2"] {
            let open = furnished.open(level, "");
            let more: Vec<_> = open.difference(&expected).collect();
            let less: Vec<_> = expected.difference(&open).collect();
            assert!(
                more.is_empty() && less.is_empty(),
                "{user:?}, level {level}: open {more:?}, and not {less:?}"
            );
        }
    }
}

#[test]
fn nothing() {
    only(&[], &[]);
}

#[test]
fn reading_a_folder() {
    only(&["file:read=@GRANTED@"], &["granted", "granted-stat"]);
}

#[test]
fn writing_a_folder() {
    let all = [
        "granted",
        "granted-stat",
        "granted-write",
        "granted-create",
        "granted-chmod",
        "granted-times",
        "granted-setxattr",
        "granted-rename",
    ];
    only(&["file:write=@GRANTED@"], &all);
}

#[test]
fn part_of_the_network() {
    // A socket can be made, and leads to the proxy alone.
    let all = ["tcp", "every-family", "proxied"];
    only(&["network:access=127.0.0.1:@PORT@"], &all);
}

#[test]
fn all_of_the_network() {
    only(&["network:access=*:*"], &INTERNET);
}

#[test]
fn one_program() {
    // Its own image has no path, and is what was verified.
    let all = ["granted-program", "fork", "reexec"];
    only(&["process:spawn=/usr/bin/true"], &all);
}

#[test]
fn every_program() {
    let all = [
        "granted-program",
        "other-program",
        "fork",
        "reexec",
        "memfd-exec",
    ];
    only(&["process:spawn=*"], &all);
}

#[test]
fn what_the_machine_is() {
    let all = ["sysinfo", "memory", "load", "kernel"];
    only(&["system:info"], &all);
}

#[test]
fn a_variable() {
    only(&["env:read=HOST_SECRET"], &["secret-variable"]);
}

/// What no program gets anywhere, or only where the kernel has it.
const NEVER: [&str; 14] = [
    "first-root",
    "first-cwd",
    "proxied",
    "proxied-other",
    "machine-memory",
    "descriptors",
    "guessed-token",
    "sctp",
    "alg",
    "vsock",
    "mptcp",
    "mptcp-connect",
    "io-uring",
    "fast-open",
];
/// What is root's alone.
const OF_ROOT: [&str; 10] = [
    "known-handle",
    "fanotify",
    "raw",
    "raw6",
    "packet",
    "parent-environ",
    "limit-host",
    "handle",
    "perf",
    "chroot",
];

/// Without a host around it, the same program gets everywhere.
#[test]
fn they_are_attacks() {
    for user in users() {
        let furnished = Furnished::new(user).with(&probes(), &[]);
        furnished.furnish();
        // So that everything belongs to whoever runs it.
        furnished.scene.run(&["plugin", "list"]).ok();
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0 && user == User::OfTheTests;
        for probe in probes() {
            let mut command = Command::new(furnished.scene.home.work().join("attacker.out"));
            command.args(["execute", probe]).env_clear();
            command.envs([("HOST_SECRET", "hunter2"), ("OTHER_SECRET", "hunter3")]);
            if user == User::Ordinary {
                command.uid(ORDINARY).gid(ORDINARY);
            }
            let said = command.output().unwrap().stdout;
            let may_fail = NEVER.contains(&probe) || (!is_root && OF_ROOT.contains(&probe));
            let said = String::from_utf8(said).unwrap();
            assert!(
                said.starts_with("\"open\"") || may_fail,
                "{user:?}: {probe}: {said}"
            );
        }
    }
}

/// What can be known without opening anything. That nobody was there to signal is said in
/// the same way as that nobody could be.
const SEEN: [&str; 11] = [
    "access",
    "stat",
    "statx",
    "statfs",
    "readlink",
    "getxattr",
    "listxattr",
    "enter",
    "granted-stat",
    "seen-affinity",
    "signal-all",
];

/// Level 2 where a host has the two filters and nothing else.
#[test]
fn the_filters_alone() {
    for user in users() {
        for (grant, opened) in [
            ("file:read=@GRANTED@", &["granted"][..]),
            ("network:access=*:*", &INTERNET),
            (
                "process:spawn=/usr/bin/true",
                &["granted-program", "fork", "reexec"],
            ),
        ] {
            let furnished = Furnished::new(user).grant(&[grant]);
            let open = furnished.open("2", WITHOUT_NAMESPACES);
            let expected = ALWAYS.iter().chain(&SEEN).chain(opened).copied();
            assert_eq!(open, expected.collect(), "{user:?}: {grant}");
        }
        // Nothing would hold it to a part of the network.
        let part = Furnished::new(user).grant(&["network:access=127.0.0.1:@PORT@"]);
        part.scene.trust("2");
        let info = ["plugin", "info", "attacker", "--json"];
        let info = part.scene.run_after(WITHOUT_NAMESPACES, &info).ok().json();
        assert_eq!(info["sandbox"]["state"], "refused", "{user:?}: {info}");
    }
}
