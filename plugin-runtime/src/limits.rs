//! What a manifest and the operator allow a plugin to use, and who holds it to that: the kernel from the
//! first instruction, or the monitor by looking every second.
//!
//! | limit | by the kernel | by the monitor |
//! |---|---|---|
//! | memory | a control group, else `RLIMIT_DATA` of each process with some headroom | the tree |
//! | processor | a control group, with the policy `throttle` | the tree otherwise |
//! | tasks | a control group or a namespace, with some headroom | the tree |
//! | files | `RLIMIT_NOFILE` of each process | the tree |
//! | disk | the size of a file system in memory, `RLIMIT_FSIZE` | tells when it is full |
//!
//! The headroom is there so that the monitor sees what is too much.

mod bounds;
mod ceilings;
mod change;
mod error;
mod held;

use orchestrator_manifest::Resources;
use serde::{Deserialize, Serialize};

pub(crate) use self::{
    bounds::{Bounds, Means},
    ceilings::Ceilings,
    change::Changes,
    error::LimitError,
};
pub use self::{
    change::LimitChange,
    error::LimitRefusal,
    held::{HeldLimit, LimitOfHost, limits_of_host},
};
use crate::error::LoadError;

/// Bytes of one `max_memory_mb` and one `max_disk_mb`.
const MIB: u64 = 1 << 20;

/// What one plugin's process tree may use. `None` is not bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Watch {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Hundredths of one core.
    pub cpu_percent: Option<u64>,
    /// Threads and processes.
    pub tasks: Option<u64>,
    /// Open descriptors.
    pub files: Option<u64>,
    /// Bytes in files.
    pub disk_bytes: Option<u64>,
}

/// What is done about a plugin that uses more than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// It is told of, and nothing else.
    Warn,
    /// As with `kill`, but of processor time it gets no more than it may have.
    Throttle,
    /// Its processes are killed.
    #[default]
    Kill,
}

/// The limits of a native plugin that has these `means`: of what its manifest or an operator
/// asks for and the `ceilings`, the lower.
///
/// # Errors
///
/// When a limit is asked for that nothing enforces.
pub(crate) fn native(
    resources: &Resources,
    change: LimitChange,
    ceilings: Ceilings,
    means: Means,
) -> Result<Bounds, LoadError> {
    let refused = |key, value: u64, why| LoadError::LimitNotEnforceable {
        key,
        value: u32::try_from(value).unwrap_or(u32::MAX),
        why,
    };
    let disk = means.disk;
    let bounds = Bounds::new(resources, change, ceilings, means);
    let watch = bounds.now();
    if let (Some(bytes), Err(why)) = (watch.disk_bytes, disk) {
        return Err(refused("max_disk_mb", bytes / MIB, why));
    }
    if let Some(percent) = watch.cpu_percent
        && !bounds.holds_cpu_as_wanted()
    {
        let why = bounds::NOTHING_THROTTLES;
        return Err(refused("max_cpu_percent", percent, why));
    }
    Ok(bounds)
}

/// The room for files that a plugin is held to.
pub(crate) fn disk_bytes(
    resources: &Resources,
    change: &LimitChange,
    ceilings: &Ceilings,
) -> Option<u64> {
    let (watch, _) = change::settle(resources, change, ceilings);
    watch.disk_bytes
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
    use orchestrator_sandbox::{GroupLimits, GroupReport, Limits};
    use serde_json::json;

    use super::{ceilings::Ceiling, *};

    fn resources(limits: serde_json::Value) -> Resources {
        let manifest = json!({
            "id": "p", "version": "1.0.0", "description": "d", "kind": "exec",
            "entry_point": "p", "phases": [{ "name": "x" }], "resources": limits,
        });
        Manifest::from_value(&manifest, "p").unwrap().resources
    }

    fn every_limit() -> Resources {
        resources(json!({
            "max_memory_mb": 10, "max_cpu_percent": 50, "max_tasks": 4, "max_open_files": 32,
            "max_disk_mb": 5,
        }))
    }

    fn means(policy: Policy, groups: Option<u8>) -> Means {
        Means {
            policy,
            policy_from: "runtime.monitor.policy.level1",
            groups: GroupReport {
                memory: groups,
                tasks: groups,
                cpu: groups,
                reason: String::new(),
            },
            own_tasks: true,
            disk: Ok(()),
            own_disk: true,
            is_per_call: false,
        }
    }

    fn native(
        resources: &Resources,
        ceilings: Ceilings,
        means: Means,
    ) -> Result<Bounds, LoadError> {
        super::native(resources, LimitChange::default(), ceilings, means)
    }

    fn at_most(most: u64) -> Option<Ceiling> {
        let setting = "runtime.sandbox";
        Some(Ceiling { most, setting })
    }

    fn tasks(limit: u64) -> Ceilings {
        Ceilings {
            tasks: at_most(limit),
            ..Ceilings::default()
        }
    }

    fn split(policy: Policy, groups: Option<u8>) -> (Limits, GroupLimits) {
        let bounds = native(&every_limit(), tasks(9), means(policy, groups)).unwrap();
        (bounds.of_each(), bounds.of_all())
    }

    #[test]
    fn without_control_groups_each_process_and_the_monitor_have_the_limits() {
        let (limits, group) = split(Policy::Kill, None);
        assert_eq!(limits.data_bytes, Some(74 << 20));
        assert_eq!((limits.open_files, limits.processes), (Some(32), Some(36)));
        assert_eq!(limits.file_bytes, Some((5 << 20) + (1 << 16)));
        assert_eq!(group, GroupLimits::default());
        let bounds = native(
            &every_limit(),
            Ceilings::default(),
            means(Policy::Kill, None),
        )
        .unwrap();
        let watch = Watch {
            memory_bytes: Some(10 << 20),
            cpu_percent: Some(50),
            tasks: Some(4),
            files: Some(32),
            disk_bytes: Some(5 << 20),
        };
        assert_eq!(bounds.now(), watch);
    }

    #[test]
    fn control_groups_take_over_what_they_hold_better() {
        let (limits, group) = split(Policy::Kill, Some(2));
        assert_eq!(
            limits.data_bytes, None,
            "an allocation does not fail, it is killed for"
        );
        let held = GroupLimits {
            memory_bytes: Some(10 << 20),
            tasks: Some(36),
            cpu_percent: None,
        };
        assert_eq!(group, held);
        let (_, group) = split(Policy::Throttle, Some(1));
        assert_eq!(group.cpu_percent, Some(50));
    }

    #[test]
    fn whoever_is_only_warned_is_held_to_nothing_but_tasks_and_disk() {
        let (limits, group) = split(Policy::Warn, Some(2));
        let held = Limits {
            processes: Some(36),
            file_bytes: Some((5 << 20) + (1 << 16)),
            ..Limits::default()
        };
        assert_eq!(limits, held);
        assert_eq!((group.memory_bytes, group.cpu_percent), (None, None));
    }

    #[test]
    fn nothing_asked_for_bounds_nothing_and_needs_no_group() {
        let bounds = native(
            &resources(json!({})),
            Ceilings::default(),
            means(Policy::Throttle, Some(2)),
        )
        .unwrap();
        let nothing = (Limits::default(), GroupLimits::default(), Watch::default());
        assert_eq!((bounds.of_each(), bounds.of_all(), bounds.now()), nothing);
        let usual = native(
            &resources(json!({})),
            tasks(9),
            means(Policy::Kill, Some(2)),
        )
        .unwrap();
        assert_eq!(
            usual.of_all(),
            GroupLimits::default(),
            "the namespace holds it"
        );
    }

    #[test]
    fn tasks_that_the_manifest_does_not_bound_the_operator_does() {
        for manifest in [json!({}), json!({ "max_tasks": 0 })] {
            let bounds = native(&resources(manifest), tasks(9), means(Policy::Kill, None)).unwrap();
            assert_eq!(bounds.of_each().processes, Some(41));
            assert_eq!(bounds.now().tasks, Some(9));
        }
    }

    /// The author of a plugin that nobody trusts is not to say how much it may use.
    #[test]
    fn the_operator_s_limits_hold_whatever_the_manifest_says() {
        let ceilings = Ceilings {
            memory_bytes: at_most(8 << 20),
            cpu_percent: at_most(40),
            tasks: at_most(3),
            files: at_most(16),
        };
        let most = Watch {
            memory_bytes: Some(8 << 20),
            cpu_percent: Some(40),
            tasks: Some(3),
            files: Some(16),
            disk_bytes: None,
        };
        let none = json!({ "max_memory_mb": 0, "max_open_files": 0 });
        let too_much = json!({
            "max_memory_mb": 10, "max_cpu_percent": 50, "max_tasks": 4, "max_open_files": 32,
        });
        for manifest in [json!({}), none, too_much] {
            let means = means(Policy::Kill, Some(2));
            let bounds = native(&resources(manifest), ceilings, means).unwrap();
            assert_eq!(bounds.now(), most);
            assert_eq!(bounds.of_each().open_files, Some(16));
        }
        let less = json!({
            "max_memory_mb": 1, "max_cpu_percent": 1, "max_tasks": 1, "max_open_files": 1,
        });
        let means_of = |policy| means(policy, Some(2));
        let bounds = native(&resources(less), ceilings, means_of(Policy::Kill)).unwrap();
        let one = Some(1);
        let asked = (one, one, one, Some(MIB));
        let now = bounds.now();
        assert_eq!(
            (now.cpu_percent, now.tasks, now.files, now.memory_bytes),
            asked
        );
        // To start others the host needs some descriptors, also when it only warns.
        let few = resources(json!({ "max_open_files": 4 }));
        let warned = native(&few, ceilings, means_of(Policy::Warn)).unwrap();
        assert_eq!(
            (warned.now().files, warned.of_each().open_files),
            (Some(4), Some(16))
        );
    }

    /// A group is made where no namespace counts, as on an old kernel below root.
    #[test]
    fn tasks_that_no_namespace_counts_are_counted_by_a_group() {
        let shared = Means {
            own_tasks: false,
            ..means(Policy::Kill, Some(2))
        };
        let bounds = native(&resources(json!({})), tasks(9), shared).unwrap();
        assert_eq!(
            (bounds.of_all().tasks, bounds.of_each().processes),
            (Some(41), None)
        );
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        let none = resources(json!({ "max_memory_mb": 0, "max_disk_mb": 0, "max_tasks": 0 }));
        let bounds = native(&none, Ceilings::default(), means(Policy::Kill, None)).unwrap();
        assert_eq!((bounds.of_each(), bounds.now()), Default::default());
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
        let nowhere = Means {
            disk: Err("it may write anywhere"),
            ..means(Policy::Kill, Some(2))
        };
        for (resources, means) in [
            (json!({ "max_disk_mb": 5 }), nowhere),
            (
                json!({ "max_cpu_percent": 5 }),
                means(Policy::Throttle, None),
            ),
        ] {
            let key = resources
                .as_object()
                .unwrap()
                .keys()
                .next()
                .unwrap()
                .clone();
            let error =
                native(&self::resources(resources), Ceilings::default(), means).unwrap_err();
            assert_eq!(error.code().unwrap().to_string(), "ORC-3019");
            assert!(error.to_string().contains(&key), "{error}");
        }
    }
}
