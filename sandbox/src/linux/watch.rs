//! The processes whose end the spawner's thread waits for.

use std::{
    collections::HashMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
    io::Errno,
};

use super::child::Process;

/// The key of the descriptor that wakes the thread; no process has the id 0.
const WAKE: u64 = 0;
/// The key of what wakes it besides.
const CHANGE: u64 = u64::MAX;
/// How many ends are looked at in one go.
const EVENTS: usize = 64;

/// The processes whose end the spawner's thread waits for.
pub(super) struct Watch {
    epoll: OwnedFd,
    processes: HashMap<u64, Arc<Process>>,
}

impl Watch {
    /// Watches nothing yet but `wake`.
    pub(super) fn new(wake: &OwnedFd) -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(Self {
            epoll,
            processes: HashMap::new(),
        })
    }

    /// Wakes also when `changes` has something exceptional to tell.
    pub(super) fn wake_for(&self, changes: BorrowedFd<'_>) {
        // Without it, it wakes for something else.
        let _ = epoll::add(
            &self.epoll,
            changes,
            EventData::new_u64(CHANGE),
            EventFlags::PRI,
        );
    }

    /// Watches over `process` until it ends.
    pub(super) fn add(&mut self, process: &Arc<Process>) -> Result<(), Errno> {
        let key = process.key();
        epoll::add(
            &self.epoll,
            process.as_fd(),
            EventData::new_u64(key),
            EventFlags::IN,
        )?;
        self.processes.insert(key, Arc::clone(process));
        Ok(())
    }

    /// Blocks until the thread is woken, processes have ended, which are no longer
    /// watched then, or the time is over.
    pub(super) fn wait(&mut self, timeout: Option<&Timespec>) -> Vec<Arc<Process>> {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        // Interrupted or short of memory: returning too early does no harm.
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout);
        let mut ended = Vec::new();
        for event in events {
            let key = event.data.u64();
            if let Some(process) = self.processes.remove(&key) {
                // Somebody may hold a duplicate, so closing it would not do.
                let _ = epoll::delete(&self.epoll, process.as_fd());
                ended.push(process);
            }
        }
        ended
    }
}
