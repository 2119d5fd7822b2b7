//! From a directory to something that can run: verify, then grants, then whether
//! this host can do what the plugin needs. Everything here blocks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Once},
};

use orchestrator_manifest::{Capability, Channel, Kind, Manifest};
use orchestrator_sandbox::{Grants, GroupReport, RunDirectory, TreeError, groups, sweep};
use orchestrator_signing::{
    Arrivals, Comparison, GrantError, GrantStore, Granted, InUse, LockFile, Package, Publisher,
    TrustError, TrustLevel, TrustRoot, TrustStore, Verified, requested_set, verify_or_unsigned,
};
use semver::Version;
use serde_json::Value;

use crate::{
    Discovery, Found, Lessons, LimitChange, PluginProblem, RuntimeError, RuntimePaths,
    SandboxStatus,
    confinement::{Hold, is_confined},
    discover,
    entry::Facts,
    error::LoadError,
    limits::{self, Bounds, Ceilings, Changes, Means},
    program::{Executable, Program, ProgramError},
    settings::{PolicySettings, SandboxSettings},
    unused::unused_keys,
    withdraw::Stamp,
};

/// What `required_features` may name.
pub(crate) const FEATURES: &[&str] = &["logs", "progress", "reconcile", "sessions"];

/// What loading goes by.
pub(crate) struct Rules {
    pub(crate) host_version: Version,
    pub(crate) config: BTreeMap<String, Value>,
    pub(crate) unsigned_paths: Vec<PathBuf>,
    pub(crate) sandbox: SandboxSettings,
    pub(crate) policy: PolicySettings,
    /// What an operator has changed of limits.
    pub(crate) changes: Changes,
}

/// A package that was found, and what became of it.
pub(crate) struct Candidate {
    pub(crate) known: Known,
    pub(crate) outcome: Result<Prepared, PluginProblem>,
}

/// What is known of a package so far.
pub(crate) struct Known {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) facts: Facts,
}

/// A package that can run.
pub(crate) struct Prepared {
    pub(crate) program: Program,
    pub(crate) bounds: Arc<Bounds>,
    pub(crate) config: Arc<Value>,
}

/// Everything below the search path.
pub(crate) struct Loaded {
    /// What trust and grants were like before they were read.
    pub(crate) stamp: Stamp,
    pub(crate) discovery: Discovery,
    pub(crate) candidates: Vec<Candidate>,
}

/// Finds every package, or those of plugin `only`, and gets it ready to run. Refused
/// packages are in the result, each with its reason.
///
/// # Errors
///
/// When trust or grants cannot be read at all, and when what was found is not what
/// the lock file names.
pub(crate) fn load(
    paths: &RuntimePaths,
    rules: &Rules,
    only: Option<&str>,
) -> Result<Loaded, RuntimeError> {
    let stamp = paths.papers().stamp();
    let mut trust = TrustStore::open(&paths.trust_dir).map_err(|error| RuntimeError::Trust {
        path: paths.trust_dir.clone(),
        source: Box::new(error),
    })?;
    let grants = GrantStore::open(&paths.grants_file).map_err(|error| RuntimeError::Grants {
        path: paths.grants_file.clone(),
        source: Box::new(error),
    })?;
    let locked = paths.locked.as_deref().map(LockFile::need).transpose()?;
    if paths.run_dir.exists()
        && let Err(error) = sweep(&paths.run_dir)
    {
        let error = crate::process::explain(&error);
        tracing::warn!(%error, "what dead hosts left behind was not removed");
    }
    let discovery = discover(&paths.search);
    let mut loader = Loader {
        trust: trust.root(),
        grants,
        rules,
        run_dir: &paths.run_dir,
        claimed: None,
        arrivals: Arrivals::default(),
        compared: locked.map(Comparison::with),
    };
    let is_meant = |found: &&Found| only.is_none_or(|id| found.manifest.id.as_str() == id);
    // Whether all is as it is written down is known only of all.
    let is_read = |found: &&Found| paths.locked.is_some() || is_meant(found);
    let wanted = discovery
        .found
        .iter()
        .filter(|found| found.shadowed_by.is_none())
        .filter(is_read);
    let mut candidates: Vec<_> = wanted
        .map(|found| loader.candidate(found, &discovery))
        .collect();
    if let Some(compared) = loader.compared {
        compared.finish()?;
    }
    remember(&mut trust, &candidates);
    tell_of_older(&trust.root(), &mut candidates);
    candidates.retain(|it| only.is_none_or(|id| it.known.manifest.id.as_str() == id));
    Ok(Loaded {
        stamp,
        discovery,
        candidates,
    })
}

/// Wherever a release was found, this host has had it from now on: its key may come
/// to its end, and what is older and new here is a step back.
fn remember(trust: &mut TrustStore, candidates: &[Candidate]) {
    let can_run = candidates.iter().filter(|it| it.outcome.is_ok());
    let packages = can_run.filter_map(|it| it.known.facts.package.as_ref());
    match trust.record(packages) {
        // Nothing new comes to a host whose root has expired, which it says by itself.
        Ok(()) | Err(TrustError::Expired { .. }) => {}
        Err(error) => {
            let error = PluginProblem::new(&error);
            tracing::warn!(%error, "which releases this host has had cannot be written down");
        }
    }
}

/// A release that this host has had may lie where it is found before a newer one, put
/// there by somebody or left by a rollback. That is said.
fn tell_of_older(trust: &TrustRoot, candidates: &mut [Candidate]) {
    for at in 0..candidates.len() {
        let older = &candidates[at].known;
        let package = older.facts.package.as_ref();
        let Some(newest) = package.and_then(|it| it.newer_had(trust)) else {
            continue;
        };
        let comes_first = |other: &Candidate| {
            let package = other.known.facts.package.as_ref();
            other.known.manifest.id == older.manifest.id
                && other.known.facts.place <= older.facts.place
                && package.is_some_and(|it| it.newer_had(trust).is_none())
        };
        if !candidates.iter().any(comes_first) {
            candidates[at].known.facts.warnings.push(format!(
                "it is older than release {newest}, which this host has had and which is not found before it"
            ));
        }
    }
}

/// Says once what it means that nothing confines a plugin.
fn tell_unconfined() {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        tracing::warn!(
            target: "warnings",
            "plugins of trust level 3 are not confined: trust only sources that you know; read the source before you trust it; a plugin has the same permissions as this host; run this host with as few as it needs, or set `runtime.sandbox.level3 = \"confined\"`"
        );
    });
}

/// Whom a release is meant for: who signs it has the last word.
fn channel(package: &Package) -> Channel {
    let signed = package.release().map(|release| release.channel);
    signed.unwrap_or(package.manifest().channel)
}

/// The configuration of a plugin, checked.
pub(crate) fn configuration(
    manifest: &Manifest,
    config: &BTreeMap<String, Value>,
) -> Result<Arc<Value>, LoadError> {
    let empty = || Value::Object(serde_json::Map::new());
    let config = config
        .get(manifest.id.as_str())
        .cloned()
        .unwrap_or_else(empty);
    manifest.check_config(&config).map_err(|faults| {
        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
        LoadError::Config {
            faults: faults.join("; "),
        }
    })?;
    Ok(Arc::new(config))
}

/// Whether this host is new enough and has what the plugin needs.
pub(crate) fn host(manifest: &Manifest, host: &Version) -> Result<(), PluginProblem> {
    if let Some(needed) = &manifest.min_host_version
        && needed > host
    {
        let (needed, host) = (needed.clone(), host.clone());
        let error = LoadError::HostTooOld { needed, host };
        return Err(PluginProblem::at_stage("version incompatible", &error));
    }
    let missing = |feature: &&String| !FEATURES.contains(&feature.as_str());
    match manifest.required_features.iter().find(missing) {
        Some(feature) => {
            let error = LoadError::MissingFeature {
                feature: feature.clone(),
            };
            Err(PluginProblem::at_stage("version incompatible", &error))
        }
        None => Ok(()),
    }
}

struct Loader<'a> {
    trust: TrustRoot,
    grants: GrantStore,
    rules: &'a Rules,
    run_dir: &'a Path,
    /// Claimed by the first package that needs it.
    claimed: Option<RunDirectory>,
    /// What is new to this host.
    arrivals: Arrivals,
    /// With the lock file, where there is one to go by.
    compared: Option<Comparison>,
}

impl Loader<'_> {
    fn candidate(&mut self, found: &Found, discovery: &Discovery) -> Candidate {
        let shadowed = discovery
            .found
            .iter()
            .filter(|other| other.shadowed_by.as_deref() == Some(&*found.dir))
            .map(|other| other.dir.clone());
        let mut known = Known {
            manifest: Arc::clone(&found.manifest),
            facts: Facts {
                label: found.label.to_string(),
                place: found.place,
                location: Some(found.dir.clone()),
                _in_use: InUse::of(&found.dir).map(Arc::new),
                shadowed: shadowed.collect(),
                digest: found.manifest.digest(),
                channel: found.manifest.channel,
                ..Facts::default()
            },
        };
        let outcome = self.prepare(found, &mut known);
        if let (Some(compared), Err(problem), false) =
            (&mut self.compared, &outcome, known.facts.verified)
        {
            compared.refused(&found.manifest, &problem.to_string());
        }
        Candidate { known, outcome }
    }

    fn prepare(&mut self, found: &Found, known: &mut Known) -> Result<Prepared, PluginProblem> {
        let package = self.verified(found, known)?;
        let manifest = package.manifest();
        if manifest.id != found.manifest.id || manifest.version != found.manifest.version {
            return Err(PluginProblem::of(&LoadError::Changed));
        }
        known.facts.verified = true;
        known.manifest = Arc::new(manifest.clone());
        known.facts.warnings = unused_keys(manifest);
        known.facts.about(&package);
        known.facts.channel = channel(&package);
        if let Some(compared) = &mut self.compared {
            compared.loaded(&package, &self.trust, &self.grants);
        }
        host(manifest, &self.rules.host_version)?;
        package
            .check_platform()
            .map_err(|error| PluginProblem::of_package(&error, found))?;
        let learn = self.rules.sandbox.learn.as_ref();
        let lessons = learn.filter(|lessons| lessons.are_of(&found.dir));
        let granted = match lessons {
            Some(_) => Ok(as_asked(manifest)),
            None => self.grants.check(&package),
        };
        let granted = granted.map_err(|error| {
            known.facts.waits = matches!(
                error,
                GrantError::AsksForMore { .. } | GrantError::OtherPublisher { .. }
            );
            PluginProblem::of(&error)
        })?;
        if let Some(validator) = &self.rules.sandbox.validator {
            let allowed = validator.capabilities(manifest.id.as_str(), &granted.capabilities);
            allowed.map_err(|error| PluginProblem::of(&error))?;
        }
        known.facts.granted(&granted);
        known.facts.package = Some(package.without_files());
        let config = configuration(manifest, &self.rules.config);
        let config = config.map_err(|error| PluginProblem::of(&error))?;
        let executable = self.native(&package)?;
        let level = package.trust_level();
        let change = self.rules.changes.of(manifest.id.as_str());
        let ceilings = self.ceilings(level);
        let disk_bytes = limits::disk_bytes(&manifest.resources, &change, &ceilings);
        let needs = executable.needs(disk_bytes);
        let hold = self.hold(level, lessons, &granted, needs);
        let hold = hold.inspect_err(|_| {
            known.facts.sandbox = Some(SandboxStatus::refused());
        })?;
        known.facts.held_by(&hold);
        if lessons.is_none() && !is_confined(level, &self.rules.sandbox) {
            tell_unconfined();
        }
        let bounds = self.bounds(manifest, change, &hold, (level, &granted))?;
        known.facts.limits = Some(Arc::clone(&bounds));
        Ok(Prepared {
            program: executable.held_by(hold, Arc::clone(&bounds)),
            bounds,
            config,
        })
    }

    fn verified(
        &mut self,
        found: &Found,
        known: &mut Known,
    ) -> Result<Verified<Package>, PluginProblem> {
        let refused = |error| PluginProblem::of_package(&error, found);
        let package = verify_or_unsigned(&found.dir, &self.trust, &self.rules.unsigned_paths);
        let package = package.map_err(refused)?;
        let came = package.check_may_come(&self.trust, &mut self.arrivals);
        // What this host has had goes on in its place.
        known.facts.waits = came.is_err();
        came.map(|()| package).map_err(refused)
    }

    /// Gets a package of a native kind ready to run.
    fn native(&mut self, package: &Package) -> Result<Executable, PluginProblem> {
        let implementation =
            |error: &LoadError| PluginProblem::at_stage("loading implementation", error);
        let manifest = package.manifest();
        match manifest.kind {
            Kind::Exec | Kind::Node => {}
            Kind::Builtin => return Err(implementation(&LoadError::PackagedBuiltin)),
            kind => {
                let kind = kind.as_str();
                return Err(implementation(&LoadError::KindNotRun { kind }));
            }
        }
        let files: Vec<_> = package.files().collect();
        let executable = Executable::prepare(manifest, &files, &mut || self.run_directory());
        executable.map_err(|error: ProgramError| {
            PluginProblem::at_stage("loading implementation", &error)
        })
    }

    fn ceilings(&self, level: TrustLevel) -> Ceilings {
        match is_confined(level, &self.rules.sandbox) {
            true => Ceilings::of(&self.rules.sandbox),
            false => Ceilings::default(),
        }
    }

    /// What a plugin may use, and how it is held to that.
    fn bounds(
        &self,
        manifest: &Manifest,
        change: LimitChange,
        hold: &Hold,
        (level, granted): (TrustLevel, &Granted),
    ) -> Result<Arc<Bounds>, PluginProblem> {
        let ceilings = self.ceilings(level);
        let (policy, policy_from) = self.rules.policy.of(level);
        let disk = hold.holds_disk(&granted.capabilities);
        // A host where nothing is limited needs no place for groups.
        let is_limited =
            !manifest.resources.is_empty() || !change.is_empty() || ceilings != Ceilings::default();
        let groups = match is_limited {
            true => groups(),
            false => GroupReport::default(),
        };
        let means = Means {
            policy,
            policy_from,
            groups,
            own_tasks: hold.counts_processes(),
            disk,
            own_disk: hold.has_own_disk(),
            is_per_call: manifest.kind == Kind::Exec,
        };
        let bounds = limits::native(&manifest.resources, change, ceilings, means);
        bounds
            .map(Arc::new)
            .map_err(|error| PluginProblem::at_stage("applying resource limits", &error))
    }

    /// What holds a plugin to its grants.
    fn hold(
        &self,
        level: TrustLevel,
        lessons: Option<&Lessons>,
        granted: &Granted,
        needs: Grants,
    ) -> Result<Hold, PluginProblem> {
        let (settings, granted) = (&self.rules.sandbox, &granted.capabilities);
        let hold = match lessons {
            Some(lessons) => Hold::observing(lessons, granted, needs),
            None => Hold::new(level, settings, granted, needs),
        };
        hold.map_err(|error| {
            let stage = format!("confining a plugin of trust level {}", level.number());
            PluginProblem::at_stage(&stage, &error)
        })
    }

    fn run_directory(&mut self) -> Result<RunDirectory, TreeError> {
        if let Some(claimed) = &self.claimed {
            return Ok(claimed.clone());
        }
        let claimed = RunDirectory::claim(self.run_dir)?;
        Ok(self.claimed.insert(claimed).clone())
    }
}

/// Everything that says how far it goes, as if it was granted.
fn as_asked(manifest: &Manifest) -> Granted {
    let (asked, _) = requested_set(manifest);
    let mut granted = Granted::default();
    granted.capabilities = asked.into_iter().filter(|it| !it.is_open()).collect();
    granted
}

impl Facts {
    fn about(&mut self, package: &Package) {
        self.trust_level = Some(package.trust_level().number());
        self.unsigned = package.is_unsigned();
        if let Publisher::Key { id, .. } = package.publisher() {
            self.key_id = Some(id.to_string());
        }
        if let Some(digest) = package.statement_digest() {
            self.digest = digest.to_string();
        }
    }

    fn granted(&mut self, granted: &Granted) {
        self.grants = texts(&granted.capabilities);
    }

    fn held_by(&mut self, hold: &Hold) {
        self.enforced_by_kernel = texts(&hold.by_kernel);
        self.not_enforced = texts(&hold.by_nobody);
        self.sandbox = Some(hold.status.clone());
        self.enough_for = Some(hold.enough_for);
    }
}

fn texts(capabilities: &[Capability]) -> Vec<String> {
    capabilities.iter().map(ToString::to_string).collect()
}
