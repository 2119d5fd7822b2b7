//! What the operator allowed each plugin to do.
//!
//! A grant belongs to a plugin's name, its publisher's key and the set of
//! capabilities the plugin asked for when the grant was given. Another
//! publisher's plugin of the same name inherits nothing, and a release that
//! asks for more is refused with the difference until the operator grants
//! anew; one that asks for the same or less goes on running.
//!
//! The file is TOML, called `grants.toml` in a home: `version = 1` and one
//! `[[grant]]` table for each [`Grant`].

mod error;

use std::{
    collections::BTreeSet,
    fs::Metadata,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use orchestrator_manifest::{Capability, Manifest, PluginName, Token};
use serde::{Deserialize, Serialize};

pub use self::error::GrantError;
use crate::{
    digest::Digest,
    durable::{self, Lock, ReadError, Want},
    exposure::{can_be_swapped_in, is_exposed},
    package::Package,
    toml_fault::on_one_line,
    verified::Verified,
};

const SIZE_MAX: u64 = 4 * 1024 * 1024;
const VERSION: u32 = 1;
/// How long another process may take to change the file.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the operator allowed one plugin of one publisher to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The plugin.
    pub plugin: PluginName,
    /// The publisher: the identity of a key, `host` or `unsigned`.
    pub publisher: String,
    /// The other keys that gave the package the same trust level when this was
    /// granted. A release that any of them gives its level is of the same publisher.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publishers_also: Vec<String>,
    /// What the plugin asked for when this was granted.
    pub requested: Vec<Capability>,
    /// The digest of that set; see [`requested_set`].
    pub requested_sha256: Digest,
    /// What was granted.
    pub capabilities: Vec<Capability>,
    /// Who granted it, as the command line knows it.
    pub granted_by: String,
    /// When.
    pub granted_at: Timestamp,
}

impl Grant {
    /// A grant for exactly this package's name, publisher and requests.
    pub fn for_package(
        package: &Verified<Package>,
        capabilities: Vec<Capability>,
        granted_by: &str,
    ) -> Self {
        let (requested, requested_sha256) = requested_set(package.manifest());
        let mut publishers = package.publishers();
        Self {
            plugin: package.manifest().id.clone(),
            publisher: publishers.remove(0),
            publishers_also: publishers,
            requested,
            requested_sha256,
            capabilities,
            granted_by: granted_by.to_owned(),
            granted_at: Timestamp::now(),
        }
    }

    /// Whether it was given to whoever answers for `package`.
    pub(crate) fn is_for(&self, package: &Package) -> bool {
        let present = package.publishers();
        self.plugin == package.manifest().id && self.publishers().any(|it| present.contains(it))
    }

    fn publishers(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.publisher).chain(&self.publishers_also)
    }

    /// The same without what another grant is given to; `None` when nobody is left.
    fn without(mut self, other: &Self) -> Option<Self> {
        let is_other = |it: &String| other.publishers().any(|publisher| publisher == it);
        let mut left: Vec<_> = self
            .publishers()
            .filter(|it| !is_other(it))
            .cloned()
            .collect();
        if left.is_empty() {
            return None;
        }
        self.publisher = left.remove(0);
        self.publishers_also = left;
        Some(self)
    }
}

/// Everything a manifest asks for, sorted, and the SHA-256 of it (one line
/// for each). An interpreter is asked for like any program that is started.
pub fn requested_set(manifest: &Manifest) -> (Vec<Capability>, Digest) {
    let interpreter = manifest.interpreter.as_deref();
    let interpreter =
        interpreter.and_then(|path| Capability::new(Token::ProcessSpawn, Some(path)).ok());
    let set: BTreeSet<_> = manifest
        .capabilities
        .iter()
        .cloned()
        .chain(interpreter)
        .collect();
    let digest = digest_of(&set);
    (set.into_iter().collect(), digest)
}

fn digest_of(set: &BTreeSet<Capability>) -> Digest {
    let lines = set.iter().map(|capability| format!("{capability}\n"));
    Digest::of(lines.collect::<String>().as_bytes())
}

/// What a plugin may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Granted {
    /// Everything that was granted and is still asked for.
    pub capabilities: Vec<Capability>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileText {
    version: u32,
    #[serde(default)]
    grant: Vec<Grant>,
}

/// The operator's grants, in one TOML file.
#[derive(Debug)]
pub struct GrantStore {
    path: PathBuf,
    grants: Vec<Grant>,
}

impl GrantStore {
    /// Opens the file, whatever it is called. One that does not exist grants nothing; nothing is
    /// written before something is granted.
    ///
    /// # Errors
    ///
    /// [`GrantError::Damaged`] for a file that is no grants file,
    /// [`GrantError::OldFile`] when there is only one of an earlier version, which
    /// ended in `.json`: nobody shall think that it still counts.
    pub fn open(path: &Path) -> Result<Self, GrantError> {
        let mut store = Self {
            path: path.to_owned(),
            grants: Vec::new(),
        };
        store.reload()?;
        Ok(store)
    }

    /// Every grant, sorted by plugin and publisher.
    pub fn list(&self) -> &[Grant] {
        &self.grants
    }

    /// Stores a grant in place of the one the plugin had from this publisher.
    ///
    /// # Errors
    ///
    /// [`GrantError`]; the file is then as it was.
    pub fn grant(&mut self, grant: Grant) -> Result<(), GrantError> {
        self.put(grant, |_, _| {})
    }

    /// The same, beside what the plugin has from this publisher already.
    ///
    /// # Errors
    ///
    /// [`GrantError`]; the file is then as it was.
    pub fn extend(&mut self, grant: Grant) -> Result<(), GrantError> {
        self.put(grant, |grant, known| {
            grant.capabilities.extend_from_slice(&known.capabilities);
        })
    }

    /// Stores a grant in place of another, which `keep` may take from.
    fn put(
        &mut self,
        mut grant: Grant,
        keep: impl Fn(&mut Grant, &Grant),
    ) -> Result<(), GrantError> {
        if let Some(capability) = grant.capabilities.iter().find(|it| it.is_open()) {
            let capability = capability.clone();
            return Err(GrantError::Unscoped { capability });
        }
        self.change(|grants| {
            let mut others = Vec::new();
            for known in grants.drain(..) {
                let is_same = |it: &String| grant.publishers().any(|publisher| publisher == it);
                if known.plugin != grant.plugin || !known.publishers().any(is_same) {
                    others.push(known);
                    continue;
                }
                keep(&mut grant, &known);
                // A publisher has one grant, and it has this one.
                others.extend(known.without(&grant));
            }
            grant.capabilities.sort_unstable();
            grant.capabilities.dedup();
            others.push(grant);
            others.sort_by(|a, b| (&a.plugin, &a.publisher).cmp(&(&b.plugin, &b.publisher)));
            *grants = others;
            Ok(())
        })
    }

    /// Takes capabilities back from a plugin, whoever published it; all of
    /// them when `capability` is `None`.
    ///
    /// # Errors
    ///
    /// [`GrantError::NoSuchGrant`] when there is nothing to take back.
    pub fn revoke(
        &mut self,
        plugin: &PluginName,
        capability: Option<&Capability>,
    ) -> Result<(), GrantError> {
        self.change(|grants| {
            let mut is_found = false;
            for grant in grants.iter_mut().filter(|grant| grant.plugin == *plugin) {
                let before = grant.capabilities.len();
                grant
                    .capabilities
                    .retain(|it| capability.is_some_and(|wanted| it != wanted));
                is_found |= capability.is_none() || grant.capabilities.len() < before;
            }
            grants.retain(|grant| grant.plugin != *plugin || capability.is_some());
            if is_found {
                return Ok(());
            }
            let plugin = plugin.to_string();
            Err(GrantError::NoSuchGrant { plugin })
        })
    }

    /// What a package may do, all or nothing.
    ///
    /// # Errors
    ///
    /// [`GrantError`] names every capability that is missing and the command
    /// that grants them.
    pub fn check(&self, package: &Verified<Package>) -> Result<Granted, GrantError> {
        let manifest = package.manifest();
        let (requested, _) = requested_set(manifest);
        if requested.is_empty() {
            return Ok(Granted::default());
        }
        let of_package = self.grants.iter().filter(|grant| grant.is_for(package));
        let answers: Vec<_> = of_package
            .map(|grant| allowed_by(grant, manifest, &requested))
            .collect();
        // Each was given to one of those who answer for the package, and any is enough.
        let (allowed, mut refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        match (allowed.into_iter().next(), refused.is_empty()) {
            (Some(allowed), _) => allowed,
            (None, false) => refused.remove(0),
            (None, true) => Err(self.not_granted(package, requested)),
        }
    }

    /// Why there is no grant for a package that asks for something.
    fn not_granted(&self, package: &Package, missing: Vec<Capability>) -> GrantError {
        let plugin = package.manifest().id.clone();
        match self.grants.iter().find(|grant| grant.plugin == plugin) {
            Some(other) => GrantError::OtherPublisher {
                plugin,
                granted: other.publisher.clone(),
                present: package.publisher().to_string(),
                missing,
            },
            None => GrantError::NotGranted { plugin, missing },
        }
    }

    fn change(
        &mut self,
        edit: impl FnOnce(&mut Vec<Grant>) -> Result<(), GrantError>,
    ) -> Result<(), GrantError> {
        let lock_path = self.path.with_extension("lock");
        let _lock = Lock::wait(&lock_path, PATIENCE).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => GrantError::Busy { path: self.shown() },
            _ => self.io(error),
        })?;
        if let Some(folder) = self.path.parent() {
            // What cannot be removed now is tried again next time.
            let _ = durable::sweep(folder);
        }
        self.reload()?;
        let mut grants = self.grants.clone();
        edit(&mut grants)?;
        let file = FileText {
            version: VERSION,
            grant: grants,
        };
        let text = toml::to_string(&file).map_err(|error| self.damaged(&error))?;
        durable::replace(&self.path, text.as_bytes(), 0o644).map_err(|error| self.io(error))?;
        self.grants = file.grant;
        Ok(())
    }

    fn reload(&mut self) -> Result<(), GrantError> {
        let want = Want {
            size_max: SIZE_MAX,
            is_private: false,
        };
        self.check_exposure()?;
        let bytes = match durable::read(&self.path, want) {
            Ok(bytes) => bytes,
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                self.grants.clear();
                return self.refuse_old_file();
            }
            Err(ReadError::Io(error)) => return Err(self.io(error)),
            Err(other) => return Err(self.damaged(&other)),
        };
        let text = std::str::from_utf8(&bytes).map_err(|error| self.damaged(&error))?;
        let file: FileText =
            toml::from_str(text).map_err(|error| self.damaged(&on_one_line(text, &error)))?;
        if file.version != VERSION {
            return Err(self.damaged(&format!("version {}", file.version)));
        }
        for grant in &file.grant {
            check_read(grant).map_err(|fault| self.damaged(&fault))?;
        }
        self.grants = file.grant;
        Ok(())
    }

    /// Who can write to the file, or put another in its place, decides what plugins
    /// may do.
    fn check_exposure(&self) -> Result<(), GrantError> {
        let folder = self.path.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = folder.map(|it| (it, can_be_swapped_in as fn(&Metadata) -> bool));
        for (path, is_exposed) in folder.into_iter().chain([(&*self.path, is_exposed as _)]) {
            match path.metadata() {
                Ok(metadata) if is_exposed(&metadata) => {
                    let path = path.display().to_string();
                    return Err(GrantError::Exposed { path });
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.io(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn refuse_old_file(&self) -> Result<(), GrantError> {
        let old = self.path.with_extension("json");
        match old.symlink_metadata() {
            Ok(_) => Err(GrantError::OldFile {
                path: self.shown(),
                old: old.display().to_string(),
            }),
            Err(_) => Ok(()),
        }
    }

    fn shown(&self) -> String {
        self.path.display().to_string()
    }

    fn damaged(&self, reason: &impl ToString) -> GrantError {
        GrantError::Damaged {
            path: self.shown(),
            reason: reason.to_string(),
        }
    }

    fn io(&self, source: io::Error) -> GrantError {
        GrantError::Io {
            path: self.shown(),
            source,
        }
    }
}

/// What one grant gives to a package that asks for `requested`.
fn allowed_by(
    grant: &Grant,
    manifest: &Manifest,
    requested: &[Capability],
) -> Result<Granted, GrantError> {
    let plugin = manifest.id.clone();
    let added = uncovered(requested, &grant.requested);
    if !added.is_empty() {
        let dropped = uncovered(&grant.requested, requested);
        return Err(GrantError::AsksForMore {
            plugin,
            added,
            dropped,
        });
    }
    let is_missing = |it: &&Capability| !grant.capabilities.iter().any(|grant| grant.covers(it));
    let missing: Vec<_> = requested.iter().filter(is_missing).cloned().collect();
    if !missing.is_empty() {
        return Err(GrantError::NotGranted { plugin, missing });
    }
    let is_wanted = |it: &&Capability| requested.iter().any(|request| it.covers(request));
    let capabilities: Vec<_> = grant
        .capabilities
        .iter()
        .filter(is_wanted)
        .cloned()
        .collect();
    Ok(Granted { capabilities })
}

/// What the types do not say of a grant that was read.
fn check_read(grant: &Grant) -> Result<(), String> {
    if let Some(open) = grant.capabilities.iter().find(|it| it.is_open()) {
        return Err(format!("`{open}` does not say how far it goes"));
    }
    let requested: BTreeSet<_> = grant.requested.iter().cloned().collect();
    match digest_of(&requested) == grant.requested_sha256 {
        true => Ok(()),
        false => Err(format!(
            "`requested` of {} is not what `requested_sha256` says",
            grant.plugin
        )),
    }
}

/// Those of `wanted` that nothing in `known` asks for already. A request
/// whose scope the operator decides was answered by every scope that was
/// asked for then, but a narrower one does not answer for it now.
fn uncovered(wanted: &[Capability], known: &[Capability]) -> Vec<Capability> {
    let is_new = |request: &&Capability| {
        let is_known = |before: &Capability| {
            before == *request
                || (request.scope().is_some() && before.covers(request))
                || (before.is_open() && before.token() == request.token())
        };
        !known.iter().any(is_known)
    };
    wanted.iter().filter(is_new).cloned().collect()
}
