//! Which bytes run, and what is said when they do not.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{fd::AsFd, fd::AsRawFd, unix::fs::PermissionsExt},
    path::Path,
};

use miette::Diagnostic;
use orchestrator_sandbox::{ExitStatus, Image, ImageError, Limits, SpawnError, Spec, Step, spawn};
use rustix::io::Errno;

use crate::support::{output, program, sealed, shell};

async fn failure(spec: Spec) -> (Step, Errno) {
    match spawn(spec).await {
        Err(error @ SpawnError::Child { .. }) => {
            assert!(error.help().is_some(), "{error} helps");
            let SpawnError::Child { step, source, .. } = error else {
                unreachable!()
            };
            (step, Errno::from_io_error(&source).expect("an errno"))
        }
        other => panic!("no failure of a child: {other:?}"),
    }
}

async fn refusal(spec: Spec) -> String {
    match spawn(spec).await {
        Err(SpawnError::Invalid { reason, .. }) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_program_swapped_after_sealing_does_not_run() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("program");
    fs::copy("/bin/true", &path).expect("a copy");
    let file = File::open(&path).expect("the copy");
    let length = file.metadata().expect("its size").len();
    let image = Image::seal("program", file, length).expect("sealed");

    fs::write(&path, fs::read("/bin/false").expect("a program")).expect("swapped in place");
    assert_eq!(
        output(Spec::new(&image, "program")).await.0,
        ExitStatus::Exited(0)
    );
    let swapped = Image::interpreter(&path).expect("the path");
    assert_eq!(
        output(Spec::new(&swapped, "program")).await.0,
        ExitStatus::Exited(1)
    );
}

#[tokio::test]
async fn a_sealed_image_cannot_be_changed() {
    let image = sealed("script", "echo original");
    let path = format!("/proc/self/fd/{}", image.as_fd().as_raw_fd());
    let denied = |result: io::Result<()>| {
        assert_eq!(
            result.expect_err("refused").kind(),
            io::ErrorKind::PermissionDenied
        );
    };
    let open = || File::options().read(true).write(true).open(&path);
    denied(open().and_then(|mut file| file.write_all(b"evil")));
    denied(open().and_then(|file| file.set_len(0)));
    denied(open().and_then(|file| file.set_len(1 << 20)));
    let unseal = rustix::fs::fcntl_add_seals(&image, rustix::fs::SealFlags::empty());
    denied(unseal.map_err(io::Error::from));

    // The process is root here as often as not, and cannot either.
    let spec = shell("echo evil > /proc/self/fd/3").descriptor(3, image.reader().expect("reader"));
    assert_ne!(output(spec).await.0, ExitStatus::Exited(0));
    let mut text = String::new();
    File::from(image.reader().expect("reader"))
        .read_to_string(&mut text)
        .expect("text");
    assert_eq!(text, "echo original");
}

#[tokio::test]
async fn a_sealed_script_runs_by_descriptor() {
    let script = sealed("script", "echo \"$0 $1\"; exit 3\n");
    // Twice: a reader has an offset of its own.
    for _ in 0..2 {
        let spec = Spec::new(&program("/bin/sh"), "sh")
            .arguments(["/proc/self/fd/3", "argument"])
            .descriptor(3, script.reader().expect("reader"));
        let expected = "/proc/self/fd/3 argument\n".to_owned();
        assert_eq!(output(spec).await, (ExitStatus::Exited(3), expected));
    }
}

#[test]
fn an_image_has_exactly_the_expected_length() {
    let actual = |bytes: &[u8], expected| match Image::seal("image", bytes, expected) {
        Err(ImageError::Length { actual, .. }) => actual,
        other => panic!("{other:?}"),
    };
    assert_eq!(actual(b"abc", 4), "shorter");
    assert_eq!(actual(b"abc", 2), "longer");
    // Endless data ends.
    match Image::seal("image", io::repeat(0), 1 << 20) {
        Err(ImageError::Length {
            actual: "longer", ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_interpreter_is_the_absolute_path_of_a_file() {
    for path in ["sh", "./sh", "/bin/", "/dev/null"] {
        match Image::interpreter(Path::new(path)) {
            Err(ImageError::Interpreter { .. }) => {}
            other => panic!("{path}: {other:?}"),
        }
    }
    match Image::interpreter(Path::new("/no/such/interpreter")) {
        Err(ImageError::Io { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_failed_start_names_step_and_errno() {
    let garbage = sealed("garbage", b"\x7fELF but no program");
    assert_eq!(
        failure(Spec::new(&garbage, "garbage")).await,
        (Step::Exec, Errno::NOEXEC)
    );

    let script = sealed("script", "#!/bin/sh\nexit 0\n");
    assert_eq!(
        failure(Spec::new(&script, "script")).await,
        (Step::Exec, Errno::NOENT)
    );

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("program");
    fs::copy("/bin/true", &path).expect("a copy");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
    let forbidden = Image::interpreter(&path).expect("the file");
    assert_eq!(
        failure(Spec::new(&forbidden, "program")).await,
        (Step::Exec, Errno::ACCESS)
    );

    let homeless = shell("true").working_directory("/no/such/directory");
    assert_eq!(
        failure(homeless).await,
        (Step::WorkingDirectory, Errno::NOENT)
    );

    let huge = shell("true").argument("x".repeat(200_000));
    assert_eq!(failure(huge).await, (Step::Exec, Errno::TOOBIG));
}

#[tokio::test]
async fn a_spec_that_cannot_be_carried_out_is_refused() {
    let null = || File::open("/dev/null").expect("/dev/null");
    assert!(
        refusal(shell("true").argument("a\0b"))
            .await
            .contains("NUL")
    );
    assert!(
        refusal(shell("true").variable("A=B", ""))
            .await
            .contains("A=B")
    );
    assert!(
        refusal(shell("true").variable("", "value"))
            .await
            .contains("no name")
    );
    assert!(
        refusal(shell("true").descriptor(256, null()))
            .await
            .contains("255")
    );
    assert!(
        refusal(shell("true").descriptor(-1, null()))
            .await
            .contains("255")
    );
    let limits = Limits {
        open_files: Some(9),
        ..Limits::default()
    };
    let spec = shell("true").descriptor(9, null()).limits(limits);
    assert!(refusal(spec).await.contains("no descriptor 9"));
}
