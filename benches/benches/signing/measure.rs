//! The rounds, and what they say.

use std::fs;

use orchestrator_benches::{Report, Target, in_turns, median, scratch};
use tokio::time::Instant;

use crate::{
    package::{FILE_BYTES, FILES, Signed},
    peer::Peer,
};

const ROUNDS: usize = 9;
/// How often the small package is verified in a round.
const REPEATS: u32 = 500;

pub(crate) type BenchError = Box<dyn std::error::Error + Send + Sync>;

/// Milliseconds, in the order of [`run`].
type Large = [f64; 5];

pub(crate) fn run() -> Result<(), BenchError> {
    let dir = tempfile::tempdir_in(scratch()?)?;
    let package = Signed::large(dir.path())?;
    package.verify()?;
    let peak = peak()?;
    let mut peer = Peer::new(&dir.path().join("peer"), &package)?;
    let mut samples: [Vec<f64>; 5] = Default::default();
    // The first round fills the page cache and does not count.
    for round in 0..=ROUNDS {
        for contender in in_turns(round, samples.len()) {
            let start = Instant::now();
            match contender {
                0 => package.hash()?,
                1 => package.sign()?,
                2 => package.verify()?,
                3 => peer.sign()?,
                _ => peer.verify()?,
            }
            if round > 0 {
                samples[contender].push(start.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let large = samples.map(|samples| median(&samples));
    let small = small(&Signed::small(&dir.path().join("host"))?)?;
    report(&large, peer.name(), small, peak).publish()?;
    Ok(())
}

/// Microseconds to read a small package, and to verify it.
fn small(package: &Signed) -> Result<[f64; 2], BenchError> {
    let mut samples: [Vec<f64>; 2] = Default::default();
    for round in 0..=ROUNDS {
        for contender in in_turns(round, samples.len()) {
            let start = Instant::now();
            for _ in 0..REPEATS {
                match contender {
                    0 => package.read(|piece| {
                        std::hint::black_box(piece);
                    })?,
                    _ => package.verify()?,
                }
            }
            if round > 0 {
                samples[contender].push(start.elapsed().as_secs_f64() * 1e6 / f64::from(REPEATS));
            }
        }
    }
    Ok(samples.map(|samples| median(&samples)))
}

/// The most memory this process has had, in MiB.
fn peak() -> Result<f64, BenchError> {
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
    let peak: u32 = peak.ok_or("no VmHWM")?.trim().parse()?;
    Ok(f64::from(peak) / 1024.0)
}

fn report(large: &Large, peer: &str, [read, verify]: [f64; 2], peak: f64) -> Report {
    let [pass, sign, check, peer_sign, peer_check] = *large;
    let mut report = Report::new(
        "signing",
        "What does it cost to sign a package and to verify it?",
    );
    report.text(&format!(
        "{FILES} files of {} KiB, random bytes in the page cache. One SHA-256 pass reads them one after \
         the other on one core. The peer, {peer}, gets the same bytes in one file. Signing writes \
         the listing and the signatures durably. {ROUNDS} rounds.",
        FILE_BYTES >> 10
    ));
    let row = |what: &str, millis: f64| {
        [
            what.to_owned(),
            format!("{millis:.1} ms"),
            format!("{:.2}×", millis / pass),
        ]
    };
    let rows = [
        row("one SHA-256 pass", pass),
        row("sign", sign),
        row("verify", check),
        row("the peer signs", peer_sign),
        row("the peer verifies", peer_check),
    ];
    report.table(["", "median", "of one pass"], &rows);
    let ratio = |what, value, most| (what, value, "×", most);
    let targets = [
        ratio("sign, beside one pass", sign / pass, 1.15),
        ratio("verify, beside one pass", check / pass, 1.15),
        ratio("sign, beside the peer", sign / peer_sign, 1.0),
        ratio("verify, beside the peer", check / peer_check, 1.0),
        (
            "verify a small plugin beyond reading its bytes",
            verify - read,
            " µs",
            300.0,
        ),
        (
            "most memory while signing and verifying",
            peak,
            " MiB",
            32.0,
        ),
    ];
    for (what, value, unit, most) in targets {
        report.target(what, value, unit, Target::AtMost(most));
    }
    report.text(&format!(
        "The small plugin is a manifest, 8 KB of program and 2 KB of text: {read:.0} µs to read, {verify:.0} µs \
         to verify."
    ));
    report
}
