//! What the keeper does: it makes the processes it is asked for, tells how they ended,
//! and kills every other child that comes to it.
//!
//! All of this runs in the host's memory beside the host's threads, so it only makes
//! system calls with what [`Room::new`] prepared: nothing here allocates, locks or can
//! panic.

use std::{
    cell::Cell,
    ffi::{CStr, c_int},
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{CWD, Mode, OFlags, openat, stat},
    io::Errno,
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, SendFlags, send},
    process::{
        Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, chdir, getpid, getppid, kill_process,
        kill_process_group, pidfd_open, set_child_subreaper, set_parent_process_death_signal,
        setsid, waitid,
    },
    thread::set_name,
};

use super::{
    child::reap,
    children::each_child,
    ground::{self, Laying},
    keeper::Order,
    plan::{DESCRIPTORS_MAX, Plan},
    raw::{self, CONTROL_BYTES, Stack},
    steps,
};
use crate::Step;

/// How many processes may run at once.
const KEPT_MAX: usize = 4096;
/// How many zombies of strays are taken away in one go; the rest follow in the next.
const STRAYS_AT_ONCE: usize = 64;
/// After which time strays are looked for again, at first and at most.
const FIRST_PAUSE_NS: i64 = 1_000_000;
const LAST_PAUSE_NS: i64 = 64_000_000;
/// How often a killed host's processes are looked for, a pause apart, until those are
/// left alone that the kernel cannot end.
const LAST_LOOKS: u32 = 60_000;
/// For how many of these looks those are waited for that may go on, and mostly are
/// about to end.
const LOOKS_FOR_OTHERS: u32 = 100;

/// What the keeper works with, prepared by the host.
pub(super) struct Room {
    host: Pid,
    /// The number of its end of the socket to the host.
    socket: RawFd,
    /// For the processes it makes, and for those that these make.
    stacks: [Stack; 2],
    /// The processes it was asked for; has room for all of them.
    kept: Vec<Kept>,
}

struct Kept {
    pid: Pid,
    outlives_host: bool,
}

impl Room {
    pub(super) fn new(host: Pid, socket: RawFd) -> std::io::Result<Self> {
        Ok(Self {
            host,
            socket,
            stacks: [Stack::new()?, Stack::new()?],
            kept: Vec::with_capacity(KEPT_MAX),
        })
    }
}

/// The keeper's whole life.
pub(super) fn keep(room: &mut Room) -> c_int {
    match Keeping::begin(room) {
        Ok(mut keeping) => {
            keeping.serve();
            keeping.end_everything();
            0
        }
        Err(_) => 1,
    }
}

struct Keeping<'room> {
    room: &'room mut Room,
    socket: BorrowedFd<'static>,
    /// Readable when the host is gone.
    host: OwnedFd,
    /// The machine's `/proc`, where it is mounted.
    proc: Option<OwnedFd>,
    /// The list of its children, where the kernel keeps one.
    children: Option<OwnedFd>,
}

impl<'room> Keeping<'room> {
    /// Gives up what is the host's: its session, directory and descriptors.
    fn begin(room: &'room mut Room) -> Result<Self, Errno> {
        raw::block_every_signal()?;
        raw::reset_signal_actions()?;
        setsid()?;
        set_child_subreaper(Some(getpid()))?;
        set_name(c"orch-keeper")?;
        // Somebody may have stopped it when the host is killed.
        set_parent_process_death_signal(Some(Signal::CONT))?;
        chdir(c"/")?;
        let socket = room.socket.unsigned_abs();
        if let Some(below) = socket.checked_sub(1) {
            raw::close_range(0, below)?;
        }
        raw::close_range(socket.saturating_add(1), u32::MAX)?;
        let host = pidfd_open(room.host, PidfdFlags::empty())?;
        // Whoever has the host's id now, it is not the host.
        if getppid() != Some(room.host) {
            return Err(Errno::SRCH);
        }
        let open = |path: &CStr, flags| openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
        let proc = open(c"/proc", OFlags::PATH | OFlags::DIRECTORY).ok();
        let children = open(c"/proc/thread-self/children", OFlags::RDONLY).ok();
        let socket = raw::descriptor(room.socket);
        say_done(socket)?;
        Ok(Self {
            room,
            socket,
            host,
            proc,
            children,
        })
    }

    /// Carries out orders until the host is gone.
    fn serve(&mut self) {
        let mut pause = None;
        loop {
            let timeout = pause.map(|tv_nsec| Timespec { tv_sec: 0, tv_nsec });
            let mut ends = [
                PollFd::new(&self.socket, PollFlags::IN),
                PollFd::new(&self.host, PollFlags::IN),
            ];
            // Interrupted: looking too early does no harm.
            let _ = poll(&mut ends, timeout.as_ref());
            let [ordered, gone] = ends.map(|end| !end.revents().is_empty());
            if gone {
                return;
            }
            let mut strays_may_be = pause.is_some();
            if ordered {
                match self.obey() {
                    Some(after) => strays_may_be |= after,
                    None => return,
                }
            }
            pause = match strays_may_be && self.end_strays() {
                true => Some(pause.map_or(FIRST_PAUSE_NS, |ns| (ns * 2).min(LAST_PAUSE_NS))),
                false => None,
            };
        }
    }

    /// Carries out the next order, and tells whether strays may come of it. There is
    /// nothing to carry out any more when it returns `None`.
    fn obey(&mut self) -> Option<bool> {
        let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let order = raw::next_order(self.socket, &mut control)?;
        let strays_may_be = match order {
            Order::Start { plan, made } => {
                made.set(self.start(plan, &mut control));
                plan.failure.get().is_some()
            }
            Order::Lay { laying, laid } => {
                laid.set(self.lay(laying, &mut control));
                false
            }
            Order::Reap { pid, end } => {
                self.room.kept.retain(|kept| kept.pid != *pid);
                end.set(reap(*pid).and_then(|exit| exit.ok_or(Errno::AGAIN)));
                // Before the host knows of the end: then nothing of it runs any more.
                self.end_strays()
            }
        };
        // Not while the host goes on: what it has left is closed by the C library.
        drop(control);
        say_done(self.socket).ok()?;
        Some(strays_may_be)
    }

    /// Makes a process. One that fails is a stray.
    fn start(
        &mut self,
        plan: &Plan<'_>,
        control: &mut RecvAncillaryBuffer<'_>,
    ) -> Result<Pid, Errno> {
        if self.room.kept.len() >= KEPT_MAX {
            return Err(Errno::AGAIN);
        }
        let numbers = [&plan.keeper].into_iter().chain(plan.numbers());
        let _received = receive(control, numbers)?;
        plan.proc.set(self.proc_number());
        let pid = make_process(&mut self.room.stacks, plan)?;
        if plan.failure.get().is_none() {
            self.room.kept.push(Kept {
                pid,
                outlives_host: plan.outlives_host,
            });
        }
        Ok(pid)
    }

    /// Has a process lay a ground, and waits for its end.
    fn lay(&mut self, laying: &Laying, control: &mut RecvAncillaryBuffer<'_>) -> Result<(), Errno> {
        let _received = receive(control, [&laying.handover].into_iter())?;
        laying.proc.set(self.proc_number());
        let [stack, _] = &mut self.room.stacks;
        let pid = raw::beside(stack, laying, ground::lay, laying.namespaces, &Cell::new(0))?;
        let end = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED)?;
        match end.and_then(|end| end.exit_status()) {
            Some(_) => Ok(()),
            // Somebody killed it.
            None => Err(Errno::CANCELED),
        }
    }

    fn proc_number(&self) -> RawFd {
        self.proc.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// Kills the children that it was not asked for and takes away their zombies.
    /// Returns whether more may come: the children of a stray come when it has ended.
    fn end_strays(&self) -> bool {
        let mut strays = [const { None::<Pid> }; STRAYS_AT_ONCE];
        let mut free = strays.iter_mut();
        let mut any = false;
        self.each_child(|pid| {
            if self.room.kept.iter().any(|kept| kept.pid == pid) {
                return;
            }
            any = true;
            // Its id is its own until its zombie is taken away, which is done below.
            let _ = kill_process(pid, Signal::KILL);
            if let Some(place) = free.next() {
                *place = Some(pid);
            }
        });
        for pid in strays.into_iter().flatten() {
            let _ = waitid(WaitId::Pid(pid), ENDED);
        }
        any
    }

    /// The host is gone: kills everything but what was to outlive it.
    fn end_everything(&self) {
        let outlives = |pid: Pid| {
            let mut kept = self.room.kept.iter();
            kept.any(|kept| kept.pid == pid && kept.outlives_host)
        };
        let pause = Timespec {
            tv_sec: 0,
            tv_nsec: FIRST_PAUSE_NS,
        };
        for look in 0..LAST_LOOKS {
            let mut any = false;
            let mut end = |pid: Pid| {
                if outlives(pid) {
                    any |= look < LOOKS_FOR_OTHERS;
                } else {
                    any = true;
                    let _ = kill_process_group(pid, Signal::KILL);
                    let _ = kill_process(pid, Signal::KILL);
                }
            };
            if !self.each_child(&mut end) {
                // Those it was asked for die with it, and it knows of no others.
                return;
            }
            while let Ok(Some(_)) = waitid(WaitId::All, ENDED) {}
            if !any {
                return;
            }
            let _ = poll(&mut [], Some(&pause));
        }
    }

    /// Hands every child to `each`, zombies too. Returns whether they could be listed.
    /// Only the keeper takes children out of the list, so none is missed.
    fn each_child(&self, each: impl FnMut(Pid)) -> bool {
        self.children
            .as_ref()
            .is_some_and(|list| each_child(list, each))
    }
}

const ENDED: WaitIdOptions = WaitIdOptions::EXITED.union(WaitIdOptions::NOHANG);

/// The descriptors that came with an order; their numbers are noted in `numbers`.
fn receive<'cell>(
    control: &mut RecvAncillaryBuffer<'_>,
    numbers: impl Iterator<Item = &'cell Cell<RawFd>>,
) -> Result<[Option<OwnedFd>; DESCRIPTORS_MAX], Errno> {
    let mut received = [const { None::<OwnedFd> }; DESCRIPTORS_MAX];
    let sent = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    for (place, descriptor) in received.iter_mut().zip(sent.flatten()) {
        *place = Some(descriptor);
    }
    for (number, descriptor) in numbers.zip(&received) {
        // Fewer come when the limit of open files is lower than their number.
        number.set(descriptor.as_ref().ok_or(Errno::MFILE)?.as_raw_fd());
    }
    Ok(received)
}

/// Makes a process that carries out `plan`; returns when it has executed its image or
/// failed, which it notes in the plan.
fn make_process(stacks: &mut [Stack; 2], plan: &Plan<'_>) -> Result<Pid, Errno> {
    let [first, second] = stacks;
    if plan.ground.is_empty() {
        return begin(first, plan, plan.namespaces(), &Cell::new(0));
    }
    let passage = Passage {
        plan,
        stack: Cell::new(Some(second)),
        begun: Cell::new(0),
        made: Cell::new(None),
    };
    let passed = raw::beside(first, &passage, pass, 0, &Cell::new(0))?;
    waitid(WaitId::Pid(passed), WaitIdOptions::EXITED)?;
    if let Some(made) = passage.made.get() {
        return made;
    }
    // Somebody killed it. What it has made may be no program yet, and work with what the
    // host drops after the answer.
    if let Some(begun) = Pid::from_raw(passage.begun.get()) {
        let _ = kill_process(begun, Signal::KILL);
        waitid(WaitId::Pid(begun), WaitIdOptions::EXITED)?;
    }
    Err(Errno::CANCELED)
}

/// The way to a ground: who has entered one does not come back, so another process goes
/// there, makes the one that is wanted as a child of the keeper, and ends.
struct Passage<'plan, 'spec> {
    plan: &'plan Plan<'spec>,
    stack: Cell<Option<&'plan mut Stack>>,
    /// The process that it makes, as soon as there is one.
    begun: Cell<c_int>,
    /// Set when that has become the program, or has failed.
    made: Cell<Option<Result<Pid, Errno>>>,
}

fn pass(passage: &Passage<'_, '_>) -> c_int {
    let plan = passage.plan;
    let made = expect(plan).and_then(|()| {
        let namespaces = plan.ground.iter();
        ground::enter(namespaces.map(|(_, number)| raw::descriptor(number.get())))?;
        let stack = passage.stack.take().ok_or(Errno::CANCELED)?;
        let flags = plan.namespaces() | libc::CLONE_PARENT;
        begin(stack, plan, flags, &passage.begun)
    });
    passage.made.set(Some(made));
    0
}

/// Looks whether what was granted is still there. A file system may take its time, which is
/// then the keeper's, and bounded.
fn expect(plan: &Plan<'_>) -> Result<(), Errno> {
    plan.expected.iter().try_for_each(|(path, identity)| {
        let found = stat(path.as_c_str());
        if found.is_ok_and(|found| (found.st_dev, found.st_ino) == *identity) {
            return Ok(());
        }
        plan.failure.set(Some((Step::PrivateRoot, Errno::STALE)));
        Err(Errno::STALE)
    })
}

/// Makes the process itself, in its group where it can be made there.
fn begin(
    stack: &mut Stack,
    plan: &Plan<'_>,
    flags: c_int,
    begun: &Cell<c_int>,
) -> Result<Pid, Errno> {
    if let Some((_, group)) = &plan.begin {
        plan.has_begun.set(true);
        let made = raw::beside_in(group.get(), stack, plan, steps::run, flags, begun);
        if made.is_ok() {
            return made;
        }
        // It enters by itself. What else was wrong is so again.
        plan.has_begun.set(false);
    }
    raw::beside(stack, plan, steps::run, flags, begun)
}

/// Tells the host that what it asked for is done.
fn say_done(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    send(socket, &[0], SendFlags::NOSIGNAL).map(drop)
}
