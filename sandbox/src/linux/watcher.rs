//! The process that removes the run directory when the host cannot.
//!
//! A host that is killed with `SIGKILL` runs no code, so somebody else has to clean
//! up after it. The watcher reads a pipe whose other end only the host has: the
//! kernel closes that end however the host ends, and the watcher then removes the
//! directory. It is a shell, not a copy of the host, so that it costs no memory
//! of the host's size and works for every embedder.

use std::{os::fd::OwnedFd, path::Path};

use rustix::pipe::{PipeFlags, pipe_with};

use super::{child::Child, image::Image, spawner::spawn};
use crate::{ImageError, SpawnError, Spec};

/// `$1` is the directory. A service manager may signal every process of the host,
/// this one too, so all signals that ask are ignored. Plugins may still be dying
/// and writing, hence several tries.
const SCRIPT: &str = "\
trap '' HUP INT QUIT TERM
while read -r line; do :; done
for try in 1 2 3 4 5; do
  [ -e \"$1\" ] || exit 0
  chmod -R u+rwX -- \"$1\"
  rm -rf -- \"$1\" && exit 0
  sleep 1
done
exit 1
";

/// Where a shell finds `chmod`, `rm` and `sleep`.
const PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin:/run/current-system/sw/bin";

/// Keeps the watcher waiting. Dropping it lets the watcher remove what is left and end.
pub(super) struct Watcher {
    child: Option<Child>,
    _host_lives: OwnedFd,
}

impl Watcher {
    /// Starts watching over the absolute path `directory`. Blocks until the watcher runs.
    pub(super) fn start(directory: &Path) -> Result<Self, SpawnError> {
        let failed = |source| SpawnError::NoProcess {
            program: "the watcher".to_owned(),
            source,
        };
        let shell = Image::interpreter(Path::new("/bin/sh")).map_err(|error| match error {
            ImageError::Io { source, .. } => failed(source),
            other => failed(std::io::Error::other(other)),
        })?;
        let (watched, host_lives) =
            pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        let spec = Spec::new(&shell, "orchestrator-watcher")
            .arguments(["-c", SCRIPT, "orchestrator-watcher"])
            .argument(directory)
            .variable("PATH", PATH)
            .descriptor(0, watched)
            .outlives_host();
        let child = spawn(spec).wait()?;
        Ok(Self {
            child: Some(child),
            _host_lives: host_lives,
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            child.release();
        }
    }
}
