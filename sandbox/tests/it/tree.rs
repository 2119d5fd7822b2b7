//! Files with paths, and directories that go away.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

use orchestrator_sandbox::{ExitStatus, RunDirectory, TreeBuilder, TreeError, sweep};

use crate::support::{eventually, output, shell};

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).expect("the file is there").mode() & 0o7777
}

fn add(tree: &mut TreeBuilder, path: &str, mode: u32, text: &str) -> Result<(), TreeError> {
    tree.add(Path::new(path), mode, text.as_bytes(), text.len() as u64)
}

fn count(path: &Path) -> usize {
    fs::read_dir(path).expect("a directory").count()
}

#[tokio::test]
async fn a_tree_holds_the_files_read_only_and_goes_on_drop() {
    let parent = tempfile::tempdir().expect("a directory");
    let run = RunDirectory::claim(parent.path()).expect("claimed");
    let mut tree = run.tree().expect("a tree");
    add(&mut tree, "main.sh", 0o755, "exec cat assets/deep/text\n").expect("added");
    add(&mut tree, "assets/deep/text", 0o644, "hello").expect("added");
    add(&mut tree, "assets/empty", 0o600, "").expect("added");
    let tree = tree.finish().expect("finished");

    assert_eq!(mode(parent.path().join(run.path())), 0o700);
    assert_eq!(mode(tree.path().parent().expect("a parent")), 0o700);
    for directory in ["", "assets", "assets/deep"] {
        assert_eq!(mode(tree.path().join(directory)), 0o500, "{directory}");
    }
    assert_eq!(mode(tree.path().join("main.sh")), 0o555);
    assert_eq!(mode(tree.path().join("assets/deep/text")), 0o444);
    assert_eq!(mode(tree.path().join("assets/empty")), 0o444);

    let spec = shell("./main.sh").working_directory(tree.path());
    // The kernel needs an interpreter line; the shell runs a file without one.
    assert_eq!(
        output(spec).await,
        (ExitStatus::Exited(0), "hello".to_owned())
    );

    let path = tree.path().to_owned();
    drop(tree);
    assert!(!path.exists());
    let host = run.path().to_owned();
    drop(run);
    assert!(!host.exists());
}

#[test]
fn only_plain_paths_are_taken_and_each_once() {
    let parent = tempfile::tempdir().expect("a directory");
    let run = RunDirectory::claim(parent.path()).expect("claimed");
    let mut tree = run.tree().expect("a tree");
    add(&mut tree, "file", 0o644, "").expect("added");
    for path in [
        "",
        ".",
        "..",
        "/etc/evil",
        "../evil",
        "a/../../evil",
        "file",
        "file/below",
    ] {
        match add(&mut tree, path, 0o644, "evil") {
            Err(TreeError::Path { .. }) => {}
            other => panic!("{path:?}: {other:?}"),
        }
    }
    let short = tree.add(Path::new("short"), 0o644, &b"abc"[..], 4);
    assert!(matches!(short, Err(TreeError::Path { .. })), "{short:?}");
    let endless = tree.add(Path::new("endless"), 0o644, io::repeat(0), 4096);
    assert!(
        matches!(endless, Err(TreeError::Path { .. })),
        "{endless:?}"
    );
    assert!(!parent.path().join("evil").exists() && !Path::new("/etc/evil").exists());

    drop(tree);
    assert_eq!(count(run.path()), 0);
}

#[test]
fn a_link_planted_in_the_tree_is_not_followed() {
    let outside = tempfile::tempdir().expect("a directory");
    let parent = tempfile::tempdir().expect("a directory");
    let run = RunDirectory::claim(parent.path()).expect("claimed");
    let mut tree = run.tree().expect("a tree");
    add(&mut tree, "first", 0o644, "").expect("added");
    let root = run.path().join("0/root");
    symlink(outside.path(), root.join("assets")).expect("planted");
    add(&mut tree, "assets/file", 0o644, "text").expect_err("refused");
    assert_eq!(count(outside.path()), 0);

    fs::write(outside.path().join("kept"), "").expect("a file");
    drop(tree);
    assert!(!root.exists());
    assert_eq!(count(outside.path()), 1, "removing follows no link either");
}

#[test]
fn a_private_directory_goes_with_all_its_content() {
    let parent = tempfile::tempdir().expect("a directory");
    let run = RunDirectory::claim(parent.path()).expect("claimed");
    let directory = run.private_directory().expect("made");
    fs::create_dir_all(directory.path().join("a/b/c")).expect("made");
    fs::write(directory.path().join("a/b/socket"), "").expect("written");
    fs::set_permissions(
        directory.path().join("a/b"),
        fs::Permissions::from_mode(0o500),
    )
    .expect("a mode");
    // The directory outlives the handle it was made from.
    let host = run.path().to_owned();
    drop(run);
    assert!(directory.path().exists());
    drop(directory);
    assert!(!host.exists());
}

#[test]
fn a_sweep_removes_what_dead_hosts_left_and_nothing_else() {
    let parent = tempfile::tempdir().expect("a directory");
    let living = RunDirectory::claim(parent.path()).expect("claimed");
    let dead = parent.path().join("host-1-dead/0/root/deep");
    fs::create_dir_all(&dead).expect("made");
    fs::write(dead.join("file"), "").expect("written");
    fs::set_permissions(&dead, fs::Permissions::from_mode(0o500)).expect("a mode");
    fs::create_dir(parent.path().join("other")).expect("made");

    assert_eq!(sweep(parent.path()).expect("swept"), 1);
    assert!(living.path().exists() && parent.path().join("other").exists());
    assert!(!parent.path().join("host-1-dead").exists());
    assert_eq!(sweep(parent.path()).expect("swept"), 0);
}

#[test]
fn hosts_that_claim_and_sweep_at_once_keep_their_directories() {
    let parent = tempfile::tempdir().expect("a directory");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let run = RunDirectory::claim(parent.path()).expect("claimed");
                    sweep(parent.path()).expect("swept");
                    assert!(run.path().exists());
                }
            });
        }
    });
    assert_eq!(count(parent.path()), 0);
}

#[test]
fn a_run_directory_that_others_can_write_to_is_refused() {
    let parent = tempfile::tempdir().expect("a directory");
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o770)).expect("a mode");
    for refused in [
        RunDirectory::claim(parent.path()).map(drop),
        sweep(parent.path()).map(drop),
    ] {
        assert!(
            matches!(refused, Err(TreeError::UnsafeRunDirectory { .. })),
            "{refused:?}"
        );
    }
    let made = parent.path().join("made/here");
    RunDirectory::claim(&made).expect("made");
    assert_eq!(mode(made), 0o700);
}

#[tokio::test]
async fn the_watcher_ends_with_the_run_directory() {
    let parent = tempfile::tempdir().expect("a directory");
    let run = RunDirectory::claim(parent.path()).expect("claimed");
    drop(run.private_directory().expect("made"));
    let host = run.path().to_str().expect("UTF-8").to_owned();
    let watched = || {
        fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .any(|entry| {
                fs::read_to_string(entry.path().join("cmdline"))
                    .is_ok_and(|arguments| arguments.contains(&host))
            })
    };
    // A process that has just started has no arguments for a moment.
    eventually("the watcher runs", watched).await;
    drop(run);
    eventually("the watcher has ended", || !watched()).await;
}
