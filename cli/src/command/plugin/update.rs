//! `orchestrator plugin update` and `outdated`

use std::collections::BTreeMap;

use orchestrator_engine::Home;
use orchestrator_manifest::PluginName;
use orchestrator_signing::{
    InstallOptions, Installed, LockFile, Locked, Package, Source as Origin, TrustStore, Verified,
    install_from, installed, receipt, rolled_back, verify, verify_named,
};
use serde::Serialize;

use super::{
    install::{Installer, order, tell_what_is_next},
    lock,
};
use crate::{
    context::Context,
    error::CliError,
    failure::{Failure, Result},
    source::{self, Fetched, SourceError},
    table::Table,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    /// Only this plugin
    name: Option<PluginName>,

    #[command(flatten)]
    at: lock::At,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Outdated {
    /// Only this plugin
    name: Option<PluginName>,
}

/// What became of one plugin.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    version: String,
    /// What the source gives.
    available: Option<String>,
    source: Option<String>,
    state: State,
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Current,
    Outdated,
    Updated,
    /// The newer release was rolled back, so it is not installed by itself.
    RolledBack,
    /// The source gives an older release, or a lower version.
    Older,
    Failed,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Outdated => "outdated",
            Self::Updated => "updated",
            Self::RolledBack => "rolled back",
            Self::Older => "older",
            Self::Failed => "failed",
        }
    }
}

impl Row {
    /// Whether the lock file has to follow: this update brought the version, or
    /// one did that did not come to its end.
    fn is_new_to(&self, locked: &LockFile) -> bool {
        let is_it = |one: &Locked| one.name.as_str() == self.name && one.version == self.version;
        match self.state {
            State::Updated => true,
            State::Current => !locked.plugins().iter().any(is_it),
            _ => false,
        }
    }
}

impl Update {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let rows = ask_all(context, &home, self.name.as_ref(), true)?;
        if let Some(locked) = self.at.read(&home)?
            && rows.0.iter().any(|row| row.is_new_to(&locked))
        {
            self.at.renewed(&home)?.write(&self.at.path(&home))?;
        }
        let updated = rows.0.iter().filter(|row| row.state == State::Updated);
        let updated: Vec<_> = updated.map(|row| row.name.clone()).collect();
        let told = tell(context, rows);
        for name in &updated {
            tell_what_is_next(context, &home, name);
        }
        told
    }
}

impl Outdated {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let rows = ask_all(context, &home, self.name.as_ref(), false)?;
        tell(context, rows)
    }
}

/// Asks the source of every plugin for its newest release. One that fails does
/// not keep the others; the first failure is returned beside the rows.
fn ask_all(
    context: &Context,
    home: &Home,
    only: Option<&PluginName>,
    may_install: bool,
) -> Result<(Vec<Row>, Option<Failure>)> {
    let mut newest = BTreeMap::new();
    for version in installed(&home.plugins())? {
        newest.insert(version.name.clone(), version);
    }
    if let Some(name) = only {
        if !newest.contains_key(name.as_str()) {
            let names = newest.keys().map(String::as_str);
            return Err(CliError::unknown_plugin(name.as_str(), names).into());
        }
        newest.retain(|other, _| other == name.as_str());
    }
    let (mut rows, mut first) = (Vec::new(), None);
    for version in newest.into_values() {
        let mut row = Row {
            name: version.name.clone(),
            version: version.version.clone(),
            available: None,
            source: None,
            state: State::Failed,
            error: None,
        };
        if let Err(failure) = ask(context, home, &version, may_install, &mut row) {
            row.error = failure.report().map(ToString::to_string);
            first.get_or_insert(failure);
        }
        rows.push(row);
    }
    Ok((rows, first))
}

fn ask(
    context: &Context,
    home: &Home,
    version: &Installed,
    may_install: bool,
    row: &mut Row,
) -> Result {
    let plugins = home.plugins();
    let written = version.tree.and_then(|tree| receipt(&plugins, tree));
    let written = written.ok_or_else(|| SourceError::NoSource {
        plugin: version.name.clone(),
    })?;
    row.source = Some(written.source.clone());
    let source = source::of(&written.source)?;
    let fetched = source.fetch(&order(context, home, None)?)?;
    let mut trust = TrustStore::open(&home.trust())?;
    let given = verify_named(fetched.dir(), source.location(), &trust.root())?;
    if given.manifest().id.as_str() != version.name {
        return Err(SourceError::OtherPlugin {
            location: source.location(),
            plugin: version.name.clone(),
            found: given.manifest().id.to_string(),
        }
        .into());
    }
    row.available = Some(given.manifest().version.to_string());
    if given.statement_digest() == Some(written.statement) {
        row.state = State::Current;
        return Ok(());
    }
    let present = verify(&version.path, &trust.root())?;
    row.state = judge(home, &present, &given)?;
    if row.state != State::Outdated || !may_install {
        return Ok(());
    }
    let location = source.location();
    install_fetched(context, home, &fetched, location, &mut trust)?;
    row.state = State::Updated;
    Ok(())
}

/// How another release of the same plugin stands to the one that is installed.
fn judge(home: &Home, present: &Verified<Package>, given: &Verified<Package>) -> Result<State> {
    let serial = |package: &Package| package.release().map(|release| release.serial);
    let manifest = given.manifest();
    // Pipelines get the highest version, so a lower one would not come into use.
    if serial(given) < serial(present) || manifest.version < present.manifest().version {
        return Ok(State::Older);
    }
    let version = manifest.version.to_string();
    let held = rolled_back(&home.plugins())?;
    let is_held = |one: &Installed| one.name == manifest.id.as_str() && one.version == version;
    Ok(match held.iter().any(is_held) {
        true => State::RolledBack,
        false => State::Outdated,
    })
}

fn install_fetched(
    context: &Context,
    home: &Home,
    fetched: &Fetched,
    location: String,
    trust: &mut TrustStore,
) -> Result {
    let origin = Origin {
        location,
        archive: fetched.archive,
    };
    let options = InstallOptions::default();
    let package = install_from(fetched.dir(), &origin, trust, &home.plugins(), options)?;
    let installer = Installer {
        context,
        home,
        options,
    };
    installer.tell_missing_grants(&package)
}

fn tell(context: &Context, (rows, failure): (Vec<Row>, Option<Failure>)) -> Result {
    context.out.show(&rows, |rows| {
        if rows.is_empty() {
            return "no plugins are installed\n".to_owned();
        }
        let mut table = Table::new(["NAME", "VERSION", "AVAILABLE", "STATE", "SOURCE"]);
        for row in rows {
            let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            table.row([
                row.name.clone(),
                row.version.clone(),
                or_dash(&row.available),
                row.state.as_str().to_owned(),
                or_dash(&row.source),
            ]);
        }
        table.to_string()
    })?;
    match failure {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}
