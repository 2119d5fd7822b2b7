//! Takes plugins out of service when what they run by is taken back: their
//! key, their release or a grant.
//!
//! Trust and grants change in files, by commands that know nothing of the
//! hosts that run. A look at those files once a second costs next to nothing;
//! only when they have changed is every plugin judged anew.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use orchestrator_contract::PluginState;
use orchestrator_signing::{GrantStore, TrustRoot, TrustStore};
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    PluginProblem,
    entry::{Entry, Facts},
    error::LoadError,
    registry::Registry,
};

/// How often the files are looked at: how long at most a plugin goes on taking
/// calls after it may not.
const EVERY: Duration = Duration::from_secs(1);

/// Where whom the host trusts, and what was granted, is written down.
#[derive(Clone, Debug)]
pub(crate) struct Papers {
    pub(crate) trust_dir: PathBuf,
    pub(crate) grants_file: PathBuf,
}

/// What tells one state of the files from the next. Both are replaced, never
/// written to, so a change is another file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp([Option<[i64; 3]>; 2]);

impl Papers {
    pub(crate) fn stamp(&self) -> Stamp {
        let of = |path: &Path| {
            let file = fs::metadata(path).ok()?;
            let inode = file.ino().cast_signed();
            Some([inode, file.ctime(), file.ctime_nsec()])
        };
        Stamp([of(&self.trust_dir.join("root.json")), of(&self.grants_file)])
    }

    fn trust(&self) -> Result<TrustRoot, PluginProblem> {
        let trust = TrustStore::open(&self.trust_dir).map_err(|error| PluginProblem::new(&error));
        Ok(trust?.root())
    }

    fn grants(&self) -> Result<GrantStore, PluginProblem> {
        GrantStore::open(&self.grants_file).map_err(|error| PluginProblem::new(&error))
    }
}

/// What a look at the files led to.
struct Judged {
    /// The plugins that run and may not, each with the reason.
    refused: Vec<(Arc<Entry>, PluginProblem)>,
    /// What could not be read, so that it has to be looked at again.
    unread: Vec<PluginProblem>,
}

/// Watches `papers`, which were as `seen` when the plugins were loaded, until it
/// is dropped. Plugins that are refused by what the files say then end the
/// calls they have within `limit`, take no further ones and are stopped.
pub(crate) async fn watch(
    papers: Papers,
    mut seen: Stamp,
    registry: Arc<Registry>,
    limit: Duration,
) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut stopping = JoinSet::new();
    let mut told = Vec::new();
    let mut anew = false;
    loop {
        ticks.tick().await;
        while stopping.try_join_next().is_some() {}
        let (papers, before) = (papers.clone(), seen.clone());
        // What came meanwhile went by files that may have changed again.
        anew |= registry.has_changed();
        let (look, entries) = (anew, registry.all());
        let judged = spawn_blocking(move || {
            let now = papers.stamp();
            (look || now != before).then(|| (now, judge(&papers, &entries)))
        });
        // It fails only while the host ends.
        let Ok(judged) = judged.await else {
            return;
        };
        let Some((now, judged)) = judged else {
            continue;
        };
        // What was taken back is in a file that cannot be read as well.
        if judged.unread.is_empty() {
            seen = now;
            anew = false;
        }
        tell(&judged.unread, &mut told);
        for (entry, problem) in judged.refused {
            entry.life.fail(PluginState::Error, problem);
            stopping.spawn(async move {
                let until = Instant::now() + limit;
                // What goes wrong is in the plugin's state, and its process is gone.
                let _ = entry.stop(until, limit).await;
            });
        }
    }
}

/// Trust and grants are judged apart: that one of them cannot be read takes nothing
/// from what the other says.
fn judge(papers: &Papers, entries: &[Arc<Entry>]) -> Judged {
    let mut unread = Vec::new();
    let trust = papers.trust().map_err(|problem| unread.push(problem)).ok();
    let grants = papers.grants().map_err(|problem| unread.push(problem)).ok();
    let running = entries.iter().filter(|entry| is_in_service(entry));
    let refused = running.filter_map(|entry| {
        let problem = refusal(&entry.facts, trust.as_ref(), grants.as_ref())?;
        Some((Arc::clone(entry), problem))
    });
    Judged {
        refused: refused.collect(),
        unread,
    }
}

/// A file that somebody broke says nothing about any plugin, and no host starts with
/// it. That is said once, and not every second.
fn tell(unread: &[PluginProblem], told: &mut Vec<String>) {
    let now: Vec<_> = unread.iter().map(ToString::to_string).collect();
    for (problem, text) in unread.iter().zip(&now) {
        if !told.contains(text) {
            let code = &problem.code;
            tracing::warn!(%code, "trust or grants cannot be read; plugins go on: {problem}");
        }
    }
    *told = now;
}

fn is_in_service(entry: &Entry) -> bool {
    use PluginState::{CrashLoop, Disabled, Initialized, Loaded, Running, Starting};
    let state = entry.life.state();
    matches!(
        state,
        Loaded | Initialized | Starting | Running | Disabled | CrashLoop
    )
}

/// Why a plugin may not run, as far as can be told.
fn refusal(
    facts: &Facts,
    trust: Option<&TrustRoot>,
    grants: Option<&GrantStore>,
) -> Option<PluginProblem> {
    let package = facts.package.as_ref()?;
    let now = match trust.map(|trust| package.judged_by(trust)) {
        Some(Err(error)) => return Some(PluginProblem::of(&error)),
        Some(Ok(now)) => now,
        None => package.clone(),
    };
    let level = now.trust_level();
    if facts.enough_for.is_some_and(|enough| level < enough) {
        let level = level.number();
        return Some(PluginProblem::of(&LoadError::LessTrusted { level }));
    }
    let granted = match grants?.check(&now) {
        Err(error) => return Some(PluginProblem::of(&error)),
        Ok(granted) => granted,
    };
    let has = |text: &String| {
        granted
            .capabilities
            .iter()
            .any(|it| it.to_string() == *text)
    };
    let lost: Vec<_> = facts
        .grants
        .iter()
        .filter(|text| !has(text))
        .cloned()
        .collect();
    if lost.is_empty() {
        return None;
    }
    let capabilities = lost.join(", ");
    Some(PluginProblem::of(&LoadError::Narrowed { capabilities }))
}
