//! `orchestrator help`, and what the parser of the command line says.

use std::ffi::OsString;

use clap::{CommandFactory as _, error::ErrorKind};
use miette::MietteDiagnostic;
use serde_json::json;

use crate::{
    args::Cli,
    context::Context,
    error::CliError,
    exit::{self, Exit},
    failure::{Failure, Result},
    output::Output,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A command, or `exit-codes`
    topic: Vec<String>,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let topic = self.topic.join(" ");
        if topic == "exit-codes" {
            return context.out.show(&exit::json(), |_| {
                format!(
                    "The exit status says how a command ended:\n\n{}",
                    exit::table()
                )
            });
        }
        let mut command = Cli::command();
        command.build();
        for word in &self.topic {
            let next = command.find_subcommand(word).cloned();
            command = next.ok_or_else(|| CliError::UnknownTopic {
                topic: topic.clone(),
            })?;
        }
        let help = command.render_help().to_string();
        let value = json!({ "topic": topic, "help": help });
        context.out.show(&value, |_| help.clone())
    }
}

/// Says what the parser of the command line has to say: help that was asked
/// for, or what is wrong.
pub(crate) fn of_parser(error: &clap::Error, arguments: &[OsString]) -> Result {
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let out = Output::new(has("--json"), false, has("--no-color"));
    let asked = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if asked {
        let text = error.render().to_string();
        let result = out.show(&json!({ "help": text }), |_| text.clone());
        if let Err(failure) = &result {
            failure.tell(out);
        }
        return result;
    }
    if out.is_json() {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ").to_owned();
        let diagnostic = MietteDiagnostic::new(message)
            .with_code("ORC-5015")
            .with_help("`orchestrator help` lists the commands");
        let failure = Failure::new(Exit::Usage, diagnostic);
        failure.tell(out);
        return Err(failure);
    }
    let rendered = error.render();
    let text = match out.colors_errors() {
        true => rendered.ansi().to_string(),
        false => rendered.to_string(),
    };
    crate::progress::write_to_stderr(text.as_bytes()).ok();
    Err(Failure::silent(Exit::Usage))
}
