//! A home of its own for each test, and the command run in it.

#![expect(
    clippy::disallowed_types,
    reason = "runs the command itself; the sandbox is for plugins"
)]

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// No command of these tests should take anywhere near as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The one JSON document on standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error object on standard error.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        let last = self.stderr.lines().last().unwrap_or_default();
        let value: Value =
            serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(value["exit"], self.code, "{self:?}");
        value["error"].clone()
    }

    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        self.with_code(0)
    }

    #[track_caller]
    pub(crate) fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        self
    }
}

/// A home directory, and a directory to work in.
pub(crate) struct Home {
    dir: TempDir,
    root: PathBuf,
}

impl Home {
    /// The records of the audit log, oldest first.
    pub(crate) fn audited(&self, args: &[&str]) -> Vec<Value> {
        let command = [&["audit", "show", "--json"], args].concat();
        let done = self.run(&command).ok();
        let lines = done.stdout.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }

    pub(crate) fn new() -> Self {
        Self::named(OsStr::new("home"))
    }

    /// A home whose last name is this.
    pub(crate) fn named(name: &OsStr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join(name);
        for path in [&root, &dir.path().join("work")] {
            fs::create_dir(path).unwrap();
        }
        Self { dir, root }
    }

    /// A home in which the `greeter` is signed, trusted, installed and granted.
    pub(crate) fn with_greeter() -> Self {
        Self::new().and_greeter()
    }

    /// The same home with the `greeter` signed, trusted, installed and granted.
    pub(crate) fn and_greeter(self) -> Self {
        let home = self;
        let package = home.greeter("greeter");
        home.run(&["key", "generate", "release", "--no-passphrase"])
            .ok();
        home.run(&["plugin", "sign", &package, "--key", "release"])
            .ok();
        home.run(&["trust", "add", "release", "--level", "3", "--names", "*"])
            .ok();
        home.run(&["plugin", "install", &package]).ok();
        home.run(&["plugin", "grant", "greeter", "process:spawn=/bin/sh"])
            .ok();
        home
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.root.clone()
    }

    /// Writes a file into the working directory; returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.work().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// Writes the package of a plugin that can greet, fail and sleep.
    pub(crate) fn greeter(&self, dir: &str) -> String {
        self.write(&format!("{dir}/plugin.yaml"), GREETER_MANIFEST);
        let script = self.write(&format!("{dir}/greeter.sh"), GREETER);
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        self.work().join(dir).display().to_string()
    }

    /// Writes a pipeline of one step that runs `phase`.
    pub(crate) fn pipeline(&self, phase: &str) -> String {
        self.write(&format!("{phase}.yaml"), &pipeline(phase))
    }

    /// The command with this home, in the working directory, with an
    /// environment in which nothing of the developer's own is left.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orchestrator"));
        command
            .arg("--home")
            .arg(self.root())
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", self.dir.path())
            .current_dir(self.work())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The command, started from a shell that has run `before`, a limit for
    /// instance.
    pub(crate) fn command_after(&self, before: &str, args: &[&str]) -> Command {
        let direct = self.command(args);
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", &format!("{before}\nexec \"$@\""), "sh"])
            .arg(direct.get_program())
            .args(direct.get_args())
            .env_clear()
            .envs(
                direct
                    .get_envs()
                    .filter_map(|(key, value)| Some((key, value?))),
            )
            .current_dir(self.work())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    #[track_caller]
    pub(crate) fn run(&self, args: &[&str]) -> Done {
        finish(self.command(args).spawn().unwrap())
    }

    #[track_caller]
    pub(crate) fn run_with_stdin(&self, args: &[&str], stdin: &str) -> Done {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(stdin.as_bytes())
            .unwrap();
        finish(child)
    }
}

/// Waits for a child, though not for ever.
#[track_caller]
pub(crate) fn finish(child: Child) -> Done {
    let pid = child.id();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(PATIENCE) else {
        signal(pid, Signal::KILL);
        panic!("the command did not end");
    };
    let output = output.unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    // It may just have ended.
    kill_process(pid, signal).ok();
}

/// Looks again and again until `done` says so, though not for ever.
#[track_caller]
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let (_never, receiver) = mpsc::channel::<()>();
    for _ in 0..600 {
        if done() {
            return;
        }
        receiver.recv_timeout(Duration::from_millis(50)).ok();
    }
    panic!("{what} did not happen");
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

pub(crate) fn pipeline(phase: &str) -> String {
    format!(
        r#"version: 1
name: {phase}
input:
  who: {{ type: string, default: "world" }}
steps:
  - id: say
    plugin: greeter
    phase: {phase}
    input: {{ hello: "${{{{ input.who }}}}" }}
outputs:
  GREETING.json: {{ from: "${{{{ steps.say.output }}}}", primary: true }}
"#
    )
}

const GREETER_MANIFEST: &str = "\
name: greeter
version: 0.1.0
description: Says hello, fails or sleeps.
kind: exec
entry_point: greeter.sh
interpreter: /bin/sh
phases:
  - { name: greet, effect: pure }
  - { name: fail, effect: pure }
  - { name: denied, effect: pure }
  - { name: sleep, effect: pure }
  - { name: slow, effect: pure, timeout: 300ms }
";

const GREETER: &str = r#"#!/bin/sh
case "$1 $2" in
"validate "*) ;;
"info "*) echo '{"id":"greeter","version":"0.1.0","phases":["greet","fail","denied","sleep","slow"]}' ;;
"execute greet") cat ;;
"execute fail") printf 'it broke \033[31mred\n' >&2; exit 1 ;;
"execute denied") exit 77 ;;
"execute sleep") sleep 20; echo '{}' ;;
"execute slow") sleep 20; echo '{}' ;;
*) exit 2 ;;
esac
"#;
