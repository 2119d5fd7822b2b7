//! `orchestrator plugin grant`, `revoke` and `grants`

use std::path::PathBuf;

use orchestrator_engine::Home;
use orchestrator_manifest::{Capability, PluginName};
use orchestrator_plugin_runtime::PluginStatus;
use orchestrator_signing::{
    Grant, GrantStore, Package, Publisher, TrustStore, Verified, installed, requested_set,
    verify_or_unsigned,
};
use semver::Version;
use serde_json::{Value, json};

use crate::{
    audit, context::Context, error::CliError, failure::Result, held::Holder, table::Table,
    whoami::whoami,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Give {
    /// A plugin, or a package's directory
    plugin: String,

    /// What to give, for instance `file:read=/data/in`
    #[arg(required = true, value_name = "CAPABILITY")]
    capabilities: Vec<Capability>,
}

impl Give {
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
        let grant = Grant::for_package(&package, self.capabilities, &whoami());
        let plugin = grant.plugin.clone();
        store.extend(grant)?;
        if let Err(error) = store.check(&package) {
            context.out.note(&format!("still missing: {error}"));
        }
        show(context, &store, Some(&plugin)).await
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
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let mut store = GrantStore::open(&context.home()?.grants_file())?;
        match self.capabilities.as_slice() {
            [] => store.revoke(&self.plugin, None)?,
            some => {
                let mut revoked = Ok(());
                for capability in some {
                    // One that is not there keeps no other from being taken back.
                    revoked = revoked.and(store.revoke(&self.plugin, Some(capability)));
                }
                revoked?;
            }
        }
        show(context, &store, Some(&self.plugin)).await
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Grants {
    /// Only this plugin's
    plugin: Option<PluginName>,
}

impl Grants {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let store = GrantStore::open(&context.home()?.grants_file())?;
        show(context, &store, self.plugin.as_ref()).await
    }
}

/// Who holds a plugin to its grants, only loading it tells.
async fn show(context: &Context, store: &GrantStore, plugin: Option<&PluginName>) -> Result {
    let wanted = |grant: &&Grant| plugin.is_none_or(|name| grant.plugin == *name);
    let grants: Vec<_> = store.list().iter().filter(wanted).collect();
    let plugins = match grants.is_empty() {
        true => Vec::new(),
        // Where nothing can be loaded, what was granted can still be seen.
        false => context
            .plugins()
            .await
            .map_or_else(|_| Vec::new(), |runtime| runtime.plugins()),
    };
    let rows: Vec<_> = grants
        .into_iter()
        .map(|grant| Row {
            grant,
            plugin: loaded(&plugins, grant),
        })
        .collect();
    let value: Vec<Value> = rows.iter().map(Row::as_json).collect();
    context.out.show(&value, |_| {
        if rows.is_empty() {
            return "nothing is granted\n".to_owned();
        }
        let heading = ["PLUGIN", "CAPABILITY", "HELD BY", "PUBLISHER", "GRANTED BY"];
        let mut table = Table::new(heading);
        for row in &rows {
            for capability in &row.grant.capabilities {
                table.row([
                    row.grant.plugin.to_string(),
                    capability.to_string(),
                    row.holder(capability)
                        .map_or("-", Holder::as_str)
                        .to_owned(),
                    row.grant.publisher.chars().take(16).collect(),
                    row.grant.granted_by.clone(),
                ]);
            }
        }
        table.to_string()
    })
}

/// The newest version that runs with this grant.
fn loaded<'p>(plugins: &'p [PluginStatus], grant: &Grant) -> Option<&'p PluginStatus> {
    let is_of_publisher = |it: &&PluginStatus| match &it.key_id {
        Some(key) => grant.publisher == *key,
        None => it.unsigned && grant.publisher == Publisher::Nobody.to_string(),
    };
    let versions = plugins.iter().filter(|it| it.id == grant.plugin.as_str());
    let usable = versions.filter(|it| it.error.is_none());
    usable.filter(is_of_publisher).max_by_key(|it| &it.version)
}

/// A grant, and the plugin that runs with it.
struct Row<'a> {
    grant: &'a Grant,
    plugin: Option<&'a PluginStatus>,
}

impl Row<'_> {
    /// `None` where the plugin does not run, or does not ask for it.
    fn holder(&self, capability: &Capability) -> Option<Holder> {
        let text = capability.to_string();
        let plugin = self.plugin.filter(|it| it.grants.contains(&text))?;
        Some(Holder::of(plugin, &text))
    }

    fn as_json(&self) -> Value {
        let mut value = json!(self.grant);
        let held = self.grant.capabilities.iter().map(|capability| {
            let who = self.holder(capability).map(Holder::as_str);
            (capability.to_string(), json!(who))
        });
        value["held_by"] = Value::Object(held.collect());
        value
    }
}

/// The package in a directory, or the newest version of a plugin. Verified as
/// loading does it, because a grant is bound to who published it.
pub(super) async fn package(
    context: &Context,
    home: &Home,
    text: &str,
) -> Result<Verified<Package>> {
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
