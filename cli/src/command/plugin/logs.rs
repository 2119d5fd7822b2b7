//! `orchestrator plugin logs`

use std::{sync::mpsc, thread};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::operate::in_path;
use crate::{
    context::Context,
    error::CliError,
    failure::{Failure, Result},
    output::harmless,
    services::running,
};

/// How many lines may wait to be written.
const WAITING_MAX: usize = 64;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plugin
    name: String,

    /// Go on with what it writes from now on
    #[arg(long, short)]
    follow: bool,

    /// How many of its last lines come first
    #[arg(long, value_name = "LINES", default_value_t = 100)]
    tail: usize,
}

/// What came from a service: an event of its stream, or why it ended.
type News = std::result::Result<(String, Value), Failure>;

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let services = running(&home)?;
        if services.is_empty() {
            let home = home.root().to_owned();
            return Err(CliError::NoService { home }.into());
        }
        let (follow, tail) = (self.follow, self.tail);
        let path = format!(
            "/plugins/{}/logs?follow={follow}&tail={tail}",
            in_path(&self.name)
        );
        let (sender, news) = mpsc::sync_channel::<News>(WAITING_MAX);
        for service in services {
            let (path, sender) = (path.clone(), sender.clone());
            // Ends with its stream or with this command, which waits for none of them.
            thread::spawn(move || {
                let take = |name: &str, value| {
                    let sent = sender.send(Ok((name.to_owned(), value)));
                    sent.map_err(|_| Failure::silent(crate::exit::Exit::Ok))
                };
                if let Err(failure) = service.follow(&path, take) {
                    sender.send(Err(failure)).ok();
                }
            });
        }
        drop(sender);
        for event in news {
            let (name, value) = event?;
            match name.as_str() {
                "line" if context.out.is_json() => context.out.json_line(&value)?,
                "line" => context.out.text(&line(&value))?,
                "lost" => lost(context, &value)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Said where the lines would be, and not lost among them.
fn lost(context: &Context, value: &Value) -> Result {
    let lines = value["lines"].as_u64().unwrap_or_default();
    match context.out.is_json() {
        true => context.out.json_line(&json!({ "lost": lines })),
        false => {
            let text = format!("{lines} lines were lost: they came too fast");
            context.out.warn(&text);
            Ok(())
        }
    }
}

/// `2025-11-18T10:30:03Z INFO  [greeter] hello`, as the log of the service has it.
fn line(value: &Value) -> String {
    let text = |name: &str| value[name].as_str().unwrap_or_default();
    let at = text("ts").parse::<Timestamp>().unwrap_or_default();
    let level = text("level").to_uppercase();
    let (plugin, message) = (harmless(text("plugin")), harmless(text("message")));
    format!("{at:.0} {level:<5} [{plugin}] {message}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_looks_as_in_the_log_of_the_service() {
        let value = json!({ "ts": "2025-11-18T10:30:03.25Z", "level": "info",
            "plugin": "git-history", "message": "opened \u{1b}[2J it" });
        assert_eq!(
            line(&value),
            "2025-11-18T10:30:03Z INFO  [git-history] opened \\u{1b}[2J it\n"
        );
    }
}
