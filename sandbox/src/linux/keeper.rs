//! The process that every plugin is a child of, as the host sees it.
//!
//! A process that starts a session of its own leaves its group, one whose parent ends
//! leaves its family, and one that clears its environment leaves every mark. What none
//! can leave is the nearest ancestor that asked to be the parent of orphans. The host
//! cannot ask for that: it belongs to the embedder, whose own orphans would come along
//! and could not be told from a plugin's. So there is a process between the host and
//! its plugins, the keeper, that has no other children. Each plugin's process is such
//! an ancestor too, so whatever it starts stays below it while it lives; when it has
//! ended, its orphans are the keeper's, and every child of the keeper that it was not
//! asked for is killed. The keeper outlives a host that is killed for as long as it
//! takes to kill everything.
//!
//! It shares the host's memory and nothing else, so that it costs two stacks and can
//! start what the host has prepared there. A start and an end each cost a message and
//! its answer, some ten microseconds. Namespaces are to be made in `steps.rs`, below the
//! keeper, which is then the parent of each namespace's first process.
//!
//! Only `SIGKILL` ends the keeper before the host. Plugins die with it, and the next
//! start makes another one.

use std::{
    cell::Cell,
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair},
    process::{Pid, getpid},
};

use super::{
    child::Exit,
    keeping::Room,
    plan::Plan,
    raw::{self, Beside},
};
use crate::Step;

/// What the keeper is to do, and where it leaves the result.
pub(super) enum Order<'a> {
    /// Make a process.
    Start {
        plan: &'a Plan<'a>,
        made: Cell<Result<Pid, Errno>>,
    },
    /// Take away the zombie of a process that has ended; one that runs is killed.
    Reap {
        pid: Pid,
        end: Cell<Result<Exit, Errno>>,
    },
}

/// Why no process runs.
pub(super) enum Unstarted {
    /// None was made.
    NoProcess(io::Error),
    /// It failed before its program ran.
    Child(Step, Errno),
}

/// The process that every plugin is a child of. Belongs to the thread that made it.
pub(super) struct Keeper {
    beside: Beside,
    socket: OwnedFd,
    is_gone: bool,
}

impl Keeper {
    /// Starts the keeper. Blocks until it is ready.
    pub(super) fn new() -> io::Result<Self> {
        let kind = SocketType::SEQPACKET;
        let (socket, its) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        let room = Room::new(getpid(), its.as_raw_fd())?;
        let beside = Beside::start(room)?;
        drop(its);
        match recv(&socket, &mut [0_u8; 1], RecvFlags::empty())? {
            (_, 1..) => Ok(Self {
                beside,
                socket,
                is_gone: false,
            }),
            (_, 0) => Err(io::Error::other("the keeper of processes did not start")),
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.beside.pid()
    }

    /// Whether somebody killed it, and every process with it.
    pub(super) fn is_gone(&self) -> bool {
        let mut socket = [PollFd::new(&self.socket, PollFlags::empty())];
        let polled = poll(&mut socket, Some(&Timespec::default()));
        self.is_gone || (polled.is_ok() && !socket[0].revents().is_empty())
    }

    /// Makes a process that carries out `plan`. Blocks until it runs its program.
    pub(super) fn start(&mut self, plan: Box<Plan<'_>>) -> Result<Pid, Unstarted> {
        let descriptors = plan.descriptors();
        let made = Cell::new(Err(Errno::CANCELED));
        let order = Order::Start { plan: &plan, made };
        let asked = self.ask(&order, &descriptors);
        if self.is_gone {
            // What it was making may still be at it.
            self.beside.cut_off();
            mem::forget(plan);
            return Err(Unstarted::NoProcess(Errno::CHILD.into()));
        }
        let made = match order {
            Order::Start { made, .. } => asked.and_then(|()| made.get()),
            Order::Reap { .. } => Err(Errno::INVAL),
        };
        let pid = made.map_err(|errno| Unstarted::NoProcess(errno.into()))?;
        match plan.failure.get() {
            None => Ok(pid),
            Some((step, errno)) => Err(Unstarted::Child(step, errno)),
        }
    }

    /// Takes away the zombie of `pid`, which has ended, and begins to kill what it left
    /// behind. A process that has not ended is killed.
    pub(super) fn reap(&mut self, pid: Pid) -> Result<Exit, Errno> {
        let end = Cell::new(Err(Errno::CHILD));
        let order = Order::Reap { pid, end };
        match self.ask(&order, &[]) {
            // It went with the keeper, and nobody saw how.
            Err(Errno::PIPE) => return Err(Errno::CHILD),
            asked => asked?,
        }
        match order {
            Order::Reap { end, .. } => end.get(),
            Order::Start { .. } => Err(Errno::INVAL),
        }
    }

    fn ask(&mut self, order: &Order<'_>, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let asked = raw::ask(self.socket.as_fd(), order, descriptors);
        self.is_gone |= asked == Err(Errno::PIPE);
        asked
    }
}
