//! `orchestrator plugin install` and `remove`

use orchestrator_engine::Home;
use orchestrator_manifest::PluginName;
use orchestrator_signing::{
    BadDigest, Digest, GrantStore, InstallOptions, Installed, LockFile, Package, Source as Origin,
    TrustRoot, TrustStore, Verified, archive::Limits, install_from, installed, receipt, remove,
    rolled_back, verify as verify_package,
};
use semver::Version;
use serde_json::json;

use super::{lock, pack, verify};
use crate::{
    audit::{self, About},
    context::Context,
    error::CliError,
    failure::Result,
    services::{addresses, those_on},
    source::{self, Order, Source},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Install {
    /// The package: a directory, an archive or a URL; without it, everything
    /// that the lock file names
    #[arg(required_unless_present = "locked")]
    source: Option<String>,

    /// Accept a release older than one that was installed before
    #[arg(long)]
    allow_downgrade: bool,

    /// Install nothing but the very releases in the lock file
    #[arg(long)]
    locked: bool,

    /// The SHA-256 that the archive has to have
    #[arg(long, value_name = "DIGEST", value_parser = digest, requires = "source")]
    sha256: Option<Digest>,

    #[command(flatten)]
    at: lock::At,
}

/// 64 hex digits, with or without the name of the algorithm.
fn digest(text: &str) -> std::result::Result<Digest, BadDigest> {
    Digest::parse(text.strip_prefix("sha256:").unwrap_or(text))
}

impl Install {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let locked = match self.locked {
            true => Some(self.at.need(&home)?),
            false => None,
        };
        let options = InstallOptions {
            allow_downgrade: self.allow_downgrade,
            locked: locked.as_ref(),
            ..InstallOptions::default()
        };
        let installer = Installer {
            context,
            home: &home,
            options,
        };
        match (&self.source, &locked) {
            (Some(text), _) => {
                let source = source::of(text)?;
                let before = installed(&home.plugins())?;
                let package = installer.install(&*source, self.sha256)?;
                verify::show(context, &package, "is installed")?;
                if is_newer(&package, &before) {
                    let name = package.manifest().id.as_str();
                    tell_what_is_next(context, &home, name);
                }
                Ok(())
            }
            (None, Some(locked)) => installer.install_all(locked),
            // The command line does not allow it.
            (None, None) => Ok(()),
        }
    }
}

/// Whether a package is of a higher version than all that were there.
fn is_newer(package: &Verified<Package>, before: &[Installed]) -> bool {
    let manifest = package.manifest();
    let mut known = before.iter().filter(|it| it.name == manifest.id.as_str());
    known.all(|it| Version::parse(&it.version).is_ok_and(|it| it < manifest.version))
}

/// Installs packages into one home on the same terms.
pub(super) struct Installer<'a> {
    pub(super) context: &'a Context,
    pub(super) home: &'a Home,
    pub(super) options: InstallOptions<'a>,
}

impl Installer<'_> {
    /// Installs what a source gives. One that was asked before is not asked
    /// again for what is there.
    pub(super) fn install(
        &self,
        source: &dyn Source,
        digest: Option<Digest>,
    ) -> Result<Verified<Package>> {
        let mut trust = TrustStore::open(&self.home.trust())?;
        if source.gives_the_same_again()
            && let Some(package) = self.present(&source.location(), digest, &trust)?
        {
            return Ok(package);
        }
        self.check_root(&source.location(), &trust.root())?;
        let fetched = source.fetch(&order(self.context, self.home, digest)?)?;
        let origin = Origin {
            location: source.location(),
            archive: fetched.archive,
        };
        let (dir, plugins) = (fetched.dir(), self.home.plugins());
        audit::about(self.context, About::claimed(dir));
        let package = install_from(dir, &origin, &mut trust, &plugins, self.options)?;
        audit::about(self.context, About::package(&package));
        self.tell_missing_grants(&package)?;
        Ok(package)
    }

    /// Refuses at once what could not be installed whatever the source gave.
    fn check_root(&self, location: &str, root: &TrustRoot) -> Result {
        let locked = self.options.locked.map_or(&[][..], LockFile::plugins);
        let from_there = locked.iter().filter(|release| release.source == location);
        for release in from_there {
            release.check_root(root)?;
        }
        Ok(())
    }

    /// What was installed from `location` before and verifies.
    fn present(
        &self,
        location: &str,
        digest: Option<Digest>,
        trust: &TrustStore,
    ) -> Result<Option<Verified<Package>>> {
        let plugins = self.home.plugins();
        // Where the source gave a release that was rolled back, that one is meant,
        // unless it is said which.
        let is_from_there = |tree| receipt(&plugins, tree).is_some_and(|it| it.source == location);
        let mut held = rolled_back(&plugins)?.into_iter();
        if digest.is_none()
            && self.options.locked.is_none()
            && held.any(|held| held.tree.is_some_and(is_from_there))
        {
            return Ok(None);
        }
        // The highest version first.
        for version in installed(&plugins)?.into_iter().rev() {
            let receipt = version.tree.and_then(|tree| receipt(&plugins, tree));
            let is_it = receipt.is_some_and(|receipt| {
                receipt.source == location
                    && digest.is_none_or(|digest| receipt.archive == Some(digest))
            });
            if !is_it {
                continue;
            }
            let Ok(package) = verify_package(&version.path, &trust.root()) else {
                continue;
            };
            let locked = self.options.locked;
            if locked.is_none_or(|locked| locked.admit(&package, &trust.root()).is_ok()) {
                return Ok(Some(package));
            }
        }
        Ok(None)
    }

    /// Installs everything that is written down and not there.
    fn install_all(&self, locked: &LockFile) -> Result {
        let plugins = self.home.plugins();
        let mut added = Vec::new();
        lock::note_other_root(self.context, self.home, locked)?;
        for release in locked.plugins() {
            let path = plugins.join(release.name.as_str()).join(&release.version);
            let root = TrustStore::open(&self.home.trust())?.root();
            let is_there = path.symlink_metadata().is_ok()
                && verify_package(&path, &root)
                    .is_ok_and(|package| locked.admit(&package, &root).is_ok());
            if !is_there {
                let source = source::of(&release.source)?;
                self.install(&*source, release.archive())?;
                added.push(json!({ "name": release.name, "version": release.version }));
            }
        }
        let value = json!({ "installed": added, "locked": locked.plugins().len() });
        self.context.out.show(&value, |_| {
            let (added, all) = (added.len(), locked.plugins().len());
            format!("{added} installed, {} were there", all - added)
        })
    }

    /// What is still missing is said now and not by the first run.
    pub(super) fn tell_missing_grants(&self, package: &Verified<Package>) -> Result {
        if let Err(error) = GrantStore::open(&self.home.grants_file())?.check(package) {
            use miette::Diagnostic as _;
            self.context.out.note(&error.to_string());
            if let Some(help) = error.help() {
                self.context.out.note(&help.to_string());
            }
        }
        Ok(())
    }
}

/// How to fetch something for a home.
pub(super) fn order(context: &Context, home: &Home, digest: Option<Digest>) -> Result<Order> {
    pack::make(home)?;
    let bytes = context.config()?.install.package_bytes_max;
    Ok(Order {
        downloads: home.root().join("downloads"),
        digest,
        limits: Limits {
            bytes,
            file_bytes: bytes,
            ..Limits::default()
        }
        .lowered(),
        out: context.out,
    })
}

/// What services that run have to be told before they use what was installed.
pub(super) fn tell_what_is_next(context: &Context, home: &Home, name: &str) {
    // Nobody waits for this advice: what cannot be looked at is left out.
    let addresses = addresses(home).unwrap_or_default();
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    if !addresses.is_empty() {
        let go_on = those_on(&addresses, "goes on", "go on");
        context.out.note(&format!(
            "{go_on} with what was there; `orchestrator plugin reload {name}` has this used"
        ));
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The plugin, or one version of it as NAME@VERSION
    #[arg(id = "name", value_name = "NAME", value_parser = release)]
    release: Release,

    /// Only this version
    version: Option<Version>,
}

/// A plugin, or one version of it.
#[derive(Clone, Debug)]
struct Release {
    name: PluginName,
    version: Option<Version>,
}

fn release(text: &str) -> std::result::Result<Release, String> {
    let (name, version) = match text.split_once('@') {
        Some((name, version)) => (name, Some(Version::parse(version))),
        None => (text, None),
    };
    Ok(Release {
        name: PluginName::parse(name).map_err(|error| error.to_string())?,
        version: version.transpose().map_err(|error| error.to_string())?,
    })
}

impl Remove {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let Release { name, version } = self.release;
        let version = match (version, self.version) {
            (Some(one), Some(other)) if one != other => {
                return Err(CliError::TwoVersions { one, other }.into());
            }
            (one, other) => one.or(other),
        };
        let dir = context.home()?.plugins();
        remove(&dir, &name, version.as_ref())?;
        let value = json!({ "removed": name, "version": version });
        context.out.show(&value, |_| match &version {
            Some(version) => format!("removed {name} {version}"),
            None => format!("removed {name}"),
        })
    }
}
