//! The thread that has all processes made and waits for their ends.
//!
//! One thread, that lives as long as the host, is all that speaks to the keeper. None
//! of the processes stays a zombie, whatever its owner does.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
    process::{Pid, PidfdFlags, getpid, pidfd_open},
};

use super::{
    child::{Child, Process},
    confinement::{Prepared, give_up_grounds},
    group::{self, Group},
    keeper::{Keeper, Unanswered, Unstarted},
    mounts::Mounts,
    pending::{Pending, Reply},
    plan::Plan,
    raw,
    watch::Watch,
};
use crate::{SpawnError, Spec, Step};

/// How many starts may wait. One takes about a millisecond, so a longer queue would
/// only hide that the machine cannot keep up.
const QUEUE: usize = 256;
/// After which time groups are removed that were not empty yet.
const LEFT_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};

/// Starts the process that `spec` describes, on the spawner's thread, without
/// blocking the calling one. Starts are carried out one after the other.
///
/// The process is its own session and process group, is killed when the host dies,
/// can gain no privileges by executing files, and has umask 077. Orphans among what it
/// starts become its children, and are killed with it.
///
/// The first start makes one more process, which is named `orch-keeper`, shares the
/// host's memory, is the parent of all others and ends with the host. A host that ends
/// by itself ends it before, in a function that is registered with `atexit`. Nothing else
/// about the host's own process changes. A host that forks itself, say to become a daemon,
/// changes its user or confines itself must do so before its first start.
///
/// # Errors
///
/// The [`Pending`] gives them: the spec cannot be carried out, 256 starts wait
/// already, or the kernel refused. No instruction of the program has run then.
pub fn spawn(spec: Spec) -> Pending {
    let program = spec.image.name().to_owned();
    let (pending, reply) = Pending::new(program.clone());
    let spawner = match Spawner::get() {
        Ok(spawner) => spawner,
        Err(source) => {
            reply.send(Err(SpawnError::NoProcess { program, source }));
            return pending;
        }
    };
    match spawner.starts.try_send(Start { spec, reply }) {
        Ok(()) => spawner.wake(),
        Err(TrySendError::Full(start)) => {
            start.reply.send(Err(SpawnError::Busy {
                program,
                limit: QUEUE,
            }));
        }
        // Dropping the reply says what happened.
        Err(TrySendError::Disconnected(_)) => {}
    }
    pending
}

struct Start {
    spec: Spec,
    reply: Reply,
}

/// The side of the spawner that other threads see.
struct Spawner {
    starts: SyncSender<Start>,
    wake: OwnedFd,
    leave: Arc<Leave>,
}

/// How the thread is told to end.
struct Leave {
    host: Pid,
    asked: AtomicBool,
    /// Readable when it has ended, and the keeper with it.
    left: OwnedFd,
}

/// The one spawner of this host.
static SPAWNER: OnceLock<Spawner> = OnceLock::new();

impl Spawner {
    /// The spawner, with its thread running.
    fn get() -> io::Result<&'static Self> {
        static STARTING: Mutex<()> = Mutex::new(());

        let _starting = match SPAWNER.get() {
            Some(spawner) => return Ok(spawner),
            None => STARTING.lock().unwrap_or_else(PoisonError::into_inner),
        };
        if let Some(spawner) = SPAWNER.get() {
            return Ok(spawner);
        }
        let (starts, queue) = sync_channel(QUEUE);
        let counter = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = counter()?;
        let leave = Arc::new(Leave {
            host: getpid(),
            asked: AtomicBool::new(false),
            left: counter()?,
        });
        let asked = Arc::clone(&leave);
        let watch = Watch::new(&wake)?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let woken = wake.try_clone()?;
        thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                run(&queue, &woken, watch, &null, &asked);
                bump(&asked.left);
            })?;
        raw::at_exit(leave_in_time);
        Ok(SPAWNER.get_or_init(|| Self {
            starts,
            wake,
            leave,
        }))
    }

    /// Makes the thread look at its queue.
    fn wake(&self) {
        bump(&self.wake);
    }
}

/// The host ends by itself: ends the keeper before that, so that no zombie of it is left
/// to a process 1 that may not care. Waits for two seconds at most; then the keeper sees
/// the end of the host, as when that is killed.
extern "C" fn leave_in_time() {
    // A copy of the host, by `fork`, has neither the thread nor the keeper.
    let Some(spawner) = SPAWNER.get().filter(|it| it.leave.host == getpid()) else {
        return;
    };
    spawner.leave.asked.store(true, Ordering::Release);
    spawner.wake();
    let mut left = [PollFd::new(&spawner.leave.left, PollFlags::IN)];
    let timeout = Timespec {
        tv_sec: 2,
        tv_nsec: 0,
    };
    let _ = poll(&mut left, Some(&timeout));
}

fn bump(counter: &OwnedFd) {
    // Fails only when the counter is full, and then the other side wakes anyway.
    let _ = rustix::io::write(counter, &1_u64.to_ne_bytes());
}

/// The thread, for as long as the host lives. It makes the keeper, which is a child of
/// this thread and cannot be made for it elsewhere, when there is something to start.
fn run(queue: &Receiver<Start>, woken: &OwnedFd, mut watch: Watch, null: &File, leave: &Leave) {
    let mut keeper = None::<Keeper>;
    let mounts = Mounts::open();
    if let Some(changes) = mounts.waking() {
        watch.wake_for(changes);
    }
    loop {
        let is_left = group::remove_left();
        for process in watch.wait(is_left.then_some(&LEFT_PAUSE)) {
            process.end(|pid| match &mut keeper {
                Some(keeper) => keeper.reap(pid),
                None => Err(Unanswered::Killed),
            });
            keeper.take_if(|keeper| keeper.is_lost());
        }
        if mounts.have_changed() {
            // Also while nothing starts: what the host unmounts is to be free.
            give_up_grounds();
        }
        // The counter only says that something came; the queue is emptied anyway.
        let _ = rustix::io::read(woken, &mut [0_u8; 8]);
        if leave.asked.load(Ordering::Acquire) {
            if let Some(keeper) = keeper {
                keeper.retire();
            }
            return group::leave(leave.host);
        }
        while let Ok(Start { spec, reply }) = queue.try_recv() {
            if !reply.is_unwanted() {
                // Killed while there was nothing to do.
                keeper.take_if(|keeper| keeper.is_lost());
                if mounts.have_changed() {
                    give_up_grounds();
                }
                reply.send(start(&mut keeper, &mut watch, null, &spec));
            }
        }
    }
}

/// Whether the kernel made no process for the sake of its namespaces.
fn forbids_namespaces(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::PERM | Errno::NOSPC | Errno::INVAL | Errno::USERS | Errno::NOSYS
    )
}

/// A group that is removed unless a process has it.
struct Unused(Option<Group>);

impl Unused {
    fn used(mut self) -> Option<Group> {
        self.0.take()
    }
}

impl Drop for Unused {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            group.remove();
        }
    }
}

/// Has a process made, and watches over it.
fn start(
    keeper: &mut Option<Keeper>,
    watch: &mut Watch,
    null: &File,
    spec: &Spec,
) -> Result<Child, SpawnError> {
    let program = || spec.image.name().to_owned();
    let no_process = |source: io::Error| SpawnError::NoProcess {
        program: program(),
        source,
    };
    let keeper = match keeper {
        Some(keeper) => keeper,
        None => keeper.insert(Keeper::new().map_err(no_process)?),
    };
    let confinement = spec.confinement.as_ref();
    let prepared = confinement.map(|confinement| confinement.prepare(&spec.image));
    let mut prepared = prepared
        .transpose()
        .map_err(|source| SpawnError::Unconfined {
            program: program(),
            source,
        })?;
    let has_namespaces = prepared.as_ref().is_some_and(Prepared::has_namespaces);
    let unstarted = |unstarted| match unstarted {
        Unstarted::NoProcess(errno) if has_namespaces && forbids_namespaces(errno) => {
            SpawnError::child(program(), Step::Namespaces, errno.into())
        }
        Unstarted::NoProcess(errno) => no_process(errno.into()),
        Unstarted::Lost(lost) => SpawnError::KeeperLost {
            program: program(),
            source: lost.into(),
        },
        Unstarted::Child(step, errno) => {
            let source = io::Error::from_raw_os_error(errno.raw_os_error());
            SpawnError::child(program(), step, source)
        }
    };
    if let Some(prepared) = &mut prepared {
        prepared.lay_ground(keeper).map_err(unstarted)?;
    }
    let group = (!spec.group.is_empty()).then(|| Group::new(&spec.group));
    let (group, entries) = group.transpose().map_err(no_process)?.unzip();
    let group = Unused(group);
    let entries = entries.unwrap_or_default();
    let plan = Plan::new(spec, null.as_fd(), prepared.as_ref(), &entries)?;
    let pid = keeper.start(Box::new(plan)).map_err(unstarted)?;
    // Its id stays its own until the keeper is told to take its zombie away.
    let watched = pidfd_open(pid, PidfdFlags::empty()).and_then(|pidfd| {
        let process = Arc::new(Process::new(pid, pidfd, keeper.fate(), group.used()));
        watch.add(&process).map(|()| process)
    });
    match watched {
        Ok(process) => {
            let child = Child::new(process);
            let handed = prepared.as_ref().map(Prepared::handed_over).transpose();
            match handed {
                Ok(handed) => Ok(child.with(handed.unwrap_or_default())),
                // The child is dropped, and so killed.
                Err(errno) => Err(no_process(errno.into())),
            }
        }
        Err(errno) => {
            // Nobody could tell its end, so it has to go.
            let _ = keeper.reap(pid);
            Err(no_process(errno.into()))
        }
    }
}
