//! Packages are read piece by piece, however large they are.

#![expect(
    clippy::disallowed_types,
    reason = "runs the command itself; the sandbox is for plugins"
)]

use std::{fs, process::Command};

use crate::harness::{Done, Home, finish};

/// Less than what a package may hold, with room for other files.
const LARGE: u64 = 200 << 20;
/// What a command may allocate, in KiB: no room for a third of the file.
const DATA_KIB: &str = "65536";

#[test]
fn no_command_holds_a_large_package_in_memory() {
    let home = Home::new();
    let package = home.greeter("greeter");
    let asset = home.work().join("greeter/model.bin");
    fs::File::create(&asset).unwrap().set_len(LARGE).unwrap();
    let run = |args: &[&str]| limited(&home, args).ok();

    run(&["key", "generate", "release", "--no-passphrase"]);
    let signed = run(&["plugin", "sign", &package, "--key", "release", "--json"]);
    assert!(signed.json()["bytes"].as_u64().unwrap() > LARGE);
    run(&["trust", "add", "release", "--level", "3", "--names", "*"]);
    run(&["plugin", "verify", &package]);
    run(&["plugin", "install", &package]);
    run(&["plugin", "grant", "greeter", "process:spawn=/bin/sh"]);
    let copy = home.root().join("plugins/greeter/0.1.0/model.bin");
    assert_eq!(copy.metadata().unwrap().len(), LARGE);
    let pipeline = home.pipeline("greet");
    run(&["run", "start", &pipeline]);
}

/// Runs a command that cannot allocate more than [`DATA_KIB`].
fn limited(home: &Home, args: &[&str]) -> Done {
    let command = home.command(args);
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "ulimit -d $1 && shift && exec \"$@\"", "sh", DATA_KIB])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        // Each has a stack, and a machine may have many processors.
        .env("TOKIO_WORKER_THREADS", "2")
        .current_dir(home.work())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    finish(shell.spawn().unwrap())
}
