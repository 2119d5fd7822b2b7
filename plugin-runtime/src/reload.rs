//! How a plugin goes on with what is installed now, while it is used.
//!
//! The new release is loaded as at the start and runs beside the one that serves
//! before anything changes. Then names lead to it. Where state has to move, its calls
//! wait for that; whatever goes wrong, names lead to the old one again, and so do the
//! calls that waited.
//!
//! | file | what it does |
//! |---|---|
//! | `anew.rs` | what a start would make of the plugin now |
//! | `trial.rs` | starts the new one beside the old one |
//! | `handover.rs` | moves the state while calls wait |

mod anew;
mod handover;
mod trial;

use std::{sync::Arc, time::Duration};

use orchestrator_contract::{Event, PluginId, ReloadOutcome};
use semver::{Version, VersionReq};
use serde::Serialize;
use tokio::{task::spawn_blocking, time::Instant};

use self::anew::Anew;
use crate::{
    PluginStatus, RuntimeError, RuntimePaths,
    entry::Entry,
    load,
    registry::{Closed, Registry},
    runtime::assemble::Surroundings,
};

/// Earlier versions of one plugin that may be in use besides the one that serves.
const LEFT_MAX: usize = 4;

/// What a reload has done.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Reloaded {
    /// The plugin.
    pub id: String,
    /// The version that served before; absent when none did.
    pub from: Option<Version>,
    /// The version that serves now.
    pub version: Version,
    /// What became of the state.
    pub state: HandedOn,
    /// How long new calls waited, in milliseconds.
    pub held_ms: u64,
    /// How many go on with the version that served before, until they end.
    pub left: u64,
    /// The plugin as it is now.
    pub plugin: PluginStatus,
}

/// What became of a plugin's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HandedOn {
    /// Whether the new version goes on with it.
    pub kept: bool,
    /// Its size in bytes.
    pub bytes: u64,
    /// Why there is none, for people; empty when it was kept.
    pub reason: String,
}

impl HandedOn {
    fn nothing(reason: impl Into<String>) -> Self {
        let (kept, bytes, reason) = (false, 0, reason.into());
        Self {
            kept,
            bytes,
            reason,
        }
    }
}

/// One reload.
pub(crate) struct Reload {
    pub(crate) registry: Arc<Registry>,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) paths: RuntimePaths,
}

impl Reload {
    /// Waits for its turn, reloads the plugin and tells everybody. Dropping the future
    /// ends the new version if it does not serve yet.
    pub(crate) async fn run(self, id: String) -> Result<Reloaded, RuntimeError> {
        let _turn = self.registry.turn().await;
        let before = self.registry.plugins();
        let channel = self.surroundings.settings.channels.get(&id).copied();
        let serving = before.meant(&id, &VersionReq::STAR, channel).cloned();
        let ended = self.reload(&id, serving.as_ref()).await;
        self.tell(&id, serving.as_deref(), &ended);
        ended
    }

    async fn reload(
        &self,
        id: &str,
        serving: Option<&Arc<Entry>>,
    ) -> Result<Reloaded, RuntimeError> {
        self.room(id)?;
        let (paths, name) = (self.paths.clone(), id.to_owned());
        let surroundings = Arc::clone(&self.surroundings);
        let loading =
            spawn_blocking(move || load::load(&paths, &surroundings.rules, Some(name.as_str())));
        let loaded = loading
            .await
            .map_err(|source| RuntimeError::Interrupted { source })??;
        let before = self.registry.plugins();
        let anew = anew::draw_up(&self.surroundings, &before, id, serving, loaded)?;
        let is_disabled = self.registry.disabled().contains(id);
        match is_disabled {
            true => self.swap_disabled(anew, serving),
            false => self.try_out(anew, serving).await,
        }
    }

    /// What an operator keeps from running is loaded, and not started.
    fn swap_disabled(
        &self,
        anew: Anew,
        serving: Option<&Arc<Entry>>,
    ) -> Result<Reloaded, RuntimeError> {
        self.put_in_place(&anew)?;
        let state = HandedOn::nothing("the plugin is disabled");
        Ok(self.settle_down(anew, serving, state, Duration::ZERO))
    }

    /// Lets names lead to the new version, and keeps the old ones.
    fn put_in_place(&self, anew: &Anew) -> Result<(), RuntimeError> {
        let closing = |Closed| RuntimeError::Closing {
            id: anew.new.id.to_string(),
        };
        let plugins = Arc::clone(&anew.plugins);
        let replaced = self.registry.replace(plugins, &anew.replaced);
        replaced.map_err(closing)?;
        // Somebody may have changed its limits while it was loaded.
        let change = self.surroundings.rules.changes.of(anew.new.id.as_str());
        let made = anew.made.iter().filter(|_| !change.is_empty());
        for bounds in made.filter_map(|entry| entry.facts.limits.as_ref()) {
            bounds.set(&change);
        }
        Ok(())
    }

    /// Makes the change known to everybody, and lets the old version go when nobody
    /// uses it any more.
    fn settle_down(
        &self,
        anew: Anew,
        serving: Option<&Arc<Entry>>,
        state: HandedOn,
        held: Duration,
    ) -> Reloaded {
        anew.tie();
        self.registry.forget(&anew.new);
        let left = serving.map_or(0, |old| old.users().max(old.in_flight()));
        for old in &anew.replaced {
            if anew.has_version_of(old) {
                old.life.falls_silent();
            }
            tokio::spawn(leave(
                Arc::clone(&self.registry),
                Arc::clone(old),
                self.surroundings.settings.stop_timeout,
            ));
        }
        for entry in &anew.made {
            entry.life.serves();
        }
        Reloaded {
            id: anew.new.id.to_string(),
            from: serving.map(|old| old.manifest.version.clone()),
            version: anew.new.manifest.version.clone(),
            state,
            held_ms: u64::try_from(held.as_millis()).unwrap_or(u64::MAX),
            left,
            plugin: anew.new.status(),
        }
    }

    /// Every reload may leave a process behind for as long as runs need it.
    fn room(&self, id: &str) -> Result<(), RuntimeError> {
        let aside = self.registry.aside();
        let count = aside.iter().filter(|it| it.id.as_str() == id).count();
        match count < LEFT_MAX {
            true => Ok(()),
            false => {
                let id = id.to_owned();
                Err(RuntimeError::TooManyInUse { id, count })
            }
        }
    }

    fn tell(&self, id: &str, serving: Option<&Entry>, ended: &Result<Reloaded, RuntimeError>) {
        let from = serving.map(|entry| entry.manifest.version.to_string().into());
        let (version, outcome, reason) = match ended {
            Ok(done) => {
                let reason = match done.state.kept {
                    true => format!("{} bytes of state moved", done.state.bytes),
                    false => format!("no state moved: {}", done.state.reason),
                };
                let version = Some(done.version.to_string().into());
                (version, ReloadOutcome::Switched, reason)
            }
            Err(error) => (None, ReloadOutcome::Failed, error.to_string()),
        };
        self.surroundings.events.emit(Event::PluginReloaded {
            plugin: PluginId::new(id),
            from,
            version,
            outcome,
            reason: reason.into(),
        });
    }
}

/// Stops a version once nobody uses it any more.
async fn leave(registry: Arc<Registry>, entry: Arc<Entry>, limit: Duration) {
    entry.done().await;
    let _ = entry.stop(Instant::now() + limit, limit).await;
    registry.forget(&entry);
}
