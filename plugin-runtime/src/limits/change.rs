//! Limits that an operator puts in place of those of a manifest.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use orchestrator_manifest::Resources;
use serde::{Deserialize, Serialize};

use super::{Ceilings, LimitRefusal, MIB, Policy, Watch, ceilings::Ceiling};

/// Limits that an operator puts in place of those of a plugin's manifest, in the manifest's
/// units. What is `None` stays as it is. 0 is no limit but the one that the operator has
/// set for all confined plugins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitChange {
    /// Memory in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mb: Option<u32>,
    /// Processor time in hundredths of one core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// Threads and processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<u32>,
    /// Open descriptors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_files: Option<u32>,
    /// Room for files in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_mb: Option<u32>,
    /// What is done about a plugin that uses more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub violation: Option<Policy>,
}

impl LimitChange {
    /// Whether nothing is to change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This one, and of `earlier` what it leaves as it is.
    pub(super) fn over(self, earlier: Self) -> Self {
        Self {
            memory_mb: self.memory_mb.or(earlier.memory_mb),
            cpu_percent: self.cpu_percent.or(earlier.cpu_percent),
            tasks: self.tasks.or(earlier.tasks),
            open_files: self.open_files.or(earlier.open_files),
            disk_mb: self.disk_mb.or(earlier.disk_mb),
            violation: self.violation.or(earlier.violation),
        }
    }

    /// Refuses more than the operator lets any confined plugin have.
    pub(super) fn check(&self, id: &str, ceilings: &Ceilings) -> Result<(), LimitRefusal> {
        let asked = [
            ("memory_mb", self.memory_mb, ceilings.memory_bytes, MIB),
            ("cpu_percent", self.cpu_percent, ceilings.cpu_percent, 1),
            ("tasks", self.tasks, ceilings.tasks, 1),
            ("open_files", self.open_files, ceilings.files, 1),
        ];
        for (key, asked, ceiling, unit) in asked {
            let (Some(asked), Some(ceiling)) = (asked, ceiling) else {
                continue;
            };
            if u64::from(asked) * unit > ceiling.most {
                return Err(LimitRefusal::AboveCeiling {
                    id: id.to_owned(),
                    key,
                    asked,
                    most: ceiling.most / unit,
                    setting: ceiling.setting,
                });
            }
        }
        Ok(())
    }
}

/// Where a limit comes from.
pub(super) const MANIFEST: &str = "manifest";
pub(super) const OPERATOR: &str = "operator";

/// Where each limit of a [`Watch`] comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Origins {
    pub(super) memory: &'static str,
    pub(super) cpu: &'static str,
    pub(super) tasks: &'static str,
    pub(super) files: &'static str,
    pub(super) disk: &'static str,
}

/// What holds of a manifest, an operator's changes and the ceilings: of what is asked for
/// and a ceiling, the lower.
pub(super) fn settle(
    manifest: &Resources,
    change: &LimitChange,
    ceilings: &Ceilings,
) -> (Watch, Origins) {
    let (memory_bytes, memory) = one(
        manifest.max_memory_mb,
        change.memory_mb,
        ceilings.memory_bytes,
        MIB,
    );
    let (cpu_percent, cpu) = one(
        manifest.max_cpu_percent,
        change.cpu_percent,
        ceilings.cpu_percent,
        1,
    );
    let (tasks, of_tasks) = one(manifest.max_tasks, change.tasks, ceilings.tasks, 1);
    let (files, of_files) = one(
        manifest.max_open_files,
        change.open_files,
        ceilings.files,
        1,
    );
    let (mut disk_bytes, mut disk) = one(manifest.max_disk_mb, change.disk_mb, None, MIB);
    if ceilings.memory_bytes.is_some() && disk_bytes > memory_bytes {
        // The room is in memory, and nobody else may count it.
        (disk_bytes, disk) = (memory_bytes, memory);
    }
    let watch = Watch {
        memory_bytes,
        cpu_percent,
        tasks,
        files,
        disk_bytes,
    };
    let origins = Origins {
        memory,
        cpu,
        tasks: of_tasks,
        files: of_files,
        disk,
    };
    (watch, origins)
}

fn one(
    manifest: Option<u32>,
    change: Option<u32>,
    ceiling: Option<Ceiling>,
    unit: u64,
) -> (Option<u64>, &'static str) {
    let (asked, from) = match change {
        Some(_) => (change, OPERATOR),
        None => (manifest, MANIFEST),
    };
    let asked = asked.filter(|asked| *asked > 0);
    let asked = asked.map(|asked| u64::from(asked) * unit);
    match ceiling {
        Some(Ceiling { most, setting }) if asked.is_none_or(|asked| asked > most) => {
            (Some(most), setting)
        }
        _ => (asked, from),
    }
}

/// What was changed of each plugin, by its id. A version that is loaded later has it too.
#[derive(Debug, Default)]
pub(crate) struct Changes(Mutex<BTreeMap<String, LimitChange>>);

impl Changes {
    pub(crate) fn of(&self, id: &str) -> LimitChange {
        self.lock().get(id).copied().unwrap_or_default()
    }

    pub(crate) fn add(&self, id: &str, change: LimitChange) {
        let mut changes = self.lock();
        let known = changes.entry(id.to_owned()).or_default();
        *known = change.over(*known);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, LimitChange>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ceilings() -> Ceilings {
        Ceilings {
            memory_bytes: Some(Ceiling {
                most: 100 * MIB,
                setting: "runtime.sandbox.memory_max",
            }),
            ..Ceilings::default()
        }
    }

    fn memory(mebibytes: u32) -> LimitChange {
        LimitChange {
            memory_mb: Some(mebibytes),
            ..LimitChange::default()
        }
    }

    #[test]
    fn each_limit_says_where_it_comes_from() {
        let mut manifest = Resources::default();
        manifest.max_memory_mb = Some(50);
        manifest.max_tasks = Some(9);
        let settled = |change: &LimitChange| {
            let (watch, origins) = settle(&manifest, change, &ceilings());
            assert_eq!((watch.tasks, origins.tasks), (Some(9), MANIFEST));
            (watch.memory_bytes.map(|bytes| bytes / MIB), origins.memory)
        };
        let ceiling = "runtime.sandbox.memory_max";
        assert_eq!(settled(&LimitChange::default()), (Some(50), MANIFEST));
        assert_eq!(settled(&memory(80)), (Some(80), OPERATOR));
        // None of its own is what the operator lets every plugin have.
        assert_eq!(settled(&memory(0)), (Some(100), ceiling));
        assert_eq!(settled(&memory(200)), (Some(100), ceiling));
    }

    #[test]
    fn room_in_memory_is_no_more_than_the_memory_of_a_confined_plugin() {
        let mut manifest = Resources::default();
        manifest.max_disk_mb = Some(100_000);
        let room = |manifest: &Resources, ceilings: &Ceilings| {
            let (watch, _) = settle(manifest, &LimitChange::default(), ceilings);
            watch.disk_bytes.map(|bytes| bytes / MIB)
        };
        assert_eq!(room(&manifest, &ceilings()), Some(100));
        assert_eq!(room(&manifest, &Ceilings::default()), Some(100_000));
        manifest.max_memory_mb = Some(64);
        assert_eq!(room(&manifest, &ceilings()), Some(64));
        manifest.max_disk_mb = Some(5);
        assert_eq!(room(&manifest, &ceilings()), Some(5));
        manifest.max_disk_mb = None;
        assert_eq!(room(&manifest, &ceilings()), None);
    }

    #[test]
    fn more_than_the_ceiling_is_refused_and_says_which() {
        assert!(memory(100).check("p", &ceilings()).is_ok());
        assert!(memory(0).check("p", &ceilings()).is_ok());
        assert!(memory(200).check("p", &Ceilings::default()).is_ok());
        let refused = memory(101).check("p", &ceilings()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "`memory_mb` of plugin p cannot be 101: the operator lets a confined plugin have at most 100"
        );
    }

    #[test]
    fn a_change_leaves_the_others_as_they_are() {
        let changes = Changes::default();
        changes.add("p", memory(7));
        changes.add(
            "p",
            LimitChange {
                tasks: Some(3),
                ..LimitChange::default()
            },
        );
        let known = changes.of("p");
        assert_eq!((known.memory_mb, known.tasks), (Some(7), Some(3)));
        assert!(changes.of("other").is_empty());
    }
}
