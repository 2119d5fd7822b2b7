//! What landlock allows, by what was opened when it was granted.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::io::Errno;

use super::{granted::Granted, raw};
use crate::{GATEWAY, Network, confinement::Access};

/// The first version that decides about truncation too: Linux 6.2.
pub(super) const VERSION_MIN: u32 = 3;

/// Rights of landlock on files, with the version that brought them.
const EXECUTE: u64 = 1 << 0;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIRECTORY: u64 = 1 << 3;
const REMOVE: u64 = 1 << 4 | 1 << 5;
const MAKE_DIRECTORY: u64 = 1 << 7;
const MAKE_FILE: u64 = 1 << 8;
const MAKE_LINK: u64 = 1 << 12;
const REFER: u64 = 1 << 13;
const TRUNCATE: u64 = 1 << 14;
const DEVICE_REQUESTS: u64 = 1 << 15;
/// All that there are up to the third version.
const EVERYTHING: u64 = (1 << 15) - 1;
/// What can be allowed on something that is no directory.
const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | DEVICE_REQUESTS;

const READ: u64 = READ_FILE | READ_DIRECTORY;
/// No devices, pipes or sockets can be made.
const WRITE: u64 =
    READ | WRITE_FILE | REMOVE | MAKE_DIRECTORY | MAKE_FILE | MAKE_LINK | REFER | TRUNCATE;

/// Binding and connecting TCP sockets, from the fourth version on.
const TCP: u64 = 1 << 0 | CONNECT_TCP;
const CONNECT_TCP: u64 = 1 << 1;
/// Abstract sockets and signals of other processes, from the sixth version on.
const SCOPES: u64 = 1 << 0 | 1 << 1;

/// What may be done with the process's own `/proc`.
pub(super) const OWN_PROCESSES: u64 = READ;
/// What may be done in a directory of the process's own.
pub(super) const SCRATCH: u64 = WRITE;

/// The rules for a process that runs `image` and may do what was `granted`.
pub(super) fn ruleset(
    version: u32,
    network: Network,
    granted: &[Arc<Granted>],
    image: BorrowedFd<'_>,
    execute_anything: bool,
) -> Result<OwnedFd, Errno> {
    let devices = if version >= 5 { DEVICE_REQUESTS } else { 0 };
    let tcp = if version >= 4 && network != Network::Unrestricted {
        TCP
    } else {
        0
    };
    let scopes = if version >= 6 { SCOPES } else { 0 };
    let files = EVERYTHING | devices;
    let ruleset = raw::own_ruleset(raw::landlock_ruleset(files, tcp, scopes)?);
    for granted in granted {
        let access = match granted.access {
            Access::Read if execute_anything => READ | EXECUTE,
            Access::Read => READ,
            Access::Execute => READ | EXECUTE,
            Access::Write if granted.is_device => READ_FILE | WRITE_FILE | devices,
            Access::Write => WRITE,
        };
        let possible = if granted.is_directory {
            files
        } else {
            OF_FILES
        };
        let descriptor = granted.descriptor.as_raw_fd();
        raw::landlock_allow(ruleset.as_raw_fd(), access & possible & files, descriptor)?;
    }
    if tcp > 0 && network == Network::Gateway {
        raw::landlock_allow_port(ruleset.as_raw_fd(), CONNECT_TCP, GATEWAY.port())?;
    }
    let image = image.as_fd().as_raw_fd();
    match raw::landlock_allow(ruleset.as_raw_fd(), READ_FILE | EXECUTE, image) {
        // A file in memory is under no path, so landlock does not decide about it.
        Ok(()) | Err(Errno::BADFD) => Ok(ruleset),
        Err(errno) => Err(errno),
    }
}
