//! Where and with what something was measured.

use std::fs;

/// One line about machine, kernel, compiler, day and what else was going on.
pub(crate) fn description() -> String {
    let cpuinfo = read("/proc/cpuinfo");
    let cpu = processor(&cpuinfo);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let day = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC");
    let rustc = option_env!("RUSTUP_TOOLCHAIN").unwrap_or("unknown");
    let profile = if cfg!(debug_assertions) {
        "not optimised"
    } else {
        "optimised"
    };
    format!(
        "{day}; {cpu}, {cores} cores; Linux {}; Rust {rustc}, {profile}; load {load} at the end.",
        kernel.trim()
    )
}

/// The version of a dependency that this was built with.
pub fn version_of(package: &str) -> &'static str {
    version_in(include_str!("../../Cargo.lock"), package).unwrap_or("unknown")
}

fn version_in<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let mut lines = lock.lines();
    let name = format!("name = \"{package}\"");
    lines.find(|line| *line == name)?;
    lines
        .next()?
        .strip_prefix("version = \"")?
        .strip_suffix('"')
}

fn processor(cpuinfo: &str) -> &str {
    let mut lines = cpuinfo.lines();
    lines
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(": "))
        .map_or("unknown processor", |(_, name)| name)
}

/// A file of `/proc`, empty where it is not there.
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_lock_file() {
        let lock = "[[package]]\nname = \"a-b\"\nversion = \"1.2.3\"\n\n[[package]]\nname = \"b\"\nversion = \"4.0.0\"\n";
        assert_eq!(version_in(lock, "a-b"), Some("1.2.3"));
        assert_eq!(version_in(lock, "b"), Some("4.0.0"));
        assert_eq!(version_in(lock, "a"), None);
        assert_ne!(version_of("tokio"), "unknown");
    }

    #[test]
    fn the_processor_has_a_name() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n";
        assert_eq!(processor(cpuinfo), "Some CPU @ 2 GHz");
    }
}
