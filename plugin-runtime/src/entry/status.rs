//! What people and programs see of a plugin.

use std::sync::atomic::Ordering;

use super::{Body, Entry};
use crate::{DependencyStatus, PhaseStatus, PluginStatus, moment::Moment};

impl Entry {
    pub(crate) fn status(&self) -> PluginStatus {
        let (pid, restarts, waiting) = match &self.body {
            Body::Node(node) => (node.pid(), node.restarts(), node.waiting()),
            Body::Exec(exec) => (None, 0, exec.waiting()),
            Body::Builtin(builtin) => (None, builtin.recovery.restarts(), 0),
            Body::None => (None, 0, 0),
        };
        let facts = self.facts.clone();
        let (state, started_at) = (self.life.state(), self.started_at());
        PluginStatus {
            id: self.id.to_string(),
            version: self.manifest.version.clone(),
            kind: self.manifest.kind.as_str(),
            roles: self
                .manifest
                .role
                .iter()
                .map(|role| role.as_str())
                .collect(),
            description: self.manifest.description.clone(),
            author: self.manifest.author.clone(),
            license: self.manifest.license.clone(),
            state,
            history: self.life.history(),
            trust_level: facts.trust_level,
            key_id: facts.key_id,
            unsigned: facts.unsigned,
            digest: facts.digest,
            channel: facts.channel,
            location: facts.location,
            label: facts.label,
            phases: self.phases.iter().map(PhaseStatus::of).collect(),
            dependencies: self.dependency_statuses(),
            limits: facts.limits.as_ref().map(|it| it.now()).unwrap_or_default(),
            limits_held: facts.limits.map_or_else(Vec::new, |it| it.held()),
            has_config_schema: self.manifest.config_schema.is_some(),
            sensitive_fields: self.manifest.sensitive_fields.clone(),
            warnings: facts.warnings,
            grants: facts.grants,
            enforced_by_kernel: facts.enforced_by_kernel,
            not_enforced: facts.not_enforced,
            sandbox: facts.sandbox,
            pid,
            started_at: started_at.map(Moment::shown),
            last_seen: self.last_seen().map(Moment::shown),
            health: self
                .health
                .health(state, started_at, self.life.last_problem().is_some()),
            restarts,
            calls: self.calls.load(Ordering::Relaxed),
            waiting,
            error: self.life.problem(),
            last_problem: self.life.last_problem(),
            shadowed: facts.shadowed,
        }
    }

    /// Since when it runs: its process, where it has one.
    fn started_at(&self) -> Option<Moment> {
        match &self.body {
            Body::Node(node) => node.pid().and(node.last_started_at()),
            _ => self.life.running_since(),
        }
    }

    /// When it was last known to be there.
    fn last_seen(&self) -> Option<Moment> {
        let started = match &self.body {
            Body::Node(node) => node.last_started_at(),
            _ => self.life.running_since(),
        };
        self.health.last_seen().max(started)
    }

    fn dependency_statuses(&self) -> Vec<DependencyStatus> {
        let needed = self.manifest.dependencies.iter();
        needed
            .map(|(id, range)| {
                let chosen = self.dependencies();
                let chosen = chosen.iter().find(|entry| entry.manifest.id == *id);
                DependencyStatus {
                    id: id.to_string(),
                    range: range.clone(),
                    version: chosen.map(|entry| entry.manifest.version.clone()),
                }
            })
            .collect()
    }
}
