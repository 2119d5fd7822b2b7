//! Who holds a plugin to its limits, for people.

use orchestrator_sandbox::{GroupReport, groups};
use serde::Serialize;

use super::Policy;

pub(super) fn group_name(version: u8) -> &'static str {
    match version {
        1 => "cgroup v1",
        _ => "cgroup v2",
    }
}

/// A limit of a plugin, and who holds the plugin to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HeldLimit {
    /// `memory`, `cpu`, `tasks`, `files` or `disk`.
    pub resource: &'static str,
    /// Bytes, hundredths of a core, or a number.
    pub limit: u64,
    /// `cgroup v1`, `cgroup v2`, `rlimit`, `namespace` and `tmpfs` are the kernel's;
    /// `monitor` looks at the whole process tree every second.
    pub by: Vec<&'static str>,
    /// What is done about more.
    pub policy: Policy,
    /// Where the limit comes from: `manifest`, `operator` for one that was set since, or the
    /// key of the configuration that gives no plugin more.
    pub from: &'static str,
    /// Where the policy comes from: `operator`, or the key of the configuration.
    pub policy_from: &'static str,
    /// `restart` or `reload`, where a process that runs is not held to all of it by the
    /// kernel before that; the monitor goes by it from the next sample on. Only the room for
    /// files stays wholly as it was until a reload.
    pub waits_for: Option<&'static str>,
}

/// By what this host holds plugins to a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LimitOfHost {
    /// The manifest's key.
    pub limit: &'static str,
    /// By what, as in [`HeldLimit::by`].
    pub by: Vec<&'static str>,
    /// Why no control group does; empty where one does or none is of use.
    pub reason: String,
    /// What to change; empty where nothing is to be.
    pub help: &'static str,
}

/// By what this host holds native plugins to their limits. Blocks, the first time for
/// some milliseconds.
pub fn limits_of_host() -> Vec<LimitOfHost> {
    of_report(&groups())
}

fn of_report(groups: &GroupReport) -> Vec<LimitOfHost> {
    let grouped = |limit, version: Option<u8>, others: &[&'static str]| {
        let by = version.map(group_name).into_iter();
        LimitOfHost {
            limit,
            by: by.chain(others.iter().copied()).collect(),
            reason: version.map_or_else(|| groups.reason.clone(), |_| String::new()),
            help: version.map_or(GroupReport::HELP, |_| ""),
        }
    };
    let plain = |limit, by: &[&'static str]| LimitOfHost {
        limit,
        by: by.to_vec(),
        reason: String::new(),
        help: "",
    };
    let memory: &[_] = match groups.memory {
        Some(_) => &["monitor"],
        None => &["rlimit", "monitor"],
    };
    vec![
        grouped("max_memory_mb", groups.memory, memory),
        grouped("max_cpu_percent", groups.cpu, &["monitor"]),
        grouped("max_tasks", groups.tasks, &["namespace", "monitor"]),
        plain("max_open_files", &["rlimit", "monitor"]),
        plain("max_disk_mb", &["tmpfs", "rlimit"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_control_groups_says_so_and_what_holds_instead() {
        let none = GroupReport {
            reason: "read-only".to_owned(),
            ..GroupReport::default()
        };
        let limits = of_report(&none);
        assert_eq!(limits[0].by, ["rlimit", "monitor"]);
        assert_eq!(
            (&*limits[0].reason, limits[0].help),
            ("read-only", GroupReport::HELP)
        );
        let all = GroupReport {
            memory: Some(2),
            tasks: Some(2),
            cpu: Some(1),
            ..GroupReport::default()
        };
        let limits = of_report(&all);
        assert_eq!(limits[0].by, ["cgroup v2", "monitor"]);
        assert_eq!(limits[1].by, ["cgroup v1", "monitor"]);
        assert!(
            limits
                .iter()
                .all(|it| it.reason.is_empty() && it.help.is_empty())
        );
    }
}
