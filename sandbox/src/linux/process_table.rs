//! What process trees use, read from `/proc`.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
    time::Duration,
};

use procfs::process::{Process, Stat, all_processes};
use rustix::param::{clock_ticks_per_second, page_size};

use crate::TreeUsage;

/// More processes than this are not looked at in one reading.
const MAX_PROCESSES: usize = 32_768;
/// There where the kernel lists children (`CONFIG_PROC_CHILDREN`), as it mostly does.
const OWN_CHILDREN: &str = "/proc/thread-self/children";

/// Some process trees at one moment.
#[derive(Debug, Default)]
pub struct ProcessTable {
    processes: HashMap<i32, Row>,
    children: HashMap<i32, Vec<i32>>,
}

#[derive(Debug)]
struct Row {
    alive: bool,
    threads: u64,
    resident_bytes: u64,
    cpu_time: Duration,
}

impl ProcessTable {
    /// Reads what `/proc` says of the processes `roots` and all below them: about 30 µs
    /// for each process, and 5 µs more for each of its threads. Where the kernel does
    /// not list children, 20 µs for each process of the machine instead. Blocks.
    ///
    /// # Errors
    ///
    /// When `/proc` is not there. Processes that end meanwhile are left out.
    pub fn read(roots: &[u32]) -> io::Result<Self> {
        match Path::new(OWN_CHILDREN).exists() {
            true => Ok(Self::below(roots)),
            false => Self::whole(),
        }
    }

    fn below(roots: &[u32]) -> Self {
        let mut table = Self::default();
        let mut unseen: Vec<i32> = roots
            .iter()
            .filter_map(|pid| (*pid).try_into().ok())
            .collect();
        while let Some(pid) = unseen.pop() {
            if table.processes.contains_key(&pid) || table.processes.len() >= MAX_PROCESSES {
                continue;
            }
            let Ok(process) = Process::new(pid) else {
                continue;
            };
            let Ok(stat) = process.stat() else { continue };
            let children = children(&process);
            unseen.extend(&children);
            table.children.insert(pid, children);
            table.processes.insert(pid, Row::new(&stat));
        }
        table
    }

    fn whole() -> io::Result<Self> {
        let mut table = Self::default();
        let listed = all_processes().map_err(io::Error::other)?;
        for stat in listed
            .take(MAX_PROCESSES)
            .flatten()
            .flat_map(|process| process.stat())
        {
            table.children.entry(stat.ppid).or_default().push(stat.pid);
            table.processes.insert(stat.pid, Row::new(&stat));
        }
        Ok(table)
    }

    /// What the process `pid` and its descendants use, or `None` when there is no such
    /// process among those that were read. Everything that a program of
    /// [`spawn`](crate::spawn) started is below it, whatever session it went to.
    ///
    /// Of several processes, each page counts once however many share it. Finding that
    /// out takes the kernel about 0.5 ms for 100 MiB. Blocks.
    pub fn usage(&self, pid: u32) -> Option<TreeUsage> {
        let root = i32::try_from(pid)
            .ok()
            .filter(|root| self.processes.contains_key(root))?;
        let tree = self.tree(root);
        let mut usage = TreeUsage::default();
        for (_, row) in &tree {
            usage.cpu_time += row.cpu_time;
        }
        let alive = || tree.iter().filter(|(_, row)| row.alive);
        let is_one = alive().count() == 1;
        for (pid, row) in alive() {
            let fair = if is_one {
                None
            } else {
                proportional_bytes(*pid)
            };
            usage.memory_bytes += fair.unwrap_or(row.resident_bytes);
            usage.processes += 1;
            usage.threads += row.threads;
            usage.open_files += open_files(*pid);
        }
        Some(usage)
    }

    fn tree(&self, root: i32) -> Vec<(i32, &Row)> {
        let mut seen = HashSet::new();
        let mut unseen = vec![root];
        let mut tree = Vec::new();
        while let Some(pid) = unseen.pop() {
            // A number that was given anew within the reading may stand twice.
            if seen.insert(pid) {
                tree.extend(self.processes.get(&pid).map(|row| (pid, row)));
                unseen.extend(self.children.get(&pid).into_iter().flatten());
            }
        }
        tree
    }
}

impl Row {
    fn new(stat: &Stat) -> Self {
        Self {
            alive: !matches!(stat.state, 'Z' | 'X'),
            threads: u64::try_from(stat.num_threads).unwrap_or(0),
            resident_bytes: stat.rss.saturating_mul(page_size() as u64),
            cpu_time: cpu_time_of(stat),
        }
    }
}

/// What the process `pid` and everything it started use, or `None` when there is
/// no such process. Take a [`ProcessTable`] when several trees are sampled. Blocks.
///
/// # Errors
///
/// See [`ProcessTable::read`].
pub fn sample(pid: u32) -> io::Result<Option<TreeUsage>> {
    Ok(ProcessTable::read(&[pid])?.usage(pid))
}

/// The children of all its threads. One may be missing when another one just ends.
fn children(process: &Process) -> Vec<i32> {
    let threads = process.tasks().into_iter().flatten().flatten();
    threads
        .flat_map(|thread| thread.children().unwrap_or_default())
        .filter_map(|pid| pid.try_into().ok())
        .collect()
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

/// The process's part of the pages it uses: of a page that `n` processes share, an
/// `n`th. `None` when its owner keeps that from us.
fn proportional_bytes(pid: i32) -> Option<u64> {
    let rollup = Process::new(pid).and_then(|process| process.smaps_rollup());
    let maps = rollup.ok()?.memory_map_rollup;
    let sizes = maps.0.iter().map(|map| map.extension.map.get("Pss"));
    sizes.sum::<Option<u64>>()
}

fn open_files(pid: i32) -> u64 {
    Process::new(pid)
        .and_then(|process| process.fd_count())
        .map_or(0, |count| count as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whichever way it is read, a process has the same place.
    #[test]
    fn both_ways_to_read_see_this_process_alike() {
        let own = std::process::id();
        let row = |table: &ProcessTable| {
            let usage = table.usage(own).expect("this process");
            (usage.processes, usage.threads)
        };
        let whole = ProcessTable::whole().expect("/proc");
        assert_eq!(row(&ProcessTable::below(&[own])), row(&whole));
        assert!(whole.usage(1).is_some());
    }
}
