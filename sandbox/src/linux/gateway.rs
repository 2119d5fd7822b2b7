//! The one way out of a network namespace: a socket that listens on its loopback and is
//! the host's.
//!
//! The process makes it before it becomes the program, and sends it to the host. So there
//! is no helper process, nothing that has a path, and nothing of the program's that could
//! be taken for the host's. What the host accepts from it is in the namespace; what it
//! connects to is not.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd},
};

use rustix::{
    io::{Errno, IoSlice, IoSliceMut},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, bind, listen, recvmsg, sendmsg,
        socket_with, socketpair,
    },
};

use super::raw;
use crate::GATEWAY;

/// How many connections may wait until the host accepts them.
const BACKLOG: i32 = 128;
/// Room for one descriptor.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(1));

/// How one new process hands descriptors to the host.
pub(super) struct Handover {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Handover {
    pub(super) fn new() -> Result<Self, Errno> {
        let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
        Ok(Self { ours, theirs })
    }

    /// What the new process needs for [`send`].
    pub(super) fn theirs(&self) -> BorrowedFd<'_> {
        self.theirs.as_fd()
    }

    /// The next that the process has sent, which it did before its image was executed.
    pub(super) fn receive(&self) -> Result<OwnedFd, Errno> {
        let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        recvmsg(
            &self.ours,
            &mut [IoSliceMut::new(&mut [0])],
            &mut control,
            flags,
        )?;
        let sent = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        // Nothing comes where the host may open no more descriptors.
        sent.ok_or(Errno::MFILE)
    }
}

/// Child: listens in its own network and sends the socket through `handover`.
pub(super) fn open_gateway(handover: RawFd) -> Result<(), Errno> {
    let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
    let listener = socket_with(AddressFamily::INET, kind, flags, None)?;
    // Left open: the program does not get it.
    let listener = raw::descriptor(listener.into_raw_fd());
    raw::loopback_up(listener)?;
    bind(listener, &GATEWAY)?;
    listen(listener, BACKLOG)?;
    send(handover, listener)
}

/// Child: sends `descriptor` through `handover`.
pub(super) fn send(handover: RawFd, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor];
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(Errno::INVAL);
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let handover = raw::descriptor(handover);
    sendmsg(handover, &[IoSlice::new(&[0])], &mut control, flags).map(drop)
}
