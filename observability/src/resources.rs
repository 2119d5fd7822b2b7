//! What this process uses, read when somebody looks.

use rustix::time::{ClockId, clock_gettime};

use crate::{exposition, names};

/// Appends the `process_…` metrics. What the platform does not tell is left out.
pub(crate) fn append(text: &mut String) {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    #[expect(
        clippy::cast_precision_loss,
        reason = "exact up to 104 days of processor time in nanoseconds, close enough after"
    )]
    let seconds = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
    exposition::append(text, &names::PROCESS_CPU, [(None, seconds)]);
    exposition::append(
        text,
        &names::PROCESS_MEMORY,
        resident_bytes().map(|value| (None, value)),
    );
    exposition::append(
        text,
        &names::PROCESS_FDS,
        open_fds().map(|value| (None, value)),
    );
}

fn resident_bytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

fn open_fds() -> Option<f64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?.count();
    // One of them was opened to count them.
    u32::try_from(entries.saturating_sub(1)).ok().map(f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_numbers_are_plausible() {
        assert!(resident_bytes().unwrap() > 100_000.0);
        let before = open_fds().unwrap();
        let files: Vec<_> = (0..50).map(|_| tempfile::tempfile().unwrap()).collect();
        // Other tests open and close files meanwhile, though not fifty.
        assert!(open_fds().unwrap() > before + 25.0);
        drop(files);
        let mut text = String::new();
        append(&mut text);
        assert_eq!(text.matches("# TYPE process_").count(), 3);
    }
}
