//! Makes one process.

use std::{io, os::fd::BorrowedFd};

use super::{
    child::Process,
    plan::Plan,
    raw::{self, Stack},
};
use crate::{SpawnError, Spec};

/// Starts the process of `spec` and returns when it runs its program. The
/// process dies with the calling thread.
pub(super) fn launch(
    stack: &mut Stack,
    null: BorrowedFd<'_>,
    spec: &Spec,
) -> Result<Process, SpawnError> {
    let plan = Plan::new(spec, null)?;
    let program = || spec.image.name().to_owned();
    let (pid, pidfd) = raw::make_process(stack, &plan).map_err(|source| SpawnError::NoProcess {
        program: program(),
        source,
    })?;
    let process = Process::new(pid, pidfd);
    match plan.failure.get() {
        None => Ok(process),
        Some((step, errno)) => {
            process.end();
            let source = io::Error::from_raw_os_error(errno.raw_os_error());
            Err(SpawnError::child(program(), step, source))
        }
    }
}
