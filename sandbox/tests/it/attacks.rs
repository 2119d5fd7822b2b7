//! Real programs that try to get at what they were not granted, with the grant and
//! without. Each test runs as the user of the tests; as root, all of them run again as
//! an ordinary user ([`as_an_ordinary_user`]).

mod files;
mod gateway;
mod ground;
mod kernel;
mod observed;
mod programs;
mod resources;
pub(crate) use resources::FORKS;

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use orchestrator_sandbox::{
    Confinement, ExitStatus, Grants, Image, Layers, Limits, Network, Spec, probe,
};

use crate::support::{output, program, sealed};

/// What a test works with: a directory that is granted and one that is not.
pub(crate) struct Scene {
    _directory: tempfile::TempDir,
    granted: PathBuf,
    secret: PathBuf,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let (granted, secret) = (at("granted"), at("granted-not"));
        for (path, text) in [(&granted, "public"), (&secret, "secret")] {
            std::fs::create_dir(path).expect("a directory");
            std::fs::write(path.join("file"), text).expect("a file");
        }
        Self {
            _directory: directory,
            granted,
            secret,
        }
    }

    fn secret_file(&self) -> String {
        self.secret.join("file").display().to_string()
    }

    fn granted_file(&self) -> String {
        self.granted.join("file").display().to_string()
    }
}

/// Every layer there is.
pub(crate) fn confined(grants: &Grants) -> Confinement {
    Confinement::new(grants, Layers::ALL, Layers::ALL).expect("this host has all layers")
}

/// A shell that may start the programs of the system.
fn shell(script: &str) -> Spec {
    crate::support::shell(script).variable("PATH", "/usr/bin:/bin")
}

/// The output of `script`, confined by every layer.
async fn script(grants: Grants, text: &str) -> String {
    output(shell(text).confinement(&confined(&grants.execute_anything())))
        .await
        .1
}

/// The C program `source`, built in the test.
pub(crate) fn c_program(source: &str) -> Image {
    let directory = tempfile::tempdir().expect("a directory");
    let (from, to) = (directory.path().join("it.c"), directory.path().join("it"));
    std::fs::write(&from, source).expect("a file");
    #[expect(clippy::disallowed_types, reason = "a compiler is no plugin")]
    let compiled = std::process::Command::new("cc")
        .args(["-O0", "-w", "-o"])
        .args([&to, &from])
        .output()
        .expect("cc is installed");
    let said = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{said}");
    sealed("it", std::fs::read(&to).expect("it was built"))
}

/// The interpreter itself: a shim of a version manager could not start it.
fn python() -> Option<Image> {
    let found = ["/usr/bin/python3", "/usr/local/bin/python3"];
    let found = found.into_iter().find(|path| Path::new(path).exists())?;
    Some(program(found))
}

/// Runs all the other tests here once more as somebody who is not root.
#[tokio::test]
async fn as_an_ordinary_user() {
    let itself = std::env::current_exe().expect("the test binary has a path");
    let is_root = std::fs::metadata("/proc/self").expect("/proc").uid() == 0;
    if !is_root {
        return;
    }
    // Where the tests were built, somebody else may not be let in.
    let directory = tempfile::tempdir().expect("a directory");
    let (binary, temporary) = (directory.path().join("it"), directory.path().join("tmp"));
    std::fs::copy(itself, &binary).expect("a copy");
    std::fs::create_dir(&temporary).expect("a directory");
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("it is ours");
    };
    mode(directory.path(), 0o755);
    mode(&temporary, 0o777);
    let run = move || {
        use std::os::unix::process::CommandExt;
        #[expect(
            clippy::disallowed_types,
            reason = "an operator starts a host like this"
        )]
        std::process::Command::new(&binary)
            .args(["attacks::", "--skip", "as_an_ordinary_user"])
            .env("TMPDIR", &temporary)
            .current_dir("/")
            .uid(1500)
            .gid(1500)
            .output()
            .expect("it starts")
    };
    let run = tokio::task::spawn_blocking(run).await.expect("it ends");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
    assert!(!said.contains(" 0 passed"), "{said}");
    drop(directory);
}
