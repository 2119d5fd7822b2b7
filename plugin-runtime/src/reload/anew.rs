//! What a start would make of one plugin now.

use std::{collections::BTreeMap, sync::Arc};

use semver::VersionReq;

use crate::{
    PluginProblem, RuntimeError,
    dependencies::{Identity, Resolution, resolve, select},
    entry::{Body, Entry},
    load::Loaded,
    registry::Plugins,
    runtime::assemble::{Draft, Surroundings, identity, needs, tell_who_is_needed},
};

type Drafts = BTreeMap<Identity, Draft>;

/// The plugins as they would be after a start now.
pub(super) struct Anew {
    pub(super) plugins: Arc<Plugins>,
    /// The one that is to serve.
    pub(super) new: Arc<Entry>,
    /// All that were made, `new` among them.
    pub(super) made: Vec<Arc<Entry>>,
    /// Those that are no longer to be found.
    pub(super) replaced: Vec<Arc<Entry>>,
    needs: BTreeMap<Identity, Vec<Identity>>,
}

impl Anew {
    /// Lets every plugin know the ones that it needs.
    pub(super) fn tie(&self) {
        for (identity, needed) in &self.needs {
            if let Some(entry) = self.plugins.entries.get(identity) {
                entry.depend_on(of(&self.plugins, needed));
            }
        }
        tell_who_is_needed(self.plugins.entries.values());
    }

    /// Whether another entry of the same version took its place.
    pub(super) fn has_version_of(&self, entry: &Entry) -> bool {
        let entries = &self.plugins.entries;
        entries.contains_key(&identity(&entry.manifest))
    }
}

/// Draws up what a start would make of plugin `id`, of which `loaded` was found. The
/// one that is to serve is made anew in any case, and so is the one that `serving`
/// was; others stay as they are where nothing about them has changed.
///
/// # Errors
///
/// When nothing was found or what was is refused, and when another plugin would lack
/// something.
pub(super) fn draw_up(
    surroundings: &Surroundings,
    before: &Plugins,
    id: &str,
    serving: Option<&Arc<Entry>>,
    loaded: Loaded,
) -> Result<Anew, RuntimeError> {
    let is_builtin = |entry: &Arc<Entry>| matches!(entry.body, Body::Builtin(_));
    if before.versions(id).any(is_builtin) {
        return Err(RuntimeError::CompiledIn { id: id.to_owned() });
    }
    let candidates = loaded.candidates.into_iter();
    let drafts = candidates.map(|candidate| surroundings.package(candidate, true));
    let mut drafts: Drafts = drafts
        .map(|draft| (identity(&draft.known.manifest), draft))
        .collect();
    let resolution = settle(before, id, &mut drafts)?;
    let target = target(surroundings, id, &drafts)?;
    let serves = |entry: &Arc<Entry>| serving.is_some_and(|it| Arc::ptr_eq(it, entry));

    let mut entries = before.entries.clone();
    entries.retain(|it, _| it.id != id);
    let mut made = Vec::new();
    for (identity, draft) in drafts {
        let known = before.entries.get(&identity);
        let stays = known.filter(|it| identity != target && !serves(it) && is_same(it, &draft));
        let entry = stays.cloned().unwrap_or_else(|| {
            let entry = Arc::new(surroundings.entry(draft));
            made.push(Arc::clone(&entry));
            entry
        });
        entries.insert(identity, entry);
    }
    let new = Arc::clone(&entries[&target]);
    let is_there = |entry: &&Arc<Entry>| entries.values().any(|it| Arc::ptr_eq(it, entry));
    let replaced = before.versions(id).filter(|entry| !is_there(entry));
    let replaced = replaced.cloned().collect();
    let order = resolution.order;
    let plugins = Arc::new(Plugins { entries, order });
    let needs = resolution.needs;
    if let Some(needed) = needs.get(&target) {
        new.depend_on(of(&plugins, needed));
    }
    Ok(Anew {
        plugins,
        new,
        made,
        replaced,
        needs,
    })
}

/// Refuses what does not get what it needs, of `id` and of whoever needs it.
fn settle(before: &Plugins, id: &str, drafts: &mut Drafts) -> Result<Resolution, RuntimeError> {
    let (mut usable, mut unusable) = (BTreeMap::new(), BTreeMap::new());
    for (identity, entry) in before.entries.iter().filter(|(it, _)| it.id != id) {
        match (&entry.body, entry.life.problem()) {
            (Body::None, problem) => {
                let why = problem.map(|it| (it.code, it.message));
                unusable.insert(identity.clone(), why.unwrap_or_default());
            }
            _ => drop(usable.insert(identity.clone(), needs(&entry.manifest, &entry.facts))),
        }
    }
    for (identity, draft) in &*drafts {
        match &draft.outcome {
            Ok(_) => {
                let needs = needs(&draft.known.manifest, &draft.known.facts);
                usable.insert(identity.clone(), needs);
            }
            Err(problem) => {
                let why = (problem.code.clone(), problem.message.clone());
                unusable.insert(identity.clone(), why);
            }
        }
    }
    let mut resolution = resolve(usable, unusable);
    for (identity, error) in resolution.refused.drain(..) {
        match drafts.get_mut(&identity) {
            Some(draft) => {
                draft.outcome = Err(PluginProblem::at_stage("dependency check failed", &error));
            }
            None => {
                return Err(RuntimeError::Needed {
                    id: id.to_owned(),
                    dependant: identity.id,
                    reason: error.to_string(),
                });
            }
        }
    }
    Ok(resolution)
}

/// The one that is to serve.
fn target(
    surroundings: &Surroundings,
    id: &str,
    drafts: &Drafts,
) -> Result<Identity, RuntimeError> {
    let channel = surroundings.settings.channels.get(id).copied();
    let standing = |draft: &Draft| draft.known.facts.standing();
    let Some((target, draft)) = select(drafts, id, &VersionReq::STAR, channel, standing) else {
        return Err(RuntimeError::NotInstalled { id: id.to_owned() });
    };
    match &draft.outcome {
        Ok(_) => Ok(target.clone()),
        Err(problem) => Err(RuntimeError::Refused(problem.clone())),
    }
}

/// Whether loading it anew would change nothing.
fn is_same(entry: &Entry, draft: &Draft) -> bool {
    let (was, is) = (&entry.facts, &draft.known.facts);
    let can_run = !entry.life.is_out_of_service();
    was.digest == is.digest
        && was.grants == is.grants
        && was.trust_level == is.trust_level
        && can_run
        && draft.outcome.is_ok()
}

fn of(plugins: &Plugins, identities: &[Identity]) -> Vec<Arc<Entry>> {
    let entries = identities.iter().filter_map(|it| plugins.entries.get(it));
    entries.cloned().collect()
}
