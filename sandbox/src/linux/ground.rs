//! Namespaces that are made once and that many processes begin in: those of one
//! confinement.
//!
//! To make a network and to put a root together takes the kernel longer than to start a
//! program. Both are the same for every process that is granted the same, and none of them
//! can change what is in there: each gets namespaces of processes, of messages and of names
//! of its own, a copy of the mounts, and a user namespace below the one that owns the
//! ground, in which it has no rights. They share a network that leads nowhere.

use std::{
    cell::Cell,
    ffi::{CStr, c_int},
    os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd},
    sync::Arc,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    process::{Gid, Uid, getegid, geteuid},
    thread::move_into_link_name_space,
};

use super::{
    confinement::Maps,
    gateway::{Handover, send},
    granted::Granted,
    keeper::{Keeper, Unstarted},
    namespaces::become_nobody,
    raw,
    root::Root,
};
use crate::Step;

/// Every kind that there can be, below the `/proc` of the machine. Who has entered the
/// first, which owns them, may enter the others.
const KINDS: [(c_int, &CStr); 3] = [
    (libc::CLONE_NEWUSER, c"self/ns/user"),
    (libc::CLONE_NEWNS, c"self/ns/mnt"),
    (libc::CLONE_NEWNET, c"self/ns/net"),
];

/// The namespaces, which live as long as this.
#[derive(Debug)]
pub(super) struct Ground {
    granted: Vec<Arc<Granted>>,
    /// The host's user and group then, to whom it belongs.
    owner: (Uid, Gid),
    namespaces: Vec<OwnedFd>,
}

impl Ground {
    /// Has `keeper` lay what `plan` says, for processes that are `granted` as much.
    pub(super) fn new(
        keeper: &Keeper,
        plan: Laying,
        granted: &[Arc<Granted>],
    ) -> Result<Self, Unstarted> {
        let handover = Handover::new().map_err(Unstarted::NoProcess)?;
        let kinds = plan.kinds().count();
        keeper.lay(plan, handover.theirs())?;
        let received = (0..kinds).map(|_| handover.receive());
        let namespaces: Result<_, Errno> = received.collect();
        Ok(Self {
            granted: granted.to_vec(),
            owner: (geteuid(), getegid()),
            namespaces: namespaces.map_err(Unstarted::NoProcess)?,
        })
    }

    /// Whether it is one for processes that are `granted` this much.
    pub(super) fn is_for(&self, granted: &[Arc<Granted>]) -> bool {
        let mut pairs = self.granted.iter().zip(granted);
        self.owner == (geteuid(), getegid())
            && self.granted.len() == granted.len()
            && pairs.all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// In the order in which they are to be [entered](enter).
    pub(super) fn namespaces(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.namespaces.iter().map(AsFd::as_fd)
    }
}

/// How a ground is laid, in the words of system calls.
pub(super) struct Laying {
    /// Flags of `clone`.
    pub(super) namespaces: c_int,
    maps: Maps,
    root: Option<Root>,
    /// The number that the keeper has the machine's `/proc` under.
    pub(super) proc: Cell<RawFd>,
    /// The number that it has the other end of the [`Handover`] under.
    pub(super) handover: Cell<RawFd>,
    /// Written by the process that lays it, when that fails.
    pub(super) failure: Cell<Option<(Step, Errno)>>,
}

impl Laying {
    pub(super) fn new(namespaces: c_int, root: Option<Root>) -> Self {
        Self {
            namespaces,
            maps: Maps::of_host(),
            root,
            proc: Cell::new(-1),
            handover: Cell::new(-1),
            failure: Cell::new(None),
        }
    }

    fn kinds(&self) -> impl Iterator<Item = &'static CStr> {
        let of = |(flag, name): (c_int, _)| (self.namespaces & flag != 0).then_some(name);
        KINDS.into_iter().filter_map(of)
    }
}

/// Child: lays the ground that it was made on, and hands it to the host.
pub(super) fn lay(laying: &Laying) -> c_int {
    match try_lay(laying) {
        Ok(()) => 0,
        Err(failure) => {
            laying.failure.set(Some(failure));
            1
        }
    }
}

fn try_lay(laying: &Laying) -> Result<(), (Step, Errno)> {
    let at = |step: Step| move |errno: Errno| (step, errno);
    let proc = raw::open_descriptor(laying.proc.get()).map_err(at(Step::Namespaces))?;
    become_nobody(proc, &laying.maps).map_err(at(Step::Namespaces))?;
    if let Some(root) = &laying.root {
        root.build().map_err(at(Step::PrivateRoot))?;
    }
    for name in laying.kinds() {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let opened = openat(proc, name, flags, Mode::empty());
        let sent = opened.and_then(|namespace| {
            // Left open: the process ends.
            let namespace = raw::descriptor(namespace.into_raw_fd());
            send(laying.handover.get(), namespace)
        });
        sent.map_err(at(Step::Namespaces))?;
    }
    Ok(())
}

/// Child: enters `namespaces`, those of a [`Ground`] in their order.
pub(super) fn enter<'fd>(
    mut namespaces: impl Iterator<Item = BorrowedFd<'fd>>,
) -> Result<(), Errno> {
    namespaces.try_for_each(|namespace| move_into_link_name_space(namespace, None))
}
