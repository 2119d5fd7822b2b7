//! Whether what is mounted on this machine has changed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, OFlags, openat},
};

/// The host's list of mounts, which tells each reader once of every change.
pub(super) struct Mounts {
    list: Option<OwnedFd>,
    /// The same for who waits for a change.
    waking: Option<OwnedFd>,
}

impl Mounts {
    pub(super) fn open() -> Self {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            openat(CWD, c"/proc/self/mountinfo", flags, Mode::empty()).ok()
        };
        Self {
            list: open(),
            waking: open(),
        }
    }

    /// Has something exceptional to tell when there was a change.
    pub(super) fn waking(&self) -> Option<BorrowedFd<'_>> {
        self.waking.as_ref().map(AsFd::as_fd)
    }

    /// Whether there was a change since this was asked last. Where nobody can tell there was.
    pub(super) fn have_changed(&self) -> bool {
        self.list.as_ref().is_none_or(|list| {
            let mut changes = [PollFd::new(list, PollFlags::PRI)];
            poll(&mut changes, Some(&Timespec::default())) != Ok(0)
        })
    }
}
