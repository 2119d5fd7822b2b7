//! From what was loaded to a registry whose plugins know what they need.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use orchestrator_contract::{Event, EventSink, HostService, PluginId, PluginState};
use orchestrator_manifest::{Kind, Manifest, Target};
use serde_json::Value;

use crate::{
    Builtin, DiscoveryFault, Plugin, PluginProblem, RuntimeError, RuntimeSettings,
    builtin::BuiltinBody,
    dependencies::{Identity, Needs, resolve},
    egress::{Egress, EgressDenial, EgressObserver, SystemResolver},
    entry::{Body, Entry, Facts},
    error::LoadError,
    exec::{Exec, ExecParts, Identity as Told},
    lifecycle::Lifecycle,
    limits,
    load::{self, Candidate, Known, Loaded, Prepared, Rules},
    monitor::Monitor,
    node::{Node, NodeParts},
    outlet::Outlet,
    registry::Plugins,
    unused::unused_keys,
    validator::{Operation, Validator},
};

/// What every plugin is surrounded by.
pub(crate) struct Surroundings {
    pub(crate) settings: RuntimeSettings,
    pub(crate) rules: Rules,
    pub(crate) events: Arc<dyn EventSink>,
    pub(crate) host: Arc<dyn HostService>,
    pub(crate) monitor: Arc<Monitor>,
}

/// The registry.
pub(super) struct Assembled {
    pub(super) plugins: Plugins,
    pub(super) faults: Vec<DiscoveryFault>,
}

/// A plugin before it is known whether it has what it needs.
pub(crate) struct Draft {
    pub(crate) known: Known,
    life: Arc<Lifecycle>,
    pub(crate) outcome: Result<Content, PluginProblem>,
}

pub(crate) enum Content {
    Builtin(Arc<dyn Plugin>, Arc<Value>),
    Native(Box<Prepared>),
}

/// Puts everything into the registry.
///
/// # Errors
///
/// When two builtins are the same or one is of another kind.
pub(super) fn assemble(
    surroundings: &Surroundings,
    loaded: Loaded,
    builtins: Vec<Builtin>,
) -> Result<Assembled, RuntimeError> {
    let mut drafts: BTreeMap<Identity, Draft> = BTreeMap::new();
    for builtin in builtins {
        let identity = identity(&builtin.manifest);
        if drafts.contains_key(&identity) {
            let Identity { id, version } = identity;
            return Err(RuntimeError::AlreadyRegistered { id, version });
        }
        drafts.insert(identity, surroundings.builtin(builtin)?);
    }
    let compiled_in: BTreeSet<_> = drafts.keys().map(|builtin| builtin.id.clone()).collect();
    for candidate in loaded.candidates {
        let identity = identity(&candidate.known.manifest);
        match drafts.get_mut(&identity) {
            // Compiled in comes first, as if it were found first.
            Some(builtin) => {
                let shadowed = &mut builtin.known.facts.shadowed;
                shadowed.extend(candidate.known.facts.location);
                shadowed.extend(candidate.known.facts.shadowed);
            }
            None => {
                let mut draft = surroundings.package(candidate, false);
                // A higher version would take the builtin's place in every pipeline.
                if compiled_in.contains(&identity.id) {
                    draft.outcome = Err(PluginProblem::of(&LoadError::NameOfBuiltin));
                }
                drafts.insert(identity, draft);
            }
        }
    }
    let (order, needs) = settle(&mut drafts);
    let mut entries = BTreeMap::new();
    for (identity, draft) in drafts {
        entries.insert(identity, Arc::new(surroundings.entry(draft)));
    }
    for (identity, needed) in &needs {
        let needed = needed
            .iter()
            .filter_map(|needed| entries.get(needed).cloned());
        entries[identity].depend_on(needed.collect());
    }
    tell_who_is_needed(entries.values());
    let faults = loaded.discovery.faults;
    Ok(Assembled {
        plugins: Plugins { entries, order },
        faults,
    })
}

/// Lets every plugin know the ones that need it.
pub(crate) fn tell_who_is_needed<'a>(entries: impl Iterator<Item = &'a Arc<Entry>> + Clone) {
    for entry in entries.clone() {
        let needs_it = |other: &&Arc<Entry>| {
            let needed = other.dependencies();
            needed.iter().any(|needed| Arc::ptr_eq(needed, entry))
        };
        let dependants = entries.clone().filter(needs_it);
        entry.be_needed_by(dependants.map(Arc::downgrade).collect());
    }
}

/// Refuses plugins that do not get what they need, and orders the others.
fn settle(
    drafts: &mut BTreeMap<Identity, Draft>,
) -> (Vec<Identity>, BTreeMap<Identity, Vec<Identity>>) {
    let (mut usable, mut unusable) = (BTreeMap::new(), BTreeMap::new());
    for (identity, draft) in &*drafts {
        match &draft.outcome {
            Ok(_) => {
                let known = &draft.known;
                let needs = needs(&known.manifest, &known.facts);
                usable.insert(identity.clone(), needs);
            }
            Err(problem) => {
                let why = (problem.code.clone(), problem.message.clone());
                unusable.insert(identity.clone(), why);
            }
        }
    }
    let resolution = resolve(usable, unusable);
    for (identity, error) in resolution.refused {
        if let Some(draft) = drafts.get_mut(&identity) {
            draft.outcome = Err(PluginProblem::at_stage("dependency check failed", &error));
        }
    }
    (resolution.order, resolution.needs)
}

/// What a plugin that can be used needs.
pub(crate) fn needs(manifest: &Manifest, facts: &Facts) -> Needs {
    let plugins = manifest.dependencies.iter();
    let plugins = plugins.map(|(id, range)| (id.to_string(), range.clone()));
    Needs {
        place: facts.place,
        channel: facts.channel,
        plugins: plugins.collect(),
    }
}

pub(crate) fn identity(manifest: &Manifest) -> Identity {
    Identity {
        id: manifest.id.to_string(),
        version: manifest.version.clone(),
    }
}

impl Surroundings {
    fn builtin(&self, builtin: Builtin) -> Result<Draft, RuntimeError> {
        let Builtin { manifest, plugin } = builtin;
        if manifest.kind != Kind::Builtin {
            let (id, kind) = (manifest.id.to_string(), manifest.kind.as_str());
            return Err(RuntimeError::NotBuiltin { id, kind });
        }
        let outcome = load::host(&manifest, &self.rules.host_version).and_then(|()| {
            let config = load::configuration(&manifest, &self.rules.config);
            let config = config.map_err(|error| PluginProblem::of(&error))?;
            limits::builtin(&manifest.resources)
                .map_err(|error| PluginProblem::at_stage("applying resource limits", &error))?;
            Ok(Content::Builtin(plugin, config))
        });
        let facts = Facts {
            label: "builtin".to_owned(),
            warnings: unused_keys(&manifest),
            digest: manifest.digest(),
            channel: manifest.channel,
            trust_level: Some(3),
            verified: true,
            ..Facts::default()
        };
        let known = Known {
            manifest: Arc::new(manifest),
            facts,
        };
        let life = self.life(&known, false);
        Ok(Draft {
            known,
            life,
            outcome,
        })
    }

    /// One that is on trial tells nobody what becomes of it.
    pub(crate) fn package(&self, candidate: Candidate, on_trial: bool) -> Draft {
        let Candidate { known, outcome } = candidate;
        let life = self.life(&known, on_trial);
        Draft {
            known,
            life,
            outcome: outcome.map(|prepared| Content::Native(Box::new(prepared))),
        }
    }

    fn life(&self, known: &Known, on_trial: bool) -> Arc<Lifecycle> {
        let plugin = PluginId::new(known.manifest.id.as_str());
        let version = known.manifest.version.to_string().into();
        let life = Lifecycle::new(plugin, version, Arc::clone(&self.events), on_trial);
        if known.facts.verified {
            // The first change of a new life is always legal.
            let _ = life.go(PluginState::Verified, "its origin was checked");
        }
        Arc::new(life)
    }

    pub(crate) fn entry(&self, draft: Draft) -> Entry {
        let Draft {
            known,
            life,
            outcome,
        } = draft;
        let body = match outcome {
            Ok(content) => {
                // Verified comes before Loaded, so this is legal.
                let _ = life.go(PluginState::Loaded, "it is in the registry");
                for warning in &known.facts.warnings {
                    let plugin = &known.manifest.id;
                    tracing::warn!(%plugin, "manifest: {warning}");
                }
                self.body(&known, &life, content)
            }
            Err(problem) => {
                life.fail(PluginState::Error, problem);
                Body::None
            }
        };
        Entry::new(
            known.manifest,
            known.facts,
            life,
            body,
            self.settings.start_timeout,
            self.settings.sandbox.validator.clone(),
        )
    }

    fn body(&self, known: &Known, life: &Arc<Lifecycle>, content: Content) -> Body {
        let manifest = Arc::clone(&known.manifest);
        let outlet = Arc::new(Outlet::new(
            PluginId::new(manifest.id.as_str()),
            Arc::clone(&self.events),
            Arc::clone(&self.host),
            &self.settings.log,
        ));
        let settings = &self.settings;
        let Prepared {
            program,
            bounds,
            config,
        } = match content {
            Content::Native(prepared) => *prepared,
            Content::Builtin(plugin, config) => {
                return Body::Builtin(BuiltinBody::new(plugin, outlet, config, settings));
            }
        };
        let program = program.let_out(|hold| {
            let plugin = PluginId::new(manifest.id.as_str());
            let (settings, resolver) = (settings.egress.clone(), Arc::new(SystemResolver));
            if let Some(lessons) = hold.lessons() {
                return Egress::observing(plugin, settings, resolver, Arc::new(lessons.clone()));
            }
            let granted = hold.destinations().to_vec();
            let denials = Arc::new(Denials {
                events: Arc::clone(&self.events),
                validator: self.settings.sandbox.validator.clone(),
            });
            Egress::new(plugin, granted, settings, resolver, denials)
        });
        let version = manifest.version.to_string();
        let grants = known.facts.grants.clone();
        let identity = Told::new(manifest.id.as_str(), &version, &grants, &config);
        let monitor = Arc::clone(&self.monitor);
        let crash_output_bytes = settings.crash_output_bytes;
        match manifest.kind {
            Kind::Node => Body::Node(Arc::new(Node::new(NodeParts {
                program,
                manifest,
                identity,
                config,
                grants,
                host_version: self.rules.host_version.to_string(),
                outlet,
                life: Arc::clone(life),
                monitor,
                bounds,
                settings: settings.node.clone(),
                restart: settings.restart.clone(),
                crash_output_bytes,
            }))),
            // The loader lets no other native kind through.
            _ => Body::Exec(Arc::new(Exec::new(ExecParts {
                program,
                manifest,
                identity,
                outlet,
                monitor,
                bounds,
                settings: settings.exec.clone(),
                crash_output_bytes,
            }))),
        }
    }
}

/// Tells of what a plugin was refused of the network.
struct Denials {
    events: Arc<dyn EventSink>,
    validator: Option<Validator>,
}

impl EgressObserver for Denials {
    fn allows(&self, plugin: &PluginId, target: &Target) -> bool {
        let validator = self.validator.as_ref();
        validator.is_none_or(|it| it.operation(plugin, Operation::Connect(target)).is_ok())
    }

    fn denied(&self, denial: EgressDenial) {
        let EgressDenial {
            plugin,
            capability,
            resource,
            rule,
            suppressed,
            ..
        } = denial;
        self.events.emit(Event::CapabilityDenied {
            plugin,
            capability: capability.into(),
            resource: resource.into(),
            rule,
            suppressed,
        });
    }
}
