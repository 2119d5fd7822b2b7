//! Commands that change the trust root, killed at any moment: the root is the
//! old or the new one, and the same command works when it is given again.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use rustix::process::Signal;

use crate::harness::{Home, finish, signal};

/// Kills that must hit a command before it ended.
const KILLS: u32 = 40;
/// Kills altogether.
const TRIES_MAX: u32 = 200;
/// Chosen once; a failure names the round.
const SEED: u64 = 0x7e57_0007;

fn version(home: &Home) -> u64 {
    let shown = home.run(&["trust", "show", "--json"]).ok().json();
    shown["version"].as_u64().unwrap()
}

/// Runs a command and kills it after `moment`. Returns whether that came
/// before its end.
fn kill_after(home: &Home, args: &[&str], moment: Duration) -> bool {
    let child = home.command(args).spawn().unwrap();
    let pid = child.id();
    let (_never, receiver) = std::sync::mpsc::channel::<()>();
    receiver.recv_timeout(moment).ok();
    signal(pid, Signal::KILL);
    finish(child).code == -1
}

/// A command that makes the next version; every fourth applies a file that was
/// signed before.
fn command(home: &Home, round: u32) -> Vec<String> {
    let next = format!("{round}.json");
    if round % 4 == 3 {
        let end = format!("2099-01-01T00:00:{:02}Z", round % 60);
        home.run(&["trust", "propose", "--expires", &end, "--out", &next])
            .ok();
        home.run(&["trust", "sign", &next, "--own"]).ok();
    }
    let command = match round % 4 {
        0 => format!("add release --level 3 --names demo,round-{round} --replace"),
        1 => format!("revoke sha256:{round:064x} --reason test"),
        2 => "rotate --root".to_owned(),
        _ => format!("update {next}"),
    };
    let words = command.split(' ').map(str::to_owned);
    std::iter::once("trust".to_owned()).chain(words).collect()
}

#[test]
fn forty_kills_leave_the_old_root_or_the_new_one() {
    let home = Home::new();
    home.run(&["key", "generate", "release", "--no-passphrase"])
        .ok();
    let begun = SystemTime::now();
    home.run(&["trust", "init"]).ok();
    // As long as a command takes on this machine today.
    let whole = begun.elapsed().unwrap().as_micros();
    let add = ["trust", "add", "release", "--level", "3", "--names", "demo"];
    home.run(&add).ok();
    let mut moments = fastrand::Rng::with_seed(SEED);
    let (mut hit, mut applied) = (0, 0);
    for round in 0..TRIES_MAX {
        if hit == KILLS {
            break;
        }
        let command = command(&home, round);
        let command: Vec<_> = command.iter().map(String::as_str).collect();
        let before = version(&home);
        let moment = u64::try_from(whole * moments.u128(10..110) / 100).unwrap();
        let was_hit = kill_after(&home, &command, Duration::from_micros(moment));
        hit += u32::from(was_hit);
        let after = version(&home);
        assert!(
            after == before || after == before + 1,
            "round {round}: version {before}, then {after}"
        );
        applied += u32::from(was_hit && after > before);
        // Given again it works, or says that this version is there already.
        let again = home.run(&command);
        let is_there = command[1] == "update" && after > before;
        let expected = if is_there { 6 } else { 0 };
        assert_eq!(again.code, expected, "round {round}: {again:?}");
        let left = fs::read_dir(home.root().join("trust")).unwrap();
        let left: Vec<_> = left.map(|it| it.unwrap().file_name()).collect();
        assert!(left.len() <= 6, "round {round}: {left:?}");
    }
    assert_eq!(
        hit, KILLS,
        "kills that hit a command; {applied} of them after the change"
    );
}
