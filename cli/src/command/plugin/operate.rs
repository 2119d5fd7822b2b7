//! `orchestrator plugin enable`, `disable` and `restart`

use std::time::Duration;

use orchestrator_engine::Disabled;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::{
    context::Context,
    error::CliError,
    failure::Result,
    output::harmless,
    services::{Service, running, those_on},
    whoami::whoami,
};

/// How long a service may take besides the grace period.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub(crate) struct Enable {
    /// The plugin
    name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Disable {
    /// The plugin
    name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restart {
    /// The plugin
    name: String,

    /// How long its calls may take to end
    #[arg(long, value_name = "DURATION", value_parser = grace)]
    grace: Option<Duration>,
}

fn grace(text: &str) -> std::result::Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        text => orchestrator_manifest::parse_duration(text).map_err(|error| error.to_string()),
    }
}

impl Enable {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let name = self.name;
        let disabled = Disabled::of(&context.home()?);
        if context
            .config()?
            .plugins
            .get(&name)
            .is_some_and(|it| it.disabled)
        {
            return Err(orchestrator_engine::EngineError::DisabledByConfig { id: name }.into());
        }
        // One that is not installed any more may be enabled as well.
        if !disabled.has(&name) {
            known(context, &name).await?;
        }
        disabled.remove(&name)?;
        let told = tell_all(context, &name, "enable", PATIENCE).await?;
        show(context, &name, "enabled", &told)?;
        if let Some(problem) = unusable(&told) {
            let text = |key: &str| harmless(problem[key].as_str().unwrap_or_default());
            let (message, code, help) = (text("message"), text("code"), text("help"));
            context.out.note(&format!(
                "it takes no calls all the same: {message} ({code})\n{help}"
            ));
        }
        Ok(())
    }
}

impl Disable {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let name = self.name;
        known(context, &name).await?;
        // Before anybody is asked: what starts meanwhile finds it.
        Disabled::of(&context.home()?).add(&name, &whoami())?;
        let told = tell_all(context, &name, "disable", PATIENCE).await?;
        show(context, &name, "disabled", &told)
    }
}

impl Restart {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        within(context)?;
        let (query, grace) = match self.grace {
            Some(grace) => (format!("restart?grace={}ms", grace.as_millis()), grace),
            None => ("restart".to_owned(), Duration::ZERO),
        };
        let told = tell_all(context, &self.name, &query, grace + PATIENCE).await?;
        show(context, &self.name, "restarted", &told)
    }
}

/// Refuses what only a running service can do where none runs.
pub(super) fn within(context: &Context) -> Result {
    let home = context.home()?;
    if running(&home)?.is_empty() {
        let home = home.root().to_owned();
        return Err(CliError::NoService { home }.into());
    }
    Ok(())
}

/// Whether there is such a plugin: a service that runs knows best.
async fn known(context: &Context, name: &str) -> Result {
    let services = running(&context.home()?)?;
    if let Some(service) = services.into_iter().next() {
        let path = format!("/plugins/{}", in_path(name));
        let asked = spawn_blocking(move || service.get(&path)).await;
        return asked.map_err(std::io::Error::other)?.map(drop);
    }
    let plugins = context.plugins().await?.plugins();
    match plugins.iter().any(|plugin| plugin.id == name) {
        true => Ok(()),
        false => {
            let names = plugins.iter().map(|plugin| plugin.id.as_str());
            Err(CliError::unknown_plugin(name, names).into())
        }
    }
}

/// Has every service of the home do it, and goes on where one fails. Returns where
/// each listens and the plugin as it is there.
pub(super) async fn tell_all(
    context: &Context,
    name: &str,
    what: &str,
    patience: Duration,
) -> Result<Vec<Value>> {
    let path = format!("/plugins/{}/{what}", in_path(name));
    let (mut told, mut failed) = (Vec::new(), Ok(()));
    for service in running(&context.home()?)? {
        let path = path.clone();
        let asked = spawn_blocking(move || post(&service, &path, patience)).await;
        match asked.map_err(std::io::Error::other)? {
            Ok(value) => told.push(value),
            Err(failure) => failed = Err(failure),
        }
    }
    failed.map(|()| told)
}

fn post(service: &Service, path: &str, patience: Duration) -> Result<Value> {
    let mut value = service.post(path, patience)?;
    value["address"] = json!(service.address);
    Ok(value)
}

/// A name as a part of a path. Names of plugins have nothing to escape; others are
/// refused by the service.
pub(super) fn in_path(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                text.push(char::from(byte));
            }
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

/// Why no version of the plugin can be used, where a service says so.
fn unusable(told: &[Value]) -> Option<&Value> {
    told.iter().find_map(|told| {
        let versions = told["plugins"].as_array()?;
        let last = &versions.last()?["error"];
        let fails = |version: &Value| version["error"].is_object();
        versions.iter().all(fails).then_some(last)
    })
}

fn show(context: &Context, name: &str, done: &str, told: &[Value]) -> Result {
    let value = json!({ "plugin": name, "done": done, "services": told });
    context.out.show(&value, |_| match told {
        [] => format!("{name} is {done}; no service runs"),
        told => {
            let addresses = told.iter().filter_map(|it| it["address"].as_str());
            let addresses: Vec<_> = addresses.collect();
            let know = those_on(&addresses, "knows", "know");
            format!("{name} is {done}; {know}")
        }
    })
}
