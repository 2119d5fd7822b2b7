//! A host with a plugin that takes all it gets, one that behaves, and fences around both.

#![expect(
    clippy::disallowed_types,
    reason = "runs a compiler; the sandbox is for plugins"
)]

use std::{
    fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command, sync::mpsc, thread,
    time::Duration,
};

use orchestrator_testkit::wait_until;
use serde_json::Value;

use super::pen::Pen;
use crate::{
    harness::{Done, Home, PATIENCE, eventually, finish},
    users::{Runner, User, WITHOUT_NAMESPACES},
};

/// What the plugin can take.
const BOMBS: [&str; 16] = [
    "good",
    "forks",
    "threads",
    "memory",
    "shared-memory",
    "hidden-memory",
    "memory-files",
    "files",
    "descriptors",
    "descriptors-of-many",
    "line",
    "lines",
    "output",
    "session",
    "burn",
    "burn-deaf",
];
/// No host needs as much, whatever its plugins do.
const HOST_KIB_MAX: u64 = 400 << 10;

/// Who runs the host, and what is there for its plugins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground {
    pub(super) user: User,
    /// Whether its user may make control groups.
    pub(super) has_groups: bool,
    pub(super) has_namespaces: bool,
}

/// What a plugin is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bomber {
    pub(super) kind: &'static str,
    pub(super) level: &'static str,
    /// Of its manifest.
    pub(super) resources: &'static str,
    pub(super) asks: &'static [&'static str],
    /// How long a phase may take.
    pub(super) timeout: &'static str,
}

impl Bomber {
    pub(super) const fn with(self, resources: &'static str) -> Self {
        Self { resources, ..self }
    }

    pub(super) const fn asking(self, asks: &'static [&'static str]) -> Self {
        Self { asks, ..self }
    }

    pub(super) const fn within(self, timeout: &'static str) -> Self {
        Self { timeout, ..self }
    }
}

/// What became of a bomb.
#[derive(Debug)]
pub(super) struct End {
    pub(super) done: Done,
    /// The only step, as the run reports it.
    pub(super) step: Value,
    /// What the plugin answered.
    pub(super) answer: Option<Value>,
}

impl End {
    /// Fails unless the run failed for this, and says so.
    #[track_caller]
    pub(super) fn is_for(&self, kind: &str, resource: &str) {
        let error = &self.step["error"];
        assert_eq!(error["kind"], kind, "{self:?}");
        let text = error.to_string();
        assert!(text.contains(resource), "{resource}: {self:?}");
        assert_ne!(self.done.code, 0, "{self:?}");
    }

    /// The number that the plugin answered.
    #[track_caller]
    pub(super) fn number(&self) -> u64 {
        let answer = self.answer.as_ref().and_then(Value::as_u64);
        answer.unwrap_or_else(|| panic!("no number: {self:?}"))
    }
}

/// The host, its home and its fences.
pub(super) struct Range {
    pub(super) home: Home,
    pub(super) runner: Runner,
    pen: Pen,
    has_namespaces: bool,
    /// Nobody else's processes are called that.
    name: String,
}

impl Range {
    pub(super) fn new(ground: Ground, bomber: Bomber) -> Self {
        let name = format!("b{}-{:x}", std::process::id(), fastrand::u16(..));
        let range = Self {
            home: Home::new(),
            runner: Runner::new(ground.user),
            pen: Pen::new(ground.user, ground.has_groups),
            has_namespaces: ground.has_namespaces,
            name,
        };
        fs::create_dir(range.scratch()).unwrap();
        let program = range.compiled();
        let behaved = bomber.with("").within("40s");
        range.command(&["key", "generate", "release", "--no-passphrase"]);
        range.trust(bomber.level);
        for (id, bomber) in [("bomber", bomber), ("behaved", behaved)] {
            range.install(id, bomber, &program);
        }
        range
    }

    /// Signs and installs it, and grants it what it asks for.
    fn install(&self, id: &str, bomber: Bomber, program: &[u8]) {
        let Bomber {
            kind,
            resources,
            asks,
            timeout,
            ..
        } = bomber;
        let phases = BOMBS.map(|it| {
            format!("{{ name: {it}, effect: pure, max_retries: 0, timeout: {timeout} }}")
        });
        let manifest = format!(
            "name: {id}\nversion: 0.1.0\ndescription: Takes all it gets.\nkind: {kind}\n\
             entry_point: {}\ncapabilities: {asks:?}\nresources: {{ {resources} }}\nphases: [{}]\n",
            self.name,
            phases.join(", "),
        );
        self.home.write(&format!("{id}/plugin.yaml"), &manifest);
        let path = self.home.work().join(id).join(&self.name);
        fs::write(&path, program).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.command(&["plugin", "sign", id, "--key", "release"]);
        self.command(&["plugin", "install", &format!("./{id}")]);
        if !asks.is_empty() {
            self.command(&[&["plugin", "grant", id], asks].concat());
        }
    }

    pub(super) fn trust(&self, level: &str) {
        let trust = ["trust", "add", "release", "--replace", "--names", "*"];
        self.command(&[&trust[..], &["--level", level]].concat());
    }

    /// A command that works, outside of the fences.
    pub(super) fn command(&self, args: &[&str]) -> Done {
        let mut command = self.runner.command(&self.home, "", args);
        finish(command.spawn().unwrap()).ok()
    }

    /// A command in the fences.
    pub(super) fn fenced(&self, args: &[&str]) -> Command {
        let mut before = self.pen.enter();
        if !self.has_namespaces {
            before += WITHOUT_NAMESPACES;
        }
        let mut command = self.runner.command(&self.home, &before, args);
        command.env("TMPDIR", self.scratch());
        command
    }

    /// A run of this bomb in a host of its own, that `settings` are for. Others run as
    /// before then, and nothing is left of it.
    pub(super) fn explode(&self, bomb: &str, settings: &[&str]) -> End {
        let end = self.run("bomber", bomb, settings);
        self.is_clean(bomb);
        let after = self.run("behaved", "good", &[]);
        assert_eq!(after.done.code, 0, "after {bomb}: {after:?}");
        assert_eq!(after.number(), 1, "after {bomb}");
        self.is_clean("good");
        end
    }

    pub(super) fn run(&self, plugin: &str, phase: &str, settings: &[&str]) -> End {
        let file = self.home.write("bomb.yaml", &pipeline(plugin, phase));
        let out = self.home.work().join("out");
        fs::remove_dir_all(&out).ok();
        let dir = out.display().to_string();
        let start = ["run", "start", &file, "--output-dir", &dir, "--json"];
        let child = self.fenced(&[&start, settings].concat()).spawn().unwrap();
        let pid = child.id();
        let (ended, end) = mpsc::channel::<()>();
        let watch = thread::spawn(move || peak_kib(pid, &end));
        let done = finish(child);
        drop(ended);
        let peak = watch.join().unwrap();
        assert!(peak < HOST_KIB_MAX, "{phase}: the host took {peak} KiB");
        let report: Value = serde_json::from_str(&done.stdout).unwrap_or_default();
        let answer = fs::read(out.join("answer.json")).ok();
        End {
            step: report["steps"][0].clone(),
            answer: answer.map(|text| serde_json::from_slice(&text).unwrap()),
            done,
        }
    }

    /// Fails when something is left of a host and its plugins.
    pub(super) fn is_clean(&self, after: &str) {
        eventually("the end of all processes", || self.processes().is_empty());
        let mut left = self.pen.content();
        wait_until(PATIENCE / 2, || {
            left = self.pen.content();
            left == Default::default()
        });
        assert_eq!(left, Default::default(), "after {after}");
        let below = |dir: PathBuf| fs::read_dir(dir).map_or(0, |entries| entries.count());
        assert_eq!(below(self.home.root().join("run")), 0, "after {after}");
        assert_eq!(below(self.scratch()), 0, "after {after}");
        for place in ["/tmp", "/var/tmp", "/dev/shm", "/run", "/"] {
            let named = |name: &str| name.starts_with(&self.name);
            let entries = fs::read_dir(place).into_iter().flatten().flatten();
            let left = entries.filter_map(|it| it.file_name().into_string().ok());
            let left: Vec<_> = left.filter(|name| named(name)).collect();
            assert!(left.is_empty(), "after {after}, in {place}: {left:?}");
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let home = self.home.root().display().to_string();
        assert!(!mounts.contains(&home), "after {after}: {mounts}");
    }

    /// Processes of the plugins, wherever they went.
    fn processes(&self) -> Vec<String> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let found = entries.filter(|entry| {
            let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            arguments.starts_with(self.name.as_bytes())
        });
        found
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }

    /// Where the host has its temporary files.
    fn scratch(&self) -> PathBuf {
        self.home.work().join("scratch")
    }

    fn compiled(&self) -> Vec<u8> {
        let phases = BOMBS.map(|it| format!("\\\"{it}\\\"")).join(",");
        let source = self.home.write("bomber.c", include_str!("bomber.c"));
        let program = self.home.work().join("bomber.out");
        let made = Command::new("cc")
            .args(["-O1", "-w", "-pthread", "-o"])
            .arg(&program)
            .args([&format!("-DPHASES=\"{phases}\""), &source])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(made.status.success(), "{said}");
        fs::read(&program).unwrap()
    }
}

/// The most memory that a process has had, looked at until it ends.
fn peak_kib(pid: u32, end: &mpsc::Receiver<()>) -> u64 {
    let mut peak = 0;
    while end.recv_timeout(Duration::from_millis(20)) == Err(mpsc::RecvTimeoutError::Timeout) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
        let kib = line.and_then(|it| it.split_whitespace().next()?.parse().ok());
        peak = peak.max(kib.unwrap_or(0));
    }
    peak
}

pub(super) fn pipeline(plugin: &str, phase: &str) -> String {
    format!(
        "version: 1\nname: bomb\nsteps:\n  - {{ id: a, plugin: {plugin}, phase: {phase}, \
         input: {{}} }}\noutputs:\n  answer.json: {{ from: \"${{{{ steps.a.output }}}}\" }}\n"
    )
}
