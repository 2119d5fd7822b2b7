//! The thread that all processes are children of.
//!
//! The kernel kills a process that asked to die with its parent when the *thread*
//! that made it ends. Threads of a runtime come and go, so one thread that lives
//! as long as the host makes all processes. It also waits for their ends, so that
//! none stays a zombie, whatever its owner does.

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

use rustix::event::{EventfdFlags, eventfd};

use super::{
    child::Child,
    launch::launch,
    pending::{Pending, Reply},
    raw::Stack,
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
/// can gain no privileges by executing files, and has umask 077. A host that forks
/// itself, say to become a daemon, must do so before its first start.
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
                // The stack belongs to this thread, and cannot be made for it elsewhere.
                let (stack, made) = match Stack::new() {
                    Ok(stack) => (Some(stack), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                if ready.send(made).is_ok()
                    && let Some(stack) = stack
                {
                    run(&queue, &woken, watch, &null, stack);
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
    mut stack: Stack,
) -> ! {
    loop {
        watch.wait();
        // The counter only says that something came; the queue is emptied anyway.
        let _ = rustix::io::read(woken, &mut [0_u8; 8]);
        while let Ok(Start { spec, reply }) = queue.try_recv() {
            if !reply.is_unwanted() {
                reply.send(start(&mut stack, &mut watch, null, &spec));
            }
        }
    }
}

fn start(
    stack: &mut Stack,
    watch: &mut Watch,
    null: &File,
    spec: &Spec,
) -> Result<Child, SpawnError> {
    let process = Arc::new(launch(stack, null.as_fd(), spec)?);
    if let Err(errno) = watch.add(&process) {
        process.end();
        let program = spec.image.name().to_owned();
        return Err(SpawnError::NoProcess {
            program,
            source: errno.into(),
        });
    }
    Ok(Child::new(process))
}
