//! `orchestrator plugin grant`, `revoke` and `grants`

use std::path::PathBuf;

use orchestrator_engine::Home;
use orchestrator_manifest::{Capability, PluginName};
use orchestrator_signing::{
    GrantStore, Package, TrustStore, Verified, installed, requested_set, verify_or_unsigned,
};
use semver::Version;
use serde_json::{Value, json};

use crate::{
    audit, context::Context, error::CliError, failure::Result, table::Table, whoami::whoami,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Grant {
    /// A plugin, or a package's directory
    plugin: String,

    /// What to give, for instance `file:read=/data/in`
    #[arg(required = true, value_name = "CAPABILITY")]
    capabilities: Vec<Capability>,
}

impl Grant {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let package = package(context, &home, &self.plugin).await?;
        audit::about(context, audit::About::package(&package));
        if package.is_unsigned() {
            let name = &package.manifest().id;
            context.out.warn(&format!(
                "{name} is unsigned: whoever can write to {} uses what it is granted",
                package.origin()
            ));
        }
        let (requested, _) = requested_set(package.manifest());
        for given in &self.capabilities {
            if !requested.iter().any(|request| given.covers(request)) {
                let name = &package.manifest().id;
                context.out.warn(&format!(
                    "{name} does not ask for {given}, and does not get it before it does"
                ));
            }
        }
        let mut store = GrantStore::open(&home.grants_file())?;
        let grant =
            orchestrator_signing::Grant::for_package(&package, self.capabilities, &whoami());
        let plugin = grant.plugin.clone();
        store.extend(grant)?;
        if let Err(error) = store.check(&package) {
            context.out.note(&format!("still missing: {error}"));
        }
        show(context, &store, Some(&plugin))
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Revoke {
    /// The plugin
    plugin: PluginName,

    /// What to take back; everything, where nothing is named
    #[arg(value_name = "CAPABILITY")]
    capabilities: Vec<Capability>,
}

impl Revoke {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let mut store = GrantStore::open(&context.home()?.grants_file())?;
        match self.capabilities.as_slice() {
            [] => store.revoke(&self.plugin, None)?,
            some => {
                for capability in some {
                    store.revoke(&self.plugin, Some(capability))?;
                }
            }
        }
        show(context, &store, Some(&self.plugin))
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Grants {
    /// Only this plugin's
    plugin: Option<PluginName>,
}

impl Grants {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let store = GrantStore::open(&context.home()?.grants_file())?;
        show(context, &store, self.plugin.as_ref())
    }
}

fn show(context: &Context, store: &GrantStore, plugin: Option<&PluginName>) -> Result {
    let wanted =
        |grant: &&orchestrator_signing::Grant| plugin.is_none_or(|name| grant.plugin == *name);
    let grants: Vec<_> = store.list().iter().filter(wanted).collect();
    let value: Vec<Value> = grants.iter().map(|grant| json!(grant)).collect();
    context.out.show(&value, |_| {
        if grants.is_empty() {
            return "nothing is granted\n".to_owned();
        }
        let mut table = Table::new(["PLUGIN", "CAPABILITY", "PUBLISHER", "GRANTED BY"]);
        for grant in &grants {
            for capability in &grant.capabilities {
                table.row([
                    grant.plugin.to_string(),
                    capability.to_string(),
                    grant.publisher.chars().take(16).collect(),
                    grant.granted_by.clone(),
                ]);
            }
        }
        table.to_string()
    })
}

/// The package in a directory, or the newest version of a plugin. Verified as
/// loading does it, because a grant is bound to who published it.
async fn package(context: &Context, home: &Home, text: &str) -> Result<Verified<Package>> {
    let dir = match text.contains('/') {
        true => PathBuf::from(text),
        false => find(context, home, text).await?,
    };
    let root = TrustStore::open(&home.trust())?.root();
    let unsigned_paths = context.config()?.runtime.unsigned_paths;
    Ok(verify_or_unsigned(&dir, &root, &unsigned_paths)?)
}

/// Where the newest installed version of a plugin lies, or of one that loading
/// finds elsewhere.
async fn find(context: &Context, home: &Home, name: &str) -> Result<PathBuf> {
    let installed = installed(&home.plugins())?;
    let newest = installed
        .iter()
        .filter(|it| it.name == name)
        .max_by_key(|it| Version::parse(&it.version).ok());
    if let Some(newest) = newest {
        return Ok(newest.path.clone());
    }
    let plugins = context.plugins().await?.plugins();
    let newest = plugins
        .iter()
        .filter(|it| it.id == name)
        .max_by_key(|it| &it.version);
    match newest.and_then(|newest| newest.location.clone()) {
        Some(location) => Ok(location),
        None => {
            let names = plugins.iter().filter(|it| it.location.is_some());
            let names = names.map(|it| it.id.as_str());
            Err(CliError::unknown_plugin(name, names).into())
        }
    }
}
