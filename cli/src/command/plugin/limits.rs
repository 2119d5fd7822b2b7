//! `orchestrator plugin limits`

use std::time::Duration;

use clap::ValueEnum;
use orchestrator_plugin_runtime::{LimitChange, LimitPolicy};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::operate::{in_path, within};
use crate::{
    context::Context,
    failure::Result,
    run_view::size,
    services::{Service, running},
    table::Table,
};

/// How long a service may take: it writes down who asked.
const PATIENCE: Duration = Duration::from_secs(60);

/// What there can be a limit of.
const RESOURCES: [&str; 5] = ["memory", "cpu", "tasks", "files", "disk"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plugin
    name: String,

    /// Memory of all its processes together, in MiB; 0 for no limit of its own
    #[arg(long, value_name = "N")]
    memory_mb: Option<u32>,

    /// Processor time, in hundredths of one core
    #[arg(long, value_name = "N")]
    cpu_percent: Option<u32>,

    /// Open descriptors
    #[arg(long, value_name = "N")]
    open_files: Option<u32>,

    /// Threads and processes
    #[arg(long, value_name = "N")]
    tasks: Option<u32>,

    /// Room for files of its own, in MiB; the next reload sets it aside
    #[arg(long, value_name = "N")]
    disk_mb: Option<u32>,

    /// What is done when it uses more
    #[arg(long, value_name = "ACTION")]
    violation: Option<Violation>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Violation {
    /// It is told of, and nothing else
    Warn,
    /// As `kill`, but of processor time it gets no more than it may have
    Throttle,
    /// Its processes are killed
    Kill,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        within(context)?;
        let change = self.change();
        let path = format!("/plugins/{}/limits", in_path(&self.name));
        let (mut told, mut failed) = (Vec::new(), Ok(()));
        for service in running(&context.home()?)? {
            let path = path.clone();
            let asked = spawn_blocking(move || ask(&service, &path, &change)).await;
            match asked.map_err(std::io::Error::other)? {
                Ok(value) => told.push(value),
                // The others are to obey all the same.
                Err(failure) => failed = Err(failure),
            }
        }
        failed?;
        let value = json!({ "plugin": self.name, "services": told });
        context.out.show(&value, |_| {
            let services = told.iter().map(|it| service(it, told.len() > 1));
            services.collect::<Vec<_>>().join("\n")
        })
    }

    fn change(&self) -> LimitChange {
        LimitChange {
            memory_mb: self.memory_mb,
            cpu_percent: self.cpu_percent,
            tasks: self.tasks,
            open_files: self.open_files,
            disk_mb: self.disk_mb,
            violation: self.violation.map(|violation| match violation {
                Violation::Warn => LimitPolicy::Warn,
                Violation::Throttle => LimitPolicy::Throttle,
                Violation::Kill => LimitPolicy::Kill,
            }),
        }
    }
}

fn ask(service: &Service, path: &str, change: &LimitChange) -> Result<Value> {
    let mut value = match change.is_empty() {
        true => service.get(path)?,
        false => service.put(path, &json!(change), PATIENCE)?,
    };
    value["address"] = json!(service.address);
    Ok(value)
}

/// What one service says of every version.
fn service(told: &Value, is_one_of_several: bool) -> String {
    let plugins = told["plugins"].as_array().into_iter().flatten();
    let plugins: Vec<_> = plugins.map(plugin).collect();
    let address = told["address"].as_str().unwrap_or_default();
    match is_one_of_several {
        true => format!("service {address}\n\n{}", plugins.join("\n")),
        false => plugins.join("\n"),
    }
}

fn plugin(plugin: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let limits = plugin["limits"].as_array();
    let limits = || limits.into_iter().flatten();
    let mut table = Table::new(["LIMIT", "IS", "HELD BY", "FROM", "WAITS FOR"]);
    for resource in RESOURCES {
        let limit = limits().find(|it| it["resource"] == resource);
        let Some(limit) = limit else {
            let none = [resource, "none", "", "", ""];
            table.row(none.map(str::to_owned));
            continue;
        };
        let by = limit["by"].as_array().into_iter().flatten();
        let by: Vec<_> = by.filter_map(Value::as_str).collect();
        table.row([
            resource.to_owned(),
            amount(resource, limit["limit"].as_u64().unwrap_or_default()),
            by.join(", "),
            text(&limit["from"]),
            text(&limit["waits_for"]),
        ]);
    }
    let more = limits().next().map_or_else(String::new, |limit| {
        let (policy, from) = (text(&limit["policy"]), text(&limit["policy_from"]));
        format!(", for more: {policy} ({from})")
    });
    let (id, version) = (text(&plugin["id"]), text(&plugin["version"]));
    format!("{id} {version}{more}\n{}", table.render(|_, _| None))
}

fn amount(resource: &str, limit: u64) -> String {
    match resource {
        "memory" | "disk" => size(limit),
        "cpu" => format!("{limit} %"),
        _ => limit.to_string(),
    }
}
