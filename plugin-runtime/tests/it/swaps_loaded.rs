//! Somebody changes an installed package all the time: while it is loaded, and while
//! what was loaded runs.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;

use crate::support::{File, Home, output, shell_script};

/// How often the package is loaded at least, and at most.
const LOADS: std::ops::Range<u32> = 400..4_000;
/// Of the loads that must have succeeded, so that there was something to see.
const LOADED_MIN: u32 = 10;

const ASSET: &str = "data/name.txt";
const BRANCH: &str =
    "run) printf '\"signed and '; cat \"$ORCHESTRATOR_PLUGIN_DIR/data/name.txt\"; printf '\"';;";

/// Puts another script and another asset in place, and back: as other files, in the
/// same files, and with the whole folder.
fn attack(package: &Path, twin: &Path, is_over: &AtomicBool) -> u32 {
    let staged = twin.with_extension("staged");
    let mut swaps = 0;
    let both = |path: &str| [twin, package].map(|dir| fs::read(dir.join(path)).unwrap());
    let files = ["main.sh", ASSET].map(|path| (package.join(path), both(path)));
    while !is_over.load(Ordering::Relaxed) {
        for (path, contents) in &files {
            for bytes in contents {
                fs::write(&staged, bytes).unwrap();
                fs::set_permissions(&staged, fs::Permissions::from_mode(0o755)).unwrap();
                fs::rename(&staged, path).unwrap();
                thread::yield_now();
            }
            for bytes in contents {
                fs::write(path, bytes).unwrap();
            }
        }
        for _ in 0..2 {
            renameat_with(CWD, package, CWD, twin, RenameFlags::EXCHANGE).unwrap();
            thread::yield_now();
        }
        swaps += 10;
        // So that there are moments in which nothing is wrong.
        thread::park_timeout(std::time::Duration::from_millis(4));
    }
    swaps
}

#[tokio::test]
async fn what_is_loaded_and_run_is_what_was_signed() {
    let home = Home::new();
    let id = home.id("swaps");
    let put = |branch: &str, asset: &str| {
        let script = shell_script(&id, &["run"], branch);
        let files = [("main.sh", &*script), (ASSET, asset)];
        let files = files.map(|(path, content)| File { path, content });
        let phases = json!({ "phases": [{ "name": "run" }] });
        home.unsigned_package(&id, phases, &files)
    };
    let package = put(&BRANCH.replace("signed", "forged"), "forged");
    let twin = home.path("twin");
    fs::rename(&package, &twin).unwrap();
    put(BRANCH, "signed");
    home.sign(&package);
    home.grant_all(&package);
    // The same signatures beside other files.
    fs::create_dir(twin.join("META")).unwrap();
    for file in fs::read_dir(package.join("META")).unwrap().flatten() {
        fs::copy(file.path(), twin.join("META").join(file.file_name())).unwrap();
    }

    let is_over = std::sync::Arc::new(AtomicBool::new(false));
    let attacker = {
        let is_over = std::sync::Arc::clone(&is_over);
        let (package, twin) = (package.clone(), twin.clone());
        thread::spawn(move || attack(&package, &twin, &is_over))
    };
    let (mut loaded, mut refused, mut wrong) = (0, 0, Vec::new());
    for number in 0..LOADS.end {
        if number >= LOADS.start && loaded >= LOADED_MIN && refused > 0 {
            break;
        }
        let runtime = home.start().await;
        let Ok(plugin) = runtime.resolve(&id, &"*".parse().unwrap()) else {
            refused += 1;
            continue;
        };
        loaded += 1;
        // Of what lies on the disk by now, nothing is read again.
        for _ in 0..2 {
            let said = output(&plugin, "run", json!({})).await;
            if said != json!("signed and signed") {
                wrong.push(said);
            }
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let swaps = attacker.join().unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(
        swaps > 100 && loaded >= LOADED_MIN && refused > 0,
        "{swaps} swaps, {loaded} loaded, {refused} refused"
    );
}
