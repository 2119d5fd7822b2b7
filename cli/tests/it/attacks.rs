//! Signed plugins of trust level 1, in shell, Python and C, that try to get at what they
//! were not granted, run by the command itself: as the user of the tests, and where that
//! is root as an ordinary user too.
//!
//! Each is tried at level 3 as well, where it has the rights of the host's user: an attack
//! that does not work there proves nothing here.

#![expect(
    clippy::disallowed_types,
    reason = "runs the command, a compiler and a victim; the sandbox is for plugins"
)]

mod by_grant;
mod inherited;

use std::{
    fs,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::{PermissionsExt as _, symlink},
            net::{SocketAddr, UnixListener},
            process::CommandExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::{
    harness::{Done, Home, finish},
    users::{ORDINARY, Runner, User, users},
};

/// A host with a plugin, what it may read, what it may not, and a process of the same
/// user.
struct Scene {
    home: Home,
    runner: Runner,
    victim: Child,
    ports: [u16; 2],
    _listens: ([TcpListener; 2], UnixListener, UnixListener),
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.victim.kill().ok();
        self.victim.wait().ok();
    }
}

impl Scene {
    fn new(user: User) -> Self {
        let home = Home::new();
        for name in ["granted", "granted-evil", "secret"] {
            home.write(&format!("{name}/file"), &format!("{name}\n"));
        }
        home.write("secret/other", "secret\n");
        let secret = home.work().join("secret");
        symlink(secret.join("file"), home.work().join("granted/link")).unwrap();
        let tcp = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let unix = UnixListener::bind(secret.join("socket")).unwrap();
        let address = SocketAddr::from_abstract_name(abstract_name(&home)).unwrap();
        let hidden = UnixListener::bind_addr(&address).unwrap();
        let mut victim = Command::new("/bin/sleep");
        victim
            .arg("600")
            .env("HOST_SECRET", "hunter2")
            .current_dir(&secret)
            .stdin(Stdio::null());
        if user == User::Ordinary {
            victim.uid(ORDINARY).gid(ORDINARY);
        }
        Self {
            victim: victim.spawn().unwrap(),
            ports: [0, 1].map(|it: usize| tcp[it].local_addr().unwrap().port()),
            _listens: (tcp, unix, hidden),
            home,
            runner: Runner::new(user),
        }
    }

    /// `text` with the places and numbers of this scene.
    fn filled(&self, text: &str) -> String {
        let at = |name: &str| self.home.work().join(name).display().to_string();
        text.replace("@GRANTED@", &at("granted"))
            .replace("@SECRET@", &at("secret"))
            .replace("@HOME@", &self.home.root().display().to_string())
            .replace("@VICTIM@", &self.victim.id().to_string())
            .replace("@PORT@", &self.ports[0].to_string())
            .replace("@OTHER_PORT@", &self.ports[1].to_string())
            .replace("@ABSTRACT@", &abstract_name(&self.home))
    }

    /// Signs and installs the plugin, and grants it what it asks for.
    fn install(&self, manifest: &str, entry: &[u8], grants: &[&str]) {
        let home = &self.home;
        let capabilities: Vec<_> = grants.iter().map(|it| self.filled(it)).collect();
        let manifest = format!(
            "name: attacker\nversion: 0.1.0\ndescription: Tries all it can.\nkind: exec\n\
             entry_point: attacker\ncapabilities: {capabilities:?}\n{manifest}"
        );
        home.write("attacker/plugin.yaml", &manifest);
        let path = home.work().join("attacker/attacker");
        fs::write(&path, entry).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.run(&["key", "generate", "release", "--no-passphrase"])
            .ok();
        self.run(&["plugin", "sign", "attacker", "--key", "release"])
            .ok();
        self.trust("1");
        self.run(&["plugin", "install", "./attacker"]).ok();
        if capabilities.is_empty() {
            return;
        }
        let mut grant = vec!["plugin", "grant", "attacker"];
        grant.extend(capabilities.iter().map(String::as_str));
        self.run(&grant).ok();
    }

    fn trust(&self, level: &str) {
        let trust = ["trust", "add", "release", "--replace", "--names", "*"];
        let mut trust = trust.to_vec();
        trust.extend(["--level", level]);
        self.run(&trust).ok();
    }

    /// The command, run by the user that this is about, with a secret in its environment.
    fn run(&self, args: &[&str]) -> Done {
        self.run_after("", args)
    }

    /// The same, started from a shell that has run `before`.
    fn run_after(&self, before: &str, args: &[&str]) -> Done {
        let mut command = self.runner.command(&self.home, before, args);
        command.env("OTHER_SECRET", "hunter3");
        finish(command.env("HOST_SECRET", "hunter2").spawn().unwrap())
    }

    /// What the plugin's `phases` answer.
    fn answers(&self, phases: &[&str]) -> Vec<Value> {
        self.answers_after("", phases)
    }

    /// The same of a host that has run `before`.
    fn answers_after(&self, before: &str, phases: &[&str]) -> Vec<Value> {
        let steps = phases.iter().map(|phase| {
            format!("  - {{ id: {phase}, plugin: attacker, phase: {phase}, input: {{}} }}\n")
        });
        let outputs = phases.iter().map(|phase| {
            format!("  {phase}.json: {{ from: \"${{{{ steps['{phase}'].output }}}}\" }}\n")
        });
        let pipeline = format!(
            "version: 1\nname: attack\nsteps:\n{}outputs:\n{}",
            steps.collect::<String>(),
            outputs.collect::<String>(),
        );
        let file = self.home.write("attack.yaml", &pipeline);
        let into = self.home.work().join("out");
        let dir = into.display().to_string();
        self.run_after(before, &["run", "start", &file, "--output-dir", &dir])
            .ok();
        let answer = |phase: &&str| {
            let text = fs::read(into.join(format!("{phase}.json"))).unwrap();
            serde_json::from_slice(&text).unwrap()
        };
        phases.iter().map(answer).collect()
    }

    /// What of all that its only phase tries has worked.
    fn worked(&self) -> Vec<String> {
        let [worked] = <[Value; 1]>::try_from(self.answers(&["attack"])).unwrap();
        serde_json::from_value(worked).unwrap()
    }

    /// Fails unless `expected` alone works at level 1, and `control` at level 3 too.
    fn try_all(&self, expected: &[&str], control: &[&str]) {
        let user = self.runner.user;
        assert_eq!(self.worked(), expected, "level 1, {user:?}");
        self.trust("3");
        let worked = self.worked();
        for name in control {
            let works = worked.iter().any(|it| it == name);
            assert!(works, "no attack at all: {name}, {user:?}: {worked:?}");
        }
    }
}

/// Nobody else's: names without a path are the whole machine's.
fn abstract_name(home: &Home) -> String {
    let work = home.work();
    let own = work.parent().and_then(Path::file_name).unwrap();
    format!("orchestrator-attacks-{}", own.display())
}

/// One attack a run.
const TRIES: &str = include_str!("../../../sandbox/tests/it/attacks/probes.c");
const ONE_PHASE: &str = "phases: [{ name: attack, effect: pure }]\n";

#[test]
fn a_shell_of_level_one_gets_nowhere() {
    for user in users() {
        let scene = Scene::new(user);
        let script = scene.filled(include_str!("attacks/attacker.sh"));
        let grants = [
            "file:read=@GRANTED@",
            "process:spawn=/bin/sh",
            "process:spawn=/usr/bin/cat",
        ];
        let manifest = format!("interpreter: /bin/sh\n{ONE_PHASE}");
        scene.install(&manifest, script.as_bytes(), &grants);
        let control = [
            "read",
            "cat",
            "dotdot",
            "beside",
            "link",
            "self_root",
            "write",
            "create",
            "write_what_is_read",
            "enter",
            "home",
            "grants",
            "passwords",
            "other_program",
            "loader",
        ];
        scene.try_all(&["granted_file", "granted_program"], &control);
    }
}

#[test]
fn python_of_level_one_gets_nowhere() {
    if !Path::new("/usr/bin/python3").exists() {
        return;
    }
    for user in users() {
        let scene = Scene::new(user);
        let script = scene.filled(include_str!("attacks/attacker.py"));
        let grants = ["file:read=@GRANTED@", "process:spawn=/usr/bin/python3"];
        let manifest = format!("interpreter: /usr/bin/python3\n{ONE_PHASE}");
        scene.install(&manifest, script.as_bytes(), &grants);
        let control = [
            "read",
            "dotdot",
            "link",
            "metadata",
            "mode",
            "times",
            "mode_of_what_is_read",
            "hard_link",
            "remove",
            "victim_is_seen",
            "priority",
            "limit",
            "tcp",
            "udp",
            "netlink",
            "unix",
            "memory_file",
            "other_program",
        ];
        scene.try_all(&["granted_file"], &control);
    }
}

#[test]
fn the_whole_network_is_tcp_and_udp_and_nothing_else() {
    if !Path::new("/usr/bin/python3").exists() {
        return;
    }
    for user in users() {
        let scene = Scene::new(user);
        let script = scene.filled(include_str!("attacks/attacker.py"));
        let grants = ["network:access=*:*", "process:spawn=/usr/bin/python3"];
        let manifest = format!("interpreter: /usr/bin/python3\n{ONE_PHASE}");
        scene.install(&manifest, script.as_bytes(), &grants);
        scene.try_all(&["tcp", "tcp6", "udp"], &["unix", "netlink"]);
    }
}

#[test]
fn part_of_the_network_is_what_the_proxy_lets_through() {
    if !Path::new("/usr/bin/python3").exists() {
        return;
    }
    for user in users() {
        let scene = Scene::new(user);
        let script = scene.filled(include_str!("attacks/attacker.py"));
        let network = "network:access=127.0.0.1:@PORT@";
        let grants = [network, "process:spawn=/usr/bin/python3"];
        let manifest = format!("interpreter: /usr/bin/python3\n{ONE_PHASE}");
        scene.install(&manifest, script.as_bytes(), &grants);
        scene.try_all(&["granted_address"], &["tcp", "udp"]);
    }
}

/// Those of the probes that need no more than a path or a process.
const PROBES: [&str; 34] = [
    "granted",
    "read",
    "write",
    "truncate",
    "stat",
    "chmod",
    "utimes",
    "inotify",
    "handle",
    "tcp",
    "udp",
    "unix",
    "netlink",
    "every-family",
    "raw",
    "packet",
    "io-uring",
    "ptrace",
    "vm-read",
    "getfd",
    "signal",
    "prlimit",
    "affinity",
    "priority",
    "keyctl",
    "bpf",
    "shm",
    "sysinfo",
    "unshare",
    "fork",
    "mount",
    "setns",
    "reexec",
    "memfd-exec",
];

#[test]
fn c_of_level_one_without_a_grant_of_programs_gets_nowhere() {
    for user in users() {
        let scene = Scene::new(user);
        let program = compiled(&scene);
        let phases = PROBES.map(|it| format!("{{ name: {it}, effect: pure }}"));
        let manifest = format!("phases: [{}]\n", phases.join(", "));
        scene.install(&manifest, &program, &["file:read=@GRANTED@"]);
        let answers = scene.answers(&PROBES);
        for (probe, answer) in PROBES.iter().zip(answers) {
            let expected = if *probe == "granted" {
                "open"
            } else {
                "refused"
            };
            assert_eq!(answer, expected, "{probe}, {user:?}");
        }
        scene.trust("3");
        let control = [
            "read",
            "write",
            "stat",
            "chmod",
            "inotify",
            "tcp",
            "udp",
            "unix",
            "netlink",
            "prlimit",
            "affinity",
            "shm",
            "sysinfo",
            "fork",
            "reexec",
            "memfd-exec",
        ];
        for (probe, answer) in control.iter().zip(scene.answers(&control)) {
            assert_eq!(answer, "open", "no attack at all: {probe}, {user:?}");
        }
    }
}

fn compiled(scene: &Scene) -> Vec<u8> {
    let phases = PROBES.map(|it| format!("\\\"{it}\\\"")).join(",");
    let phases = include_str!("attacks/attacker.c").replace("@PHASES@", &phases);
    let source = format!("#define main of_probes\n{TRIES}\n{}", scene.filled(&phases));
    fs::read(built(scene, "attacker", &source)).unwrap()
}

/// The C program `source`.
fn built(scene: &Scene, name: &str, source: &str) -> PathBuf {
    let source = scene.home.write(&format!("{name}.c"), source);
    let program = scene.home.work().join(format!("{name}.out"));
    let made = Command::new("cc")
        .args(["-O0", "-w", "-o"])
        .arg(&program)
        .arg(&source)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    program
}
