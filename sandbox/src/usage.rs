//! What a process and everything it started use.

use std::time::Duration;

/// What a process and everything it started use, summed at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// Resident memory in bytes. Pages that processes share count once. Those of a
    /// process whose owner keeps the account of them from us count in full.
    pub memory_bytes: u64,
    /// Processor time, user and system, since the start, with that of children
    /// that have already ended and been waited for.
    pub cpu_time: Duration,
    /// Processes that are alive.
    pub processes: u64,
    /// Threads of those processes.
    pub threads: u64,
    /// Open descriptors of those processes; 0 for a process whose owner keeps
    /// them from us.
    pub open_files: u64,
}
