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
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    process::{PidfdFlags, pidfd_open},
};

use super::{
    child::{Child, Process},
    keeper::{Keeper, Unstarted},
    pending::{Pending, Reply},
    plan::Plan,
    watch::Watch,
};
use crate::{SpawnError, Spec};

/// How many starts may wait. One takes about a millisecond, so a longer queue would
/// only hide that the machine cannot keep up.
const QUEUE: usize = 256;

/// Starts the process that `spec` describes, on the spawner's thread, without
/// blocking the calling one. Starts are carried out one after the other.
///
/// The process is its own session and process group, is killed when the host dies,
/// can gain no privileges by executing files, and has umask 077. Orphans among what it
/// starts become its children, and are killed with it.
///
/// The first start makes one more process, which is named `orch-keeper`, shares the
/// host's memory, is the parent of all others and ends with the host. Nothing about the
/// host's own process changes. A host that forks itself, say to become a daemon,
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
}

impl Spawner {
    /// The one spawner of this host, with its thread running.
    fn get() -> io::Result<&'static Self> {
        static SPAWNER: OnceLock<Spawner> = OnceLock::new();
        static STARTING: Mutex<()> = Mutex::new(());

        let _starting = match SPAWNER.get() {
            Some(spawner) => return Ok(spawner),
            None => STARTING.lock().unwrap_or_else(PoisonError::into_inner),
        };
        if let Some(spawner) = SPAWNER.get() {
            return Ok(spawner);
        }
        let (starts, queue) = sync_channel(QUEUE);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let watch = Watch::new(&wake)?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let woken = wake.try_clone()?;
        let (ready, is_ready) = sync_channel(1);
        thread::Builder::new()
            .name("spawner".to_owned())
            .spawn(move || {
                // The keeper belongs to this thread, and cannot be made for it elsewhere.
                let (keeper, made) = match Keeper::new() {
                    Ok(keeper) => (Some(keeper), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                if ready.send(made).is_ok()
                    && let Some(keeper) = keeper
                {
                    run(&queue, &woken, watch, &null, keeper);
                }
            })?;
        is_ready.recv().map_err(io::Error::other)??;
        Ok(SPAWNER.get_or_init(|| Self { starts, wake }))
    }

    /// Makes the thread look at its queue.
    fn wake(&self) {
        // Fails only when the counter is full, and then the thread wakes anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// The thread, for as long as the host lives.
fn run(
    queue: &Receiver<Start>,
    woken: &OwnedFd,
    mut watch: Watch,
    null: &File,
    mut keeper: Keeper,
) -> ! {
    loop {
        for process in watch.wait() {
            process.end(|pid| keeper.reap(pid));
        }
        // The counter only says that something came; the queue is emptied anyway.
        let _ = rustix::io::read(woken, &mut [0_u8; 8]);
        while let Ok(Start { spec, reply }) = queue.try_recv() {
            if !reply.is_unwanted() {
                reply.send(start(&mut keeper, &mut watch, null, &spec));
            }
        }
    }
}

/// Has a process made, and watches over it.
fn start(
    keeper: &mut Keeper,
    watch: &mut Watch,
    null: &File,
    spec: &Spec,
) -> Result<Child, SpawnError> {
    let program = || spec.image.name().to_owned();
    let no_process = |source: io::Error| SpawnError::NoProcess {
        program: program(),
        source,
    };
    if keeper.is_gone() {
        *keeper = Keeper::new().map_err(no_process)?;
    }
    let plan = Plan::new(spec, null.as_fd(), keeper.pid())?;
    let pid = keeper
        .start(Box::new(plan))
        .map_err(|unstarted| match unstarted {
            Unstarted::NoProcess(source) => no_process(source),
            Unstarted::Child(step, errno) => {
                let source = io::Error::from_raw_os_error(errno.raw_os_error());
                SpawnError::child(program(), step, source)
            }
        })?;
    // Its id stays its own until the keeper is told to take its zombie away.
    let watched = pidfd_open(pid, PidfdFlags::empty()).and_then(|pidfd| {
        let process = Arc::new(Process::new(pid, pidfd));
        watch.add(&process).map(|()| process)
    });
    match watched {
        Ok(process) => Ok(Child::new(process)),
        Err(errno) => {
            // Nobody could tell its end, so it has to go.
            let _ = keeper.reap(pid);
            Err(no_process(errno.into()))
        }
    }
}
