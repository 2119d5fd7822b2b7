//! What a manifest allows a plugin to use, split by who enforces it: the kernel
//! from the first instruction, or the monitor by looking every second.

use orchestrator_manifest::Resources;
use orchestrator_sandbox::Limits;
use serde::Serialize;

use crate::error::LoadError;

/// Address space a program needs besides what it was limited to: its own data, its
/// stacks, what its runtime sets aside.
const DATA_HEADROOM: u64 = 64 << 20;
/// Tasks above the limit that the kernel still makes, so that the monitor sees what is
/// too much.
const TASKS_HEADROOM: u64 = 32;
/// Bytes of one `max_memory_mb`.
const MIB: u64 = 1 << 20;

/// What the monitor holds one plugin's process tree to. `None` is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Watch {
    /// Resident memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Hundredths of one core.
    pub cpu_percent: Option<u64>,
    /// Threads and processes.
    pub tasks: Option<u64>,
    /// Open descriptors.
    pub files: Option<u64>,
}

/// Splits the limits of a native plugin.
///
/// Memory is bounded twice: each process by `RLIMIT_DATA` with some headroom, so
/// that one allocation cannot take the machine before the monitor looks, and the
/// tree as a whole by the monitor. So are tasks, where the plugin has namespaces of its
/// own: elsewhere the kernel counts all processes of the user.
///
/// `tasks_max` is for manifests that do not bound tasks.
///
/// # Errors
///
/// When a limit is asked for that nothing enforces.
pub(crate) fn native(
    resources: &Resources,
    tasks_max: Option<u32>,
) -> Result<(Limits, Watch), LoadError> {
    if let Some(value) = resources.max_disk_mb.filter(|limit| *limit > 0) {
        return Err(LoadError::LimitNotEnforceable {
            key: "max_disk_mb",
            value,
        });
    }
    let bound = |limit: Option<u32>| limit.filter(|limit| *limit > 0).map(u64::from);
    let memory_bytes = bound(resources.max_memory_mb).map(|mebibytes| mebibytes * MIB);
    let files = bound(resources.max_open_files);
    let tasks = bound(resources.max_tasks).or_else(|| bound(tasks_max));
    let limits = Limits {
        data_bytes: memory_bytes.map(|bytes| bytes + DATA_HEADROOM),
        open_files: files,
        processes: tasks.map(|tasks| tasks + TASKS_HEADROOM),
        ..Limits::default()
    };
    let watch = Watch {
        memory_bytes,
        cpu_percent: bound(resources.max_cpu_percent),
        tasks,
        files,
    };
    Ok((limits, watch))
}

/// Refuses limits of a builtin: it shares the host's process, and nothing tells what
/// it uses from what the others use.
///
/// # Errors
///
/// When any limit is asked for.
pub(crate) fn builtin(resources: &Resources) -> Result<(), LoadError> {
    let limits = [
        ("max_memory_mb", resources.max_memory_mb),
        ("max_cpu_percent", resources.max_cpu_percent),
        ("max_disk_mb", resources.max_disk_mb),
        ("max_tasks", resources.max_tasks),
        ("max_open_files", resources.max_open_files),
    ];
    let asked = limits
        .into_iter()
        .find_map(|(key, limit)| Some((key, limit.filter(|limit| *limit > 0)?)));
    match asked {
        Some((key, value)) => Err(LoadError::BuiltinLimit { key, value }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use miette::Diagnostic as _;
    use orchestrator_manifest::Manifest;
    use serde_json::json;

    use super::*;

    fn resources(limits: serde_json::Value) -> Resources {
        let manifest = json!({
            "id": "p", "version": "1.0.0", "description": "d", "kind": "exec",
            "entry_point": "p", "phases": [{ "name": "x" }], "resources": limits,
        });
        Manifest::from_value(&manifest, "p").unwrap().resources
    }

    #[test]
    fn limits_are_split_between_kernel_and_monitor() {
        let (limits, watch) = native(
            &resources(json!({
                "max_memory_mb": 10, "max_cpu_percent": 50, "max_tasks": 4, "max_open_files": 32,
            })),
            Some(9),
        )
        .unwrap();
        assert_eq!(limits.data_bytes, Some(74 << 20));
        assert_eq!((limits.open_files, limits.processes), (Some(32), Some(36)));
        assert_eq!(watch.memory_bytes, Some(10 << 20));
        assert_eq!(
            (watch.cpu_percent, watch.tasks, watch.files),
            (Some(50), Some(4), Some(32))
        );
    }

    #[test]
    fn nothing_asked_for_bounds_nothing() {
        let (limits, watch) = native(&resources(json!({})), None).unwrap();
        assert_eq!((limits, watch), (Limits::default(), Watch::default()));
    }

    #[test]
    fn tasks_that_the_manifest_does_not_bound_the_operator_does() {
        for manifest in [json!({}), json!({ "max_tasks": 0 })] {
            let (limits, watch) = native(&resources(manifest), Some(9)).unwrap();
            assert_eq!((limits.processes, watch.tasks), (Some(41), Some(9)));
        }
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        let none = resources(json!({ "max_memory_mb": 0, "max_disk_mb": 0, "max_tasks": 0 }));
        let (limits, watch) = native(&none, Some(0)).unwrap();
        assert_eq!((limits, watch), (Limits::default(), Watch::default()));
        builtin(&none).unwrap();
    }

    #[test]
    fn no_limit_of_a_builtin_is_enforced_so_each_is_refused() {
        for key in [
            "max_memory_mb",
            "max_cpu_percent",
            "max_disk_mb",
            "max_tasks",
            "max_open_files",
        ] {
            let error = builtin(&resources(json!({ key: 5 }))).unwrap_err();
            assert_eq!(error.code().unwrap().to_string(), "ORC-3020");
            assert!(error.to_string().contains(key), "{error}");
        }
    }

    #[test]
    fn a_limit_that_nothing_enforces_is_refused() {
        let error = native(&resources(json!({ "max_disk_mb": 5 })), None).unwrap_err();
        assert_eq!(error.code().unwrap().to_string(), "ORC-3019");
        assert!(error.to_string().contains("max_disk_mb"));
    }
}
