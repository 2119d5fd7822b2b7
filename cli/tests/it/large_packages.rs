//! Packages are read piece by piece, however large they are.

#![expect(
    clippy::disallowed_types,
    reason = "runs the command itself; the sandbox is for plugins"
)]

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    file_server::{Answer, FileServer},
    harness::{Done, Home, finish},
};

/// Says how many MiB the packages have, to try more than a test should take.
const MIB: &str = "ORCHESTRATOR_TEST_LARGE_MIB";
/// What a command may allocate, in KiB: far less than a package has.
const DATA_KIB: &str = "65536";

#[test]
fn no_command_holds_a_large_package_in_memory() {
    let large = mib(300) << 20;
    let home = Home::new();
    let package = home.greeter("greeter");
    let asset = home.work().join("greeter/model.bin");
    File::create(&asset).unwrap().set_len(large).unwrap();
    let run = |args: &[&str]| limited(&home, args).ok();

    run(&["key", "generate", "release", "--no-passphrase"]);
    let signed = run(&["plugin", "sign", &package, "--key", "release", "--json"]);
    assert!(signed.json()["bytes"].as_u64().unwrap() > large);
    run(&["trust", "add", "release", "--level", "3", "--names", "*"]);
    run(&["plugin", "verify", &package]);
    run(&["plugin", "install", &package]);
    run(&["plugin", "grant", "greeter", "process:spawn=/bin/sh"]);
    let copy = home.root().join("plugins/greeter/0.1.0/model.bin");
    assert_eq!(copy.metadata().unwrap().len(), large);
    let pipeline = home.pipeline("greet");
    run(&["run", "start", &pipeline]);
}

#[test]
fn no_command_holds_a_large_archive_in_memory() {
    let large = mib(96) << 20;
    let home = Home::new();
    let package = home.greeter("greeter");
    noise(&Path::new(&package).join("model.bin"), large);
    let run = |args: &[&str]| limited(&home, args).ok();

    run(&["key", "generate", "release", "--no-passphrase"]);
    run(&["plugin", "sign", &package, "--key", "release"]);
    run(&["trust", "add", "release", "--level", "3", "--names", "*"]);
    let packed = run(&["plugin", "pack", &package, "--json"]).json();
    assert!(packed["archive_bytes"].as_u64().unwrap() > large);
    let archive = packed["path"].as_str().unwrap();
    run(&["plugin", "verify", archive]);
    run(&["plugin", "unpack", archive, "copy"]);
    run(&["plugin", "install", archive]);
    let copy = home.root().join("plugins/greeter/0.1.0/model.bin");
    assert_eq!(copy.metadata().unwrap().len(), large);
}

#[test]
fn what_is_held_in_memory_is_not_large() {
    let home = Home::new();
    let package = home.greeter("greeter");
    let entry = File::options()
        .write(true)
        .open(Path::new(&package).join("greeter.sh"));
    home.run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    let sign = ["plugin", "sign", &package, "--key", "release", "--json"];
    let entry = entry.unwrap();
    entry.set_len(256 << 20).unwrap();
    home.run(&sign).ok();
    entry.set_len((256 << 20) + 1).unwrap();
    let refused = home.run(&sign).with_code(3).error();
    assert_eq!(refused["code"], "ORC-2070");
    let why = refused.to_string();
    assert!(why.contains("too large: the entry point"), "{why}");
}

#[test]
fn an_operator_may_take_smaller_packages_alone() {
    let home = Home::new().and_greeter();
    let package = home.greeter("larger");
    noise(&Path::new(&package).join("model.bin"), 2 << 20);
    home.run(&["plugin", "sign", &package, "--key", "release"])
        .ok();
    home.run(&["plugin", "pack", &package, "--out", "a.opkg"])
        .ok();
    home.run(&["plugin", "remove", "greeter"]).ok();
    let code = |source: &str, max: &str| {
        let set = format!("install.package_bytes_max={max}");
        let install = ["plugin", "install", source, "--set", &set, "--json"];
        home.run(&install).with_code(3).error()["code"].clone()
    };
    assert_eq!(code("a.opkg", "1MiB"), "ORC-2187");
    let server = FileServer::start();
    let url = server.put("/a.opkg", Answer::Long(64 << 20));
    assert_eq!(code(&url, "1MiB"), "ORC-5026");
    home.run(&["plugin", "install", "a.opkg"]).ok();
}

/// A file that cannot be compressed, so that an archive is as large.
fn noise(path: &Path, bytes: u64) {
    let noise = File::open("/dev/urandom").unwrap();
    let mut file = File::create(path).unwrap();
    io::copy(&mut noise.take(bytes), &mut file).unwrap();
}

/// How many MiB a package has: `usual`, or what the environment says.
fn mib(usual: u64) -> u64 {
    let asked = std::env::var(MIB).ok();
    asked.map_or(usual, |mib| mib.parse().unwrap())
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
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = shell.spawn().unwrap();
    if std::env::var_os(MIB).is_none() {
        return finish(child);
    }
    // Who asks for more than a test takes waits for it.
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
