//! What process trees use, read from `/proc`.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::Duration,
};

use procfs::process::{Process, Stat, all_processes};
use rustix::param::{clock_ticks_per_second, page_size};

use crate::TreeUsage;

/// More processes than this are not looked at in one reading; `/proc` lists the
/// oldest ids first.
const MAX_PROCESSES: usize = 32_768;

/// All processes of the machine at one moment. One reading serves any number of
/// trees.
#[derive(Debug)]
pub struct ProcessTable {
    processes: HashMap<i32, Row>,
    children: HashMap<i32, Vec<i32>>,
}

#[derive(Debug)]
struct Row {
    group: i32,
    session: i32,
    alive: bool,
    threads: u64,
    rss_bytes: u64,
    cpu_time: Duration,
}

impl ProcessTable {
    /// Reads `/proc`; about 20 µs for each process of the machine. Blocks.
    ///
    /// # Errors
    ///
    /// When `/proc` is not there. Processes that end meanwhile are left out.
    pub fn read() -> io::Result<Self> {
        let mut processes = HashMap::new();
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        let listed = all_processes().map_err(io::Error::other)?;
        for stat in listed
            .take(MAX_PROCESSES)
            .flatten()
            .flat_map(|process| process.stat())
        {
            children.entry(stat.ppid).or_default().push(stat.pid);
            processes.insert(stat.pid, Row::new(&stat));
        }
        Ok(Self {
            processes,
            children,
        })
    }

    /// What the process `pid`, its descendants and the rest of its process group
    /// and session use, or `None` when there is no such process.
    pub fn usage(&self, pid: u32) -> Option<TreeUsage> {
        let root = i32::try_from(pid)
            .ok()
            .filter(|root| self.processes.contains_key(root))?;
        let mut usage = TreeUsage::default();
        for (pid, row) in self.tree(root) {
            usage.cpu_time += row.cpu_time;
            if row.alive {
                usage.rss_bytes += row.rss_bytes;
                usage.processes += 1;
                usage.threads += row.threads;
                usage.open_files += open_files(pid);
            }
        }
        Some(usage)
    }

    fn tree(&self, root: i32) -> impl Iterator<Item = (i32, &Row)> {
        let mut members: HashSet<i32> = HashSet::new();
        let mut unseen: Vec<i32> = self
            .processes
            .iter()
            .filter(|(_, row)| row.group == root || row.session == root)
            .map(|(pid, _)| *pid)
            .chain([root])
            .collect();
        while let Some(pid) = unseen.pop() {
            if members.insert(pid) {
                unseen.extend(self.children.get(&pid).into_iter().flatten());
            }
        }
        members
            .into_iter()
            .filter_map(|pid| Some((pid, self.processes.get(&pid)?)))
    }
}

impl Row {
    fn new(stat: &Stat) -> Self {
        Self {
            group: stat.pgrp,
            session: stat.session,
            alive: !matches!(stat.state, 'Z' | 'X'),
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            rss_bytes: stat.rss.saturating_mul(page_size() as u64),
            cpu_time: cpu_time_of(stat),
        }
    }
}

/// What the process `pid` and everything it started use, or `None` when there is
/// no such process. Reads the whole process table; take a [`ProcessTable`] when
/// several trees are sampled. Blocks.
///
/// # Errors
///
/// See [`ProcessTable::read`].
pub fn sample(pid: u32) -> io::Result<Option<TreeUsage>> {
    Ok(ProcessTable::read()?.usage(pid))
}

fn cpu_time_of(stat: &Stat) -> Duration {
    let waited_for = u64::try_from(stat.cutime.saturating_add(stat.cstime)).unwrap_or(0);
    let ticks = stat
        .utime
        .saturating_add(stat.stime)
        .saturating_add(waited_for);
    let nanoseconds = u128::from(ticks) * 1_000_000_000 / u128::from(clock_ticks_per_second());
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

fn open_files(pid: i32) -> u64 {
    Process::new(pid)
        .and_then(|process| process.fd_count())
        .map_or(0, |count| count as u64)
}
