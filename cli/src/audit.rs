//! What goes into the audit log: what commands change, and what a running
//! engine tells of its plugins.

mod changes;
mod commands;
mod events;
mod repeats;
mod roots;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use orchestrator_contract::{Event, EventSink};
use orchestrator_engine::{
    Home,
    config::{AuditConfig, CheckpointCopy},
    journal::Retention,
};
use orchestrator_observability::log::names_a_secret;
use orchestrator_plugin_runtime::{PluginStatus, SandboxStatus};
use orchestrator_signing::audit::{
    AuditError, AuditEvent, AuditLog, AuditSettings, CopyTo, Kind, QuotaSettings, copy_to_file,
};
use tokio::time::Instant;

use self::repeats::Repeats;
pub(crate) use self::{
    changes::{About, about, around, change},
    roots::about_root,
};
use crate::{context::Context, failure::Result, progress, whoami::whoami};

/// The log of this process, once something was to be recorded. It is closed by
/// name: an engine may hold on to its listener until the process ends.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    log: Mutex<Option<AuditLog>>,
    about: Mutex<Option<About>>,
    processes: Mutex<Processes>,
    /// What plugins were refused; nothing before the log is open.
    repeats: Mutex<Option<Repeats>>,
}

/// Which plugins have a process of their own, which only the registry knows.
#[derive(Debug, Default)]
struct Processes {
    known: Option<HashSet<String>>,
    /// What was told of plugins before the registry was there.
    early: Vec<AuditEvent>,
    /// Id and version of those with a process for each call that took none yet.
    unused: HashSet<(String, String)>,
    /// What was called before the registry was there.
    early_used: HashSet<(String, String)>,
    /// What holds each id and version to its grants.
    sandboxes: HashMap<(String, String), SandboxStatus>,
}

/// Only plugins that start with the engine tell anything so early.
const EARLY_MAX: usize = 1_000;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Audit {
    fn lock(&self) -> MutexGuard<'_, Option<AuditLog>> {
        lock(&self.log)
    }

    /// Opens the log, unless it is open or off.
    pub(crate) fn open(&self, home: &Home, config: &AuditConfig) -> Result {
        let mut log = self.lock();
        if config.enabled && log.is_none() {
            let (settings, copy) = settings(config);
            let alarm = |error: &AuditError| {
                tracing::error!(%error, "the audit log cannot be written");
            };
            *log = Some(AuditLog::open(
                &dir(home, config),
                settings,
                copy,
                Box::new(alarm),
            )?);
            let repeats = Repeats::new(config.repeat_interval, config.repeat_sorts.get());
            *lock(&self.repeats) = Some(repeats);
        }
        Ok(())
    }

    /// Writes what waits; further events are not recorded.
    pub(crate) fn close(&self) {
        let counted = lock(&self.repeats).take();
        for event in counted.map_or_else(Vec::new, |mut it| it.rest(Instant::now())) {
            self.note(event);
        }
        let log = self.lock().take();
        drop(log);
    }

    /// Records what happened, and waits until that is durable. Returns the number
    /// of the record, unless the log is off.
    fn record(&self, event: AuditEvent) -> Result<Option<u64>> {
        let receipt = self.lock().as_ref().map(|log| log.record(event));
        Ok(match receipt {
            Some(receipt) => Some(receipt.wait()?),
            None => None,
        })
    }

    /// Records what nobody waits for.
    pub(crate) fn note(&self, event: AuditEvent) {
        if let Some(log) = &*self.lock() {
            log.note(event);
        }
    }

    /// Records what a plugin was refused, unless it was a moment ago too.
    fn note_denial(&self, event: AuditEvent) {
        let event = match &mut *lock(&self.repeats) {
            Some(repeats) => repeats.take(event, Instant::now()),
            None => Some(event),
        };
        if let Some(event) = event {
            self.note(event);
        }
    }

    /// Records how often plugins were refused the same, where that is due.
    fn note_repeats(&self) {
        let counted = lock(&self.repeats)
            .as_mut()
            .map(|repeats| repeats.counted(Instant::now()));
        for event in counted.unwrap_or_default() {
            self.note(event);
        }
    }

    /// Records what became of the plugins when they were loaded.
    pub(crate) fn note_loaded(&self, plugins: &[PluginStatus]) {
        for event in plugins.iter().filter_map(events::of_loaded) {
            self.note(event);
        }
        self.know_of(plugins);
    }

    /// Records what became of one plugin that was loaded anew, beside `all` others.
    pub(crate) fn note_reloaded(&self, anew: &PluginStatus, all: &[PluginStatus]) {
        if let Some(event) = events::of_loaded(anew) {
            self.note(event);
        }
        self.know_of(all);
    }

    fn know_of(&self, plugins: &[PluginStatus]) {
        let usable = plugins.iter().filter(|it| it.error.is_none());
        let sandboxes = usable.filter_map(|it| {
            let key = (it.id.clone(), it.version.to_string());
            Some((key, it.sandbox.clone()?))
        });
        self.processes().sandboxes = sandboxes.collect();
        let with_process = plugins.iter().filter(|it| events::has_process(it.kind));
        let per_call = plugins.iter().filter(|it| it.kind == "exec");
        self.know(
            with_process.map(|plugin| plugin.id.clone()).collect(),
            per_call
                .map(|it| (it.id.clone(), it.version.to_string()))
                .collect(),
        );
    }

    /// Which plugins have a process, and which one for each call. What was told
    /// of them before is recorded.
    fn know(&self, known: HashSet<String>, per_call: HashSet<(String, String)>) {
        let (early, early_used) = {
            let mut processes = self.processes();
            processes.known = Some(known);
            processes.unused = per_call;
            let used = std::mem::take(&mut processes.early_used);
            (std::mem::take(&mut processes.early), used)
        };
        for event in early {
            self.note_process(event);
        }
        for (plugin, version) in early_used {
            self.note_use(&plugin, &version);
        }
    }

    fn processes(&self) -> MutexGuard<'_, Processes> {
        lock(&self.processes)
    }

    /// Records the first call of a plugin that has a process for each. A record of
    /// every call would be the journal once more.
    fn note_use(&self, plugin: &str, version: &str) {
        let mut processes = self.processes();
        let key = || (plugin.to_owned(), version.to_owned());
        let is_first = match processes.known {
            Some(_) => !processes.unused.is_empty() && processes.unused.remove(&key()),
            None => {
                if processes.early_used.len() < EARLY_MAX {
                    processes.early_used.insert(key());
                }
                false
            }
        };
        drop(processes);
        if is_first {
            self.note(events::of_first_use(plugin, version));
            self.note_confinement(plugin, version);
        }
    }

    /// Records that a plugin's process started or ended, if it has one.
    fn note_process(&self, event: AuditEvent) {
        let mut processes = self.processes();
        let has_process = |known: &HashSet<String>| {
            let plugin = event.plugin.as_ref();
            plugin.is_some_and(|plugin| known.contains(plugin))
        };
        match &processes.known {
            Some(known) if has_process(known) => {
                drop(processes);
                let started = (event.kind == Kind::Spawn)
                    .then(|| event.plugin.clone().zip(event.version.clone()))
                    .flatten();
                self.note(event);
                if let Some((plugin, version)) = started {
                    self.note_confinement(&plugin, &version);
                }
            }
            Some(_) => {}
            None if processes.early.len() < EARLY_MAX => processes.early.push(event),
            None => {}
        }
    }

    /// Records what holds a process that starts to its grants.
    fn note_confinement(&self, plugin: &str, version: &str) {
        let key = (plugin.to_owned(), version.to_owned());
        let sandbox = self.processes().sandboxes.get(&key).cloned();
        if let Some(sandbox) = sandbox {
            self.note(events::of_confinement(plugin, version, &sandbox));
        }
    }
}

/// Hands on what an engine tells.
pub(crate) struct Listener(pub(crate) Arc<Audit>);

impl EventSink for Listener {
    fn emit(&self, event: Event) {
        // Something always happens where plugins run.
        self.0.note_repeats();
        if let Event::StepStarted {
            plugin, version, ..
        } = &event
        {
            self.0.note_use(plugin.as_str(), version);
        }
        match events::of_event(&event) {
            Some(event) if matches!(event.kind, Kind::Spawn | Kind::Exit) => {
                self.0.note_process(event);
            }
            Some(event) if event.kind == Kind::Denial => self.0.note_denial(event),
            Some(event) => self.0.note(event),
            None => {}
        }
    }
}

/// Sets the log aside if it is damaged. Returns where it is kept and what is wrong
/// with it.
pub(crate) fn set_aside(context: &Context) -> Result<Option<(PathBuf, AuditError)>> {
    let (home, config) = (context.home()?, context.config()?.audit);
    let (settings, _) = settings(&config);
    let dir = dir(&home, &config);
    Ok(AuditLog::set_aside(&dir, settings, Some(&whoami()))?)
}

/// Where the log of a home lies.
pub(crate) fn dir(home: &Home, config: &AuditConfig) -> PathBuf {
    home.root().join(&config.dir)
}

fn settings(config: &AuditConfig) -> (AuditSettings, Option<CopyTo>) {
    let settings = AuditSettings {
        checkpoint_records: config.checkpoint_records.get(),
        checkpoint_interval: config.checkpoint_interval,
        quota: QuotaSettings {
            per_second: config.records_per_second.get().into(),
            burst: config.burst.get(),
        },
        segment_bytes: config.segment_bytes,
        keep: match config.keep {
            Retention::Off => None,
            Retention::Keep(time) => Some(time),
        },
        queue_max: config.queue_max.get(),
        lock_wait: config.busy_timeout,
        names_secret: names_a_secret,
    };
    let copy: Option<CopyTo> = match &config.checkpoint_copy {
        CheckpointCopy::Off => None,
        CheckpointCopy::Stderr => Some(Box::new(|note| progress::write_to_stderr(note.as_bytes()))),
        CheckpointCopy::File(path) => Some(copy_to_file(path.clone())),
    };
    (settings, copy)
}

#[cfg(test)]
mod tests {
    use orchestrator_contract::{PhaseName, PluginId, PluginState, RunId, StepId};
    use orchestrator_engine::config::Config;
    use orchestrator_signing::audit::AuditReader;

    use super::*;

    /// `default.toml` is the one place for a default; the log stands alone too.
    #[test]
    fn the_defaults_are_those_of_the_log() {
        let (settings, copy) = settings(&Config::defaults().unwrap().audit);
        let own = AuditSettings::new(names_a_secret);
        assert_eq!(format!("{settings:?}"), format!("{own:?}"));
        assert!(copy.is_none());
    }

    #[test]
    fn only_a_plugin_with_a_process_starts_and_ends_one() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        let config = Config::defaults().unwrap().audit;
        let listener = Listener(Arc::default());
        let audit = Arc::clone(&listener.0);
        audit.open(&home, &config).unwrap();
        let tell = |plugin: &str, state| {
            listener.emit(Event::PluginStateChanged {
                plugin: PluginId::new(plugin),
                version: "1.0.0".into(),
                state,
                reason: "it takes calls".into(),
            });
        };
        tell("early", PluginState::Running);
        tell("template", PluginState::Running);
        let call = |plugin: &str| {
            listener.emit(Event::StepStarted {
                run: RunId::from_bytes([0; 16]),
                step: StepId::new("s"),
                plugin: PluginId::new(plugin),
                version: "1.0.0".into(),
                phase: PhaseName::new("p"),
            });
        };
        call("shell");
        call("early");
        audit.know(
            ["early".to_owned(), "late".to_owned()].into(),
            ["shell", "git"]
                .map(|it| (it.to_owned(), "1.0.0".to_owned()))
                .into(),
        );
        call("shell");
        call("git");
        call("git");
        tell("late", PluginState::Running);
        tell("early", PluginState::Stopped);
        tell("template", PluginState::Stopped);
        audit.close();
        let mut reader = AuditReader::open(&super::dir(&home, &config), 0).unwrap();
        let mut found = Vec::new();
        while let Some(record) = reader.next_record().unwrap() {
            found.push((record.event.kind, record.event.plugin.unwrap()));
        }
        let expected = [
            (Kind::Spawn, "early"),
            (Kind::Spawn, "shell"),
            (Kind::Spawn, "git"),
            (Kind::Spawn, "late"),
            (Kind::Exit, "early"),
        ];
        assert_eq!(
            found,
            expected.map(|(kind, plugin)| (kind, plugin.to_owned()))
        );
    }
}
