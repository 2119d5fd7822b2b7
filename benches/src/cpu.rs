//! Processor time, by clocks that count nanoseconds.

use std::{fs, io, os::unix::fs::FileExt as _, time::Duration};

use rustix::time::{ClockId, clock_gettime};

/// What this process has used, all threads, user and system.
pub fn process() -> Duration {
    read(ClockId::ProcessCPUTime)
}

/// What the calling thread has used.
pub fn thread() -> Duration {
    read(ClockId::ThreadCPUTime)
}

/// What the living threads of another process have used, user and system. Exact
/// while they sleep; behind by up to a scheduler tick while they run.
///
/// # Errors
///
/// When there is no such process, or its kernel does not count.
pub fn of(pid: u32) -> io::Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let line = fs::read_to_string(task?.path().join("schedstat"))?;
        let on_cpu = line.split_ascii_whitespace().next();
        nanos += on_cpu
            .and_then(|number| number.parse::<u64>().ok())
            .ok_or_else(|| io::Error::other("schedstat does not begin with a number"))?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// How long a thread had to wait for a processor that others used.
#[derive(Debug)]
pub struct Queued(fs::File);

impl Queued {
    /// That of the calling thread.
    ///
    /// # Errors
    ///
    /// When the kernel does not count.
    pub fn here() -> io::Result<Self> {
        fs::File::open("/proc/thread-self/schedstat").map(Self)
    }

    /// How long until now.
    ///
    /// # Errors
    ///
    /// When the kernel does not count.
    pub fn until_now(&self) -> io::Result<Duration> {
        let mut line = [0; 96];
        let length = self.0.read_at(&mut line, 0)?;
        let text = std::str::from_utf8(&line[..length]).map_err(io::Error::other)?;
        let nanos = text.split_ascii_whitespace().nth(1);
        let nanos = nanos.and_then(|number| number.parse().ok());
        nanos
            .map(Duration::from_nanos)
            .ok_or_else(|| io::Error::other("schedstat has no second number"))
    }
}

fn read(clock: ClockId) -> Duration {
    // Neither clock is ever negative.
    Duration::try_from(clock_gettime(clock)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn the_clocks_agree_about_work_that_was_done() {
        let (whole, own) = (process(), thread());
        let work = Duration::from_millis(30);
        while thread() - own < work {
            black_box((0..10_000_u64).map(black_box).sum::<u64>());
        }
        assert!(process() - whole >= work);
        // The last tick may be missing.
        assert!(of(std::process::id()).unwrap() >= work / 3);
    }

    #[test]
    fn whoever_shares_a_processor_waits_for_it() {
        // More threads than processors, each of which works for a while.
        let threads = 2 * std::thread::available_parallelism().unwrap().get();
        let work = || {
            let queued = Queued::here().unwrap();
            let (before, own) = (queued.until_now().unwrap(), thread());
            while thread() - own < Duration::from_millis(30) {
                black_box((0..10_000_u64).map(black_box).sum::<u64>());
            }
            queued.until_now().unwrap() - before
        };
        let waited: Duration = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert!(waited > Duration::from_millis(10), "{waited:?}");
    }
}
