//! `orchestrator plugin status`

use std::fmt::Write as _;

use orchestrator_engine::Disabled;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::operate::in_path;
use crate::{
    context::Context,
    error::CliError,
    failure::Result,
    output::harmless,
    progress::duration,
    run_view::{size, time},
    services::running,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plugin; without it, every plugin
    name: Option<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let services = running(&home)?;
        if services.is_empty() {
            let home = home.root().to_owned();
            return Err(CliError::NoService { home }.into());
        }
        let path = match &self.name {
            Some(name) => format!("/plugins/{}", in_path(name)),
            None => "/plugins".to_owned(),
        };
        let mut told = Vec::new();
        for service in services {
            let path = path.clone();
            let asked = spawn_blocking(move || {
                let mut value = service.get(&path)?;
                value["address"] = json!(service.address);
                Ok::<_, crate::failure::Failure>(value)
            });
            told.push(asked.await.map_err(std::io::Error::other)??);
        }
        let disabled = Disabled::of(&home).list()?;
        let value = json!({ "services": told, "disabled": disabled });
        context.out.show(&value, |_| {
            let mut text = String::new();
            for service in &told {
                if told.len() > 1 {
                    let address = service["address"].as_str().unwrap_or_default();
                    let _ = writeln!(text, "service {address}\n");
                }
                let plugins = service["plugins"].as_array();
                let each = plugins.into_iter().flatten();
                let texts: Vec<_> = each.map(|it| plugin(it, &disabled)).collect();
                text.push_str(&texts.join("\n"));
            }
            text
        })
    }
}

/// One line for each thing there is to say, its name in front.
struct Lines(String);

impl Lines {
    fn line(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(self.0, "{name:<13} {}", harmless(value));
        }
    }
}

fn plugin(status: &Value, disabled: &[String]) -> String {
    let mut lines = Lines(String::new());
    let text = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| status[name].as_u64().unwrap_or_default();
    lines.line("name", &text("id"));
    lines.line("version", &text("version"));
    lines.line("kind", &text("kind"));
    lines.line("state", &text("state"));
    if text("state") != "disabled" && disabled.contains(&text("id")) {
        lines.line("disabled", "from when it is loaded again");
    }
    lines.line("health", &health(&status["health"]));
    if let Some(pid) = status["pid"].as_u64() {
        lines.line("process", &pid.to_string());
    }
    if let Some(started) = status["started_at"].as_i64() {
        let up = jiff::Timestamp::now()
            .as_millisecond()
            .saturating_sub(started);
        let up = duration(u64::try_from(up).unwrap_or_default());
        lines.line("runs since", &format!("{}, for {up}", time(started)));
    }
    if let Some(seen) = status["last_seen"].as_i64() {
        lines.line("last seen", &time(seen));
    }
    lines.line("restarts", &number("restarts").to_string());
    let (calls, waiting) = (number("calls"), number("waiting"));
    lines.line("calls", &format!("{calls}, of which {waiting} wait"));
    limits(&mut lines, &status["limits"]);
    sandbox(&mut lines, &status["sandbox"]);
    let problem = &status["last_problem"];
    if let Some(message) = problem["message"].as_str() {
        let at = time(problem["at_ms"].as_i64().unwrap_or_default());
        lines.line("last problem", &format!("{at} {message}"));
    }
    let error = &status["error"];
    if let Some(message) = error["message"].as_str() {
        let code = error["code"].as_str().unwrap_or_default();
        lines.line("error", &format!("{code}: {message}"));
        lines.line("help", error["help"].as_str().unwrap_or_default());
    }
    for change in status["history"].as_array().into_iter().flatten() {
        let at = time(change["at_ms"].as_i64().unwrap_or_default());
        let of = |name: &str| change[name].as_str().unwrap_or_default();
        lines.line(
            "history",
            &format!("{at} {:<12} {}", of("state"), of("reason")),
        );
    }
    lines.0
}

fn health(health: &Value) -> String {
    let mut text = match health["healthy"].as_bool() {
        Some(true) => "well".to_owned(),
        Some(false) => "not well".to_owned(),
        None => return "unknown".to_owned(),
    };
    if let Some(at) = health["last_check"].as_i64() {
        let _ = write!(text, ", asked {}", time(at));
    }
    let fails = health["consecutive_fails"].as_u64().unwrap_or_default();
    if fails > 0 {
        let error = health["last_error"].as_str().unwrap_or_default();
        let _ = write!(text, ", {fails} failed in a row: {error}");
    }
    text
}

fn limits(lines: &mut Lines, limits: &Value) {
    for (name, limit) in limits.as_object().into_iter().flatten() {
        let Some(number) = limit.as_u64() else {
            continue;
        };
        let number = match name.ends_with("_bytes") {
            true => size(number),
            false => number.to_string(),
        };
        lines.line("limit", &format!("{name} {number}"));
    }
}

fn sandbox(lines: &mut Lines, sandbox: &Value) {
    let layers = sandbox["in_force"].as_array().into_iter().flatten();
    let layers: Vec<_> = layers.filter_map(Value::as_str).collect();
    match layers.is_empty() {
        true if sandbox.is_null() => {}
        true => lines.line("confined by", "nothing"),
        false => lines.line("confined by", &layers.join(", ")),
    }
}
