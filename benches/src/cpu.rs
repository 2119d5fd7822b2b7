//! Processor time, by clocks that count nanoseconds.

use std::{fs, io, time::Duration};

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
}
