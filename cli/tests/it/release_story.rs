//! The commands of `docs/release.md`, as they stand there.

#![expect(
    clippy::disallowed_types,
    reason = "runs a shell and the command itself; the sandbox is for plugins"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use serde_json::Value;

use crate::harness::{Home, finish, read};

const PAGE: &str = include_str!("../../../docs/release.md");

#[test]
fn the_page_for_release_engineers_does_what_it_says() {
    let home = Home::new();
    // The working directory is the empty folder in which the story begins.
    let story = home.work();
    let (address, asked) = serve(story.join("site"));
    let script_file = home.root().join("story.sh");
    fs::write(&script_file, script()).unwrap();
    let mut shell = Command::new("/bin/sh");
    shell
        .arg("-eux")
        .arg(&script_file)
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", programs(&home)))
        .env("HOME", home.root())
        .env("SITE", address)
        .current_dir(&story)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let done = finish(shell.spawn().unwrap()).ok();

    // What was installed is not asked for again, and the refused were asked for once each.
    let asked: Vec<String> = asked.try_iter().collect();
    let times = |path: &str| asked.iter().filter(|asked| *asked == path).count();
    assert_eq!(times("/greeter-0.1.0.opkg"), 3, "{asked:?}");
    assert_eq!(times("/greeter-0.2.0.opkg"), 2, "{asked:?}");

    let records = read(story.join("evidence/records.ndjson"));
    let records: Vec<Value> = records
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let codes: Vec<&str> = records
        .iter()
        .filter_map(|record| record["code"].as_str())
        .collect();
    // A stranger's key, the lock file and the stolen key.
    for code in ["ORC-2041", "ORC-2161", "ORC-2046"] {
        assert!(codes.contains(&code), "{code} in {codes:?}");
    }
    let last = done.stdout.lines().last().unwrap();
    let leaf = last.split(' ').next().unwrap();
    assert_eq!(leaf, leaf_of(&story.join("host/audit/tree")), "{last}");
}

/// Every block of commands, one after the other.
fn script() -> String {
    let blocks: Vec<&str> = PAGE
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```\n").next())
        .collect();
    assert!(blocks.len() > 8, "{blocks:?}");
    blocks.concat()
}

/// A folder with the programs that the page asks for, for `PATH`.
fn programs(home: &Home) -> String {
    let minisign = std::env::var_os("ORCHESTRATOR_TEST_MINISIGN")
        .expect("ORCHESTRATOR_TEST_MINISIGN names minisign; `cargo xtask test` fetches it");
    let dir = home.root().join("bin");
    fs::create_dir(&dir).unwrap();
    symlink(minisign, dir.join("minisign")).unwrap();
    let own = env!("CARGO_BIN_EXE_orchestrator");
    symlink(own, dir.join("orchestrator")).unwrap();
    dir.display().to_string()
}

/// The first hash of the log's tree is that of its first record.
fn leaf_of(tree: &Path) -> String {
    let bytes = fs::read(tree).unwrap();
    let digits = bytes[..32].iter().map(|byte| format!("{byte:02x}"));
    digits.collect()
}

/// A web server for a folder. Returns its address, and the paths it is asked for.
fn serve(folder: PathBuf) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, asked) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that hangs up is answered no more.
            answer(stream, &folder, &sender);
        }
    });
    (address, asked)
}

fn answer(mut stream: TcpStream, folder: &Path, asked: &mpsc::Sender<String>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
        .for_each(drop);
    let body = fs::read(folder.join(path.trim_start_matches('/')));
    let status = if body.is_ok() { "200 OK" } else { "404 No" };
    let body = body.unwrap_or_default();
    asked.send(path).ok()?;
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body).ok()
}
