//! A process that runs.

use std::{
    collections::BTreeMap,
    fmt, io,
    net::TcpListener,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, waitid},
};

use super::{
    confinement::Handed,
    group::Group,
    keeper::{Fate, Unanswered},
    observe::Observer,
    raw,
};
use crate::ExitStatus;

/// A process that runs. Dropping it kills its process group, without blocking. It
/// never becomes a zombie for longer than it takes the spawner's thread to notice.
///
/// When the process ends, everything that it started is killed, also what left the
/// group by starting a session of its own; so is all of it when the host is killed.
pub struct Child {
    process: Arc<Process>,
    handed: Handed,
    kill_on_drop: bool,
}

impl Child {
    pub(super) fn new(process: Arc<Process>) -> Self {
        Self {
            process,
            handed: Handed::default(),
            kill_on_drop: true,
        }
    }

    pub(super) fn with(mut self, handed: Handed) -> Self {
        self.handed = handed;
        self
    }

    /// The process id, which is also that of its group and session.
    pub fn pid(&self) -> u32 {
        self.process.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// What listens at [`GATEWAY`](crate::GATEWAY) in the network of the process, once,
    /// where that is what it was [granted](crate::Network::Gateway). It blocks. As long as it,
    /// or what was accepted from it, is open, the kernel keeps that network.
    pub fn take_gateway(&mut self) -> Option<TcpListener> {
        self.handed.gateway.take()
    }

    /// What tells of the process's calls, once, where it is
    /// [observed](crate::Grants::observed). Until it is run, the process waits; when it is
    /// dropped, what would be told fails.
    pub fn take_observer(&mut self) -> Option<Observer> {
        self.handed.observer.take()
    }

    /// The descriptor that becomes readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }

    /// Waits, on any runtime, until the process has ended, and tells how. Dropping
    /// the future loses nothing; any number may wait.
    pub fn ended(&self) -> Ended<'_> {
        Ended {
            process: &self.process,
            waiting: None,
        }
    }

    /// How the process ended, or `None` while it runs or has just ended. Does not block.
    ///
    /// # Errors
    ///
    /// When the keeper was lost, and the process with it: nobody saw how it ended. The
    /// error says how the keeper was lost.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        Ok(self.process.ended().transpose()?.map(|exit| exit.status))
    }

    /// The processor time of the process and of the children it waited for, known
    /// once it has ended.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.process.ended()?.ok().map(|exit| exit.cpu_time)
    }

    /// The group of the process and of what it starts, where it was given one.
    pub fn group(&self) -> Option<&Group> {
        self.process.group.as_ref()
    }

    /// Sends `signal` to the process group. Does nothing when the process has ended,
    /// since its group is gone then.
    ///
    /// # Errors
    ///
    /// When no process of the group may be signalled.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        self.process.signal_group(signal)
    }

    /// Kills the process group.
    ///
    /// # Errors
    ///
    /// See [`signal_group`](Self::signal_group).
    pub fn kill_group(&self) -> io::Result<()> {
        self.signal_group(Signal::KILL)
    }

    /// Lets the process run on to its end.
    pub(super) fn release(mut self) {
        self.kill_on_drop = false;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.kill_on_drop {
            // Fails only when nothing is left to kill. The spawner's thread takes
            // the zombie away.
            let _ = self.kill_group();
        }
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd()
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Child")
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

/// Waits for the end of a [`Child`]. Its error is that of
/// [`Child::try_wait`].
#[must_use = "futures do nothing unless awaited"]
pub struct Ended<'child> {
    process: &'child Process,
    /// Its place among those who wait.
    waiting: Option<u64>,
}

impl Future for Ended<'_> {
    type Output = io::Result<ExitStatus>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.process.lock();
        if let Some(ended) = state.ended {
            return Poll::Ready(ended.map(|exit| exit.status).map_err(io::Error::from));
        }
        let place = self.waiting.unwrap_or(state.next_place);
        if self.waiting.is_none() {
            state.next_place += 1;
        }
        state.waiting.insert(place, context.waker().clone());
        drop(state);
        self.waiting = Some(place);
        Poll::Pending
    }
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.waiting {
            self.process.lock().waiting.remove(&place);
        }
    }
}

impl fmt::Debug for Ended<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Ended").finish_non_exhaustive()
    }
}

/// A process as its [`Child`] and the spawner's thread share it.
pub(super) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
    /// That of the keeper whose child it is.
    keeper: Fate,
    group: Option<Group>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Set before the process is waited for; from then on its id, and so the id of its
    /// group, may belong to somebody else.
    over: bool,
    /// Set when the process has been waited for.
    ended: Option<Result<Exit, Unanswered>>,
    waiting: BTreeMap<u64, Waker>,
    next_place: u64,
}

#[derive(Clone, Copy)]
pub(super) struct Exit {
    status: ExitStatus,
    cpu_time: Duration,
}

impl Process {
    pub(super) fn new(pid: Pid, pidfd: OwnedFd, keeper: Fate, group: Option<Group>) -> Self {
        Self {
            pid,
            pidfd,
            keeper,
            group,
            state: Mutex::default(),
        }
    }

    /// A number that no other process has while this one is not waited for.
    pub(super) fn key(&self) -> u64 {
        u64::from(self.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// How the process ended, once the spawner's thread has noticed.
    fn ended(&self) -> Option<Result<Exit, Unanswered>> {
        self.lock().ended
    }

    /// The process has ended: kills what is left of its group, has `reap` take its
    /// zombie away and wakes those who wait. `reap` may take its time.
    pub(super) fn end(&self, reap: impl FnOnce(Pid) -> Result<Exit, Unanswered>) {
        let mut state = self.lock();
        // While the zombie is there its id is not given to another group.
        let _ = kill_process_group(self.pid, Signal::KILL);
        state.over = true;
        // Whoever looks, signals or waits meanwhile must not wait for the keeper.
        drop(state);
        // The keeper of now may be another one.
        let end = match self.keeper.get() {
            Some(lost) => Err(*lost),
            None => reap(self.pid),
        };
        // Whoever learns of the end can ask what the group has seen.
        if let Some(group) = &self.group {
            group.remove();
        }
        let mut state = self.lock();
        state.ended = Some(end);
        let waiting = std::mem::take(&mut state.waiting);
        // Outside the lock: a waker may do as it likes.
        drop(state);
        waiting.into_values().for_each(Waker::wake);
    }

    fn signal_group(&self, signal: Signal) -> io::Result<()> {
        // Held across the call: the process must not be waited for meanwhile.
        let state = self.lock();
        if !state.over {
            kill_process_group(self.pid, signal)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Keeper: takes away the zombie of the child `pid` and tells how it ended, or `None`
/// while it runs.
pub(super) fn reap(pid: Pid) -> Result<Option<Exit>, Errno> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let Some(ended) = waitid(WaitId::Pid(pid), options)? else {
        return Ok(None);
    };
    Ok(Some(Exit {
        status: exit_status(&ended),
        cpu_time: raw::reap(pid)?,
    }))
}

fn exit_status(status: &WaitIdStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Exited(code),
        (None, signal) => ExitStatus::Signaled {
            signal: signal.unwrap_or_default(),
            core: status.dumped(),
        },
    }
}
