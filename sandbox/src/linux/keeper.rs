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
//! It shares the host's memory and nothing else, so that it costs three stacks and can
//! start what the host has prepared there. A start and an end each cost a message and
//! its answer, some ten microseconds. It stays in the host's namespaces, and is the parent
//! of the first process of all that are made.
//!
//! Only `SIGKILL` ends the keeper before the host. Plugins die with it, and the next
//! start makes another one. One that is stopped is told to go on; when that does not
//! help, or it is silent for other reasons, it is ended with everything below it. So the
//! host waits for it, but never for ever.

use std::{
    cell::Cell,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, OnceLock},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
    net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, getpid, kill_process, kill_process_group,
        pidfd_open, pidfd_send_signal, waitid,
    },
};
use thiserror::Error;

use super::{
    child::Exit,
    children::each_child,
    ground::Laying,
    keeping::Room,
    plan::Plan,
    raw::{self, Beside},
};
use crate::Step;

/// How long the keeper is waited for before somebody looks at it, again and again.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};
/// How many looks may find it stopped before it is ended: a second. They are counted over
/// all that is asked of it, since now and then one that is stopped in a loop gets something
/// done.
const LOOKS_STOPPED: u32 = 50;
/// After how many looks it is ended in any case: ten seconds. Mostly the machine is at
/// its limit then, and every plugin pays for haste.
const LOOKS_SILENT: u32 = 500;
/// How often, and for how many looks, the processes below a keeper are looked for that
/// is to be ended.
const LOOKS_BELOW: u32 = 100;

/// What the keeper is to do, and where it leaves the result.
pub(super) enum Order<'a> {
    /// Make a process.
    Start {
        plan: Box<Plan<'a>>,
        made: Cell<Result<Pid, Errno>>,
    },
    /// Lay a ground.
    Lay {
        laying: Box<Laying>,
        laid: Cell<Result<(), Errno>>,
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
    NoProcess(Errno),
    /// The keeper was lost, and what it may have made.
    Lost(Unanswered),
    /// It failed before its program ran.
    Child(Step, Errno),
}

/// Why the keeper did not do what it was asked for. All but the last are for good.
#[derive(Clone, Copy, Debug, Error)]
pub(super) enum Unanswered {
    #[error("orch-keeper, the parent of all plugins, was killed")]
    Killed,
    #[error(
        "orch-keeper, the parent of all plugins, was stopped by a signal again and again, so it \
         was ended with all of them"
    )]
    Stopped,
    #[error(
        "orch-keeper, the parent of all plugins, gave no answer for ten seconds, so it was ended \
         with all of them"
    )]
    Silent,
    #[error("orch-keeper, the parent of all plugins, cannot do it: {0}")]
    Refused(Errno),
}

impl From<Unanswered> for io::Error {
    fn from(unanswered: Unanswered) -> Self {
        Self::other(unanswered)
    }
}

/// How a keeper was lost, once it is.
pub(super) type Fate = Arc<OnceLock<Unanswered>>;

/// The process that every plugin is a child of. Belongs to the thread that made it.
/// Dropping it kills it.
pub(super) struct Keeper {
    beside: Beside,
    socket: OwnedFd,
    fate: Fate,
    /// How many looks found it stopped, less how often it needed none.
    stopped: Cell<u32>,
    /// The list of its children, where the kernel keeps one.
    children: Option<OwnedFd>,
    /// Those that outlive the host, and so the keeper.
    spared: Vec<Pid>,
}

impl Keeper {
    /// Starts the keeper. Blocks until it is ready, for some seconds at most.
    pub(super) fn new() -> io::Result<Self> {
        let kind = SocketType::SEQPACKET;
        let (socket, its) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        let room = Room::new(getpid(), its.as_raw_fd())?;
        let mut keeper = Self {
            beside: Beside::start(room)?,
            socket,
            fate: Fate::default(),
            stopped: Cell::new(0),
            children: None,
            spared: Vec::new(),
        };
        drop(its);
        keeper.attend();
        match recv(&keeper.socket, &mut [0_u8; 1], RecvFlags::DONTWAIT) {
            Ok((_, 1..)) => {
                keeper.children = list_of_children(keeper.pid());
                Ok(keeper)
            }
            _ => Err(io::Error::other("the keeper of processes did not start")),
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.beside.pid()
    }

    /// How it was lost, once it is. Its processes are lost with it.
    pub(super) fn fate(&self) -> Fate {
        Arc::clone(&self.fate)
    }

    /// Whether it was lost, and every process with it.
    pub(super) fn is_lost(&self) -> bool {
        if is_ready(self.beside.pidfd(), &Timespec::default()) {
            self.fate.get_or_init(|| Unanswered::Killed);
        }
        self.fate.get().is_some()
    }

    /// Makes a process that carries out `plan`. Blocks until it runs its program, for
    /// some seconds at most.
    pub(super) fn start(&mut self, plan: Box<Plan<'_>>) -> Result<Pid, Unstarted> {
        let pidfd = [self.beside.pidfd()];
        let descriptors: Vec<_> = pidfd.into_iter().chain(plan.descriptors()).collect();
        let made = Cell::new(Err(Errno::CANCELED));
        let order = Order::Start { plan, made };
        let Order::Start { plan, made } = *self.ask_for(order, &descriptors)? else {
            return Err(Unstarted::NoProcess(Errno::INVAL));
        };
        if let Some((step, errno)) = plan.failure.get() {
            return Err(Unstarted::Child(step, errno));
        }
        let pid = made.get().map_err(Unstarted::NoProcess)?;
        if plan.outlives_host {
            self.spared.push(pid);
        }
        Ok(pid)
    }

    /// Has the ground of `laying` laid, and handed over by `handover`. Blocks for some
    /// seconds at most.
    pub(super) fn lay(&self, laying: Laying, handover: BorrowedFd<'_>) -> Result<(), Unstarted> {
        let laid = Cell::new(Err(Errno::CANCELED));
        let laying = Box::new(laying);
        let Order::Lay { laying, laid } =
            *self.ask_for(Order::Lay { laying, laid }, &[handover])?
        else {
            return Err(Unstarted::NoProcess(Errno::INVAL));
        };
        match laying.failure.get() {
            Some((step, errno)) => Err(Unstarted::Child(step, errno)),
            None => laid.get().map_err(Unstarted::NoProcess),
        }
    }

    /// Takes away the zombie of `pid`, which has ended, and begins to kill what it left
    /// behind. A process that has not ended is killed. Blocks for some seconds at most.
    pub(super) fn reap(&mut self, pid: Pid) -> Result<Exit, Unanswered> {
        self.spared.retain(|spared| *spared != pid);
        let end = Cell::new(Err(Errno::CHILD));
        match *self.ask(Order::Reap { pid, end }, &[])? {
            Order::Reap { end, .. } => end.get().map_err(Unanswered::Refused),
            Order::Start { .. } | Order::Lay { .. } => Err(Unanswered::Refused(Errno::INVAL)),
        }
    }

    /// Lets it end everything that is below it and then itself, and takes its zombie
    /// away. Blocks for a second or two at most.
    pub(super) fn retire(self) {
        let Self { beside, socket, .. } = self;
        // It sees that there are no more orders.
        drop(socket);
        for _ in 0..LOOKS_STOPPED {
            if is_ready(beside.pidfd(), &LOOK) {
                break;
            }
            let _ = pidfd_send_signal(beside.pidfd(), Signal::CONT);
        }
    }

    /// Asks for a process.
    fn ask_for<'order>(
        &self,
        order: Order<'order>,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Box<Order<'order>>, Unstarted> {
        self.ask(order, descriptors)
            .map_err(|unanswered| match unanswered {
                Unanswered::Refused(errno) => Unstarted::NoProcess(errno),
                lost => {
                    // What it was making may still be in its memory.
                    self.beside.cut_off();
                    Unstarted::Lost(lost)
                }
            })
    }

    fn ask<'order>(
        &self,
        order: Order<'order>,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<Box<Order<'order>>, Unanswered> {
        let socket = self.socket.as_fd();
        let asked = raw::ask(socket, Box::new(order), descriptors, || self.attend());
        asked.map_err(|errno| match errno {
            Errno::PIPE => *self.fate.get_or_init(|| Unanswered::Killed),
            errno => Unanswered::Refused(errno),
        })
    }

    /// Blocks until it has answered or is lost.
    fn attend(&self) {
        let pidfd = self.beside.pidfd();
        for look in 0..LOOKS_SILENT {
            let mut ends = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(&pidfd, PollFlags::IN),
            ];
            // Interrupted: looking too early does no harm.
            if poll(&mut ends, Some(&LOOK)).is_ok_and(|ready| ready > 0) {
                let at_once = u32::from(look == 0);
                self.stopped.set(self.stopped.get().saturating_sub(at_once));
                return;
            }
            if self.is_stopped() {
                self.stopped.set(self.stopped.get() + 1);
            }
            if self.stopped.get() >= LOOKS_STOPPED {
                return self.end(Unanswered::Stopped);
            }
            // Mostly it was stopped once. Does nothing when it was not.
            let _ = pidfd_send_signal(pidfd, Signal::CONT);
        }
        self.end(Unanswered::Silent);
    }

    fn is_stopped(&self) -> bool {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let stopped = waitid(WaitId::Pid(self.pid()), options | raw::ANY_KIND);
        stopped.is_ok_and(|stopped| stopped.is_some())
    }

    /// Ends it, for `reason`. What is below it goes first: orphans would be nobody's.
    fn end(&self, reason: Unanswered) {
        self.fate.get_or_init(|| reason);
        if let Some(list) = &self.children {
            end_all(list, &self.spared);
        }
        let _ = pidfd_send_signal(self.beside.pidfd(), Signal::KILL);
    }
}

/// Kills the processes on `list`, and those that come onto it because they were the
/// children of one that was killed, but `spared`.
///
/// The list is that of a process that does not take zombies away, so an id on it is
/// given to nobody else.
fn end_all(list: &OwnedFd, spared: &[Pid]) {
    let mut seen = spared.to_vec();
    let mut looks = 0;
    while looks < LOOKS_BELOW {
        looks += 1;
        let known = seen.len();
        each_child(list, |pid| {
            if !seen.contains(&pid) {
                seen.push(pid);
                let _ = kill_process_group(pid, Signal::KILL);
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let killed = seen.get(known..).unwrap_or_default();
        if killed.is_empty() {
            return;
        }
        for pid in killed {
            // Its children come onto the list before its end is told.
            while let Ok(end) = pidfd_open(*pid, PidfdFlags::empty())
                && !is_ready(end, &LOOK)
                && looks < LOOKS_BELOW
            {
                looks += 1;
            }
        }
    }
}

/// The list of the children of `pid`, which has one thread.
fn list_of_children(pid: Pid) -> Option<OwnedFd> {
    let pid = pid.as_raw_nonzero();
    let path = format!("/proc/{pid}/task/{pid}/children");
    openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// Whether `descriptor` is readable, within `timeout`.
fn is_ready(descriptor: impl AsFd, timeout: &Timespec) -> bool {
    let mut ready = [PollFd::new(&descriptor, PollFlags::IN)];
    poll(&mut ready, Some(timeout)).is_ok_and(|ready| ready > 0)
}
