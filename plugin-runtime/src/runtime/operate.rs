//! What an operator does with plugins that are loaded.

use std::{sync::Arc, time::Duration};

use orchestrator_contract::PluginState;
use orchestrator_manifest::Kind;
use semver::VersionReq;
use tokio::task::JoinSet;

use super::Runtime;
use crate::{
    RuntimeError,
    entry::{Body, Entry, NotRestarted},
    lifecycle::Illegal,
    registry::Plugins,
};

impl Runtime {
    /// Keeps every version of a plugin from taking calls, those that a reload brings
    /// included, until it is [enabled](Self::enable). Calls in flight end as they would,
    /// and its process keeps its state. One that was taken out of service, or could not be
    /// loaded, stays as it is and is disabled when it is loaded again.
    ///
    /// # Errors
    ///
    /// When there is no such plugin.
    pub fn disable(&self, id: &str) -> Result<(), RuntimeError> {
        self.versions(id)?;
        self.keep_disabled(id);
        Ok(())
    }

    /// [Disables](Self::disable) a plugin, also one that only a reload will bring, or
    /// bring back.
    pub fn keep_disabled(&self, id: &str) {
        let mut disabled = self.registry.disabled();
        disabled.insert(id.to_owned());
        let versions = self.registry.with(|plugins| plugins.operated(id));
        for entry in versions.into_iter().chain(self.registry.left(id)) {
            // One that cannot be disabled does not run.
            let _ = entry.life.disable();
        }
    }

    /// Lets a plugin take calls again after [`disable`](Self::disable), a crash loop
    /// or a failed start. Of one that was disabled and is out of service by now, this takes
    /// back the one, and its state says that it is the other.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, or it was not disabled and none of its versions can be
    /// enabled: it could not be loaded, or was stopped because its trust or a grant was
    /// taken back, which only a reload or a new start of the runtime can mend.
    pub fn enable(&self, id: &str) -> Result<(), RuntimeError> {
        let mut disabled = self.registry.disabled();
        let was_disabled = disabled.remove(id);
        for entry in self.registry.left(id) {
            // Whoever began with it goes on where it was.
            let _ = entry.life.enable();
        }
        let versions = self.versions(id)?;
        let each = versions.iter().map(|entry| enable(entry));
        match any(each) {
            Err(illegal) if !was_disabled => Err(refusal(&versions, illegal)),
            _ => Ok(()),
        }
    }

    /// Starts a plugin again: its calls have `grace` to end, those that come meanwhile
    /// wait. Gets it out of a crash loop and a failed start too. Returns when it takes
    /// calls. Of several versions it is the one that the plugin's name leads to, and side by
    /// side with it those that run, or would if they could; what nobody has called is not
    /// started. What depends on it is left as it is. Dropping the future leaves what has
    /// begun to itself.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, it is disabled or could not be loaded, and when
    /// it does not start again.
    pub async fn restart(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let versions = self.serving(id)?;
        let mut restarting = JoinSet::new();
        for entry in versions.iter().cloned().chain(self.still_used(id)) {
            let limit = self.settings.stop_timeout;
            restarting.spawn(async move {
                let reason = "restarted by an operator";
                (entry.restart(grace, limit, reason).await, entry)
            });
        }
        let mut failures = Vec::new();
        let mut refused = None;
        while let Some(ended) = restarting.join_next().await {
            match ended {
                Ok((Ok(()), _)) => {}
                // Nobody needs it any more.
                Ok((Err(_), entry)) if !is_among(&versions, &entry) => {}
                Ok((Err(NotRestarted::Illegal(illegal)), _)) => refused = Some(illegal),
                Ok((Err(NotRestarted::Start(error)), _)) => failures.push(error.to_string()),
                Err(panic) => failures.push(panic.to_string()),
            }
        }
        match refused {
            _ if !failures.is_empty() => Err(RuntimeError::NotRestarted {
                id: id.to_owned(),
                message: failures.join("; "),
            }),
            Some(illegal) => Err(refusal(&versions, illegal)),
            None => Ok(()),
        }
    }

    /// The version that a plugin's name leads to, and those that have come to run.
    fn serving(&self, id: &str) -> Result<Vec<Arc<Entry>>, RuntimeError> {
        let versions = self.versions(id)?;
        let channel = self.settings.channels.get(id).copied();
        let meant = |plugins: &Plugins| plugins.meant(id, &VersionReq::STAR, channel).cloned();
        let meant: Vec<_> = self.registry.with(meant).into_iter().collect();
        let is_loaded = |entry: &Arc<Entry>| !matches!(entry.body, Body::None);
        let serves = |entry: &&Arc<Entry>| {
            is_loaded(entry) && (is_among(&meant, entry) || has_come_to_run(entry))
        };
        let serving: Vec<_> = versions.iter().filter(serves).cloned().collect();
        let mut candidates = [serving, meant, versions].into_iter();
        // Of those that were not loaded, their states say why.
        Ok(candidates.find(|it| !it.is_empty()).unwrap_or_default())
    }

    /// Earlier versions that runs go on with.
    fn still_used(&self, id: &str) -> impl Iterator<Item = Arc<Entry>> {
        let is_used = |entry: &Arc<Entry>| entry.users() > 0 || entry.in_flight() > 0;
        let left = self.registry.left(id).into_iter();
        left.filter(move |entry| is_used(entry) && has_come_to_run(entry))
    }
}

fn is_among(entries: &[Arc<Entry>], entry: &Arc<Entry>) -> bool {
    entries.iter().any(|it| Arc::ptr_eq(it, entry))
}

/// Whether there is, or was, more of it than what was loaded.
fn has_come_to_run(entry: &Entry) -> bool {
    use PluginState::{CrashLoop, Error, Running, Starting};
    matches!(entry.life.state(), Starting | Running | Error | CrashLoop)
}

/// Why something can be done with none of these versions of a plugin: what took it out of
/// service, where something did.
fn refusal(versions: &[Arc<Entry>], illegal: Illegal) -> RuntimeError {
    let out_of_service = versions.iter().rev();
    let out_of_service = out_of_service.filter(|entry| entry.life.is_out_of_service());
    let mut problems = out_of_service.filter_map(|entry| Some((entry, entry.life.problem()?)));
    match problems.next() {
        Some((entry, mut problem)) => {
            if entry.manifest.kind != Kind::Builtin {
                let reload = format!("`orchestrator plugin reload {}` loads it again", entry.id);
                let parts = [&problem.help, &reload];
                let parts = parts.into_iter().filter(|it| !it.is_empty());
                problem.help = parts.map(String::as_str).collect::<Vec<_>>().join("; ");
            }
            RuntimeError::Refused(problem)
        }
        None => {
            let id = versions.first().map_or("", |entry| entry.id.as_str());
            RuntimeError::illegal(id, illegal)
        }
    }
}

/// Does it to each, and fails as the first one did when it could be done to none.
fn any(each: impl Iterator<Item = Result<(), Illegal>>) -> Result<(), Illegal> {
    let (done, mut refused): (Vec<_>, Vec<_>) = each.partition(Result::is_ok);
    match refused.is_empty() || !done.is_empty() {
        true => Ok(()),
        false => refused.swap_remove(0),
    }
}

fn enable(entry: &Entry) -> Result<(), Illegal> {
    let state = match entry.life.state() {
        PluginState::Disabled => entry.life.enable()?,
        state => state,
    };
    match state {
        PluginState::Error | PluginState::CrashLoop if !matches!(entry.body, Body::None) => {
            let reason = "an operator has it tried again";
            entry.life.go(PluginState::Loaded, reason)?;
            if let Body::Node(node) = &entry.body {
                node.request_start();
            }
        }
        PluginState::Error
        | PluginState::Stopping
        | PluginState::Stopped
        | PluginState::Unloaded => {
            let (from, to) = (state, PluginState::Loaded);
            return Err(Illegal { from, to });
        }
        _ => {}
    }
    Ok(())
}
