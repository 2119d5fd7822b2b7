//! The command line: what can be said, and its help.

use clap::{Parser, Subcommand};

use crate::{command, context::Global};

/// Run pipelines of signed plugins with service-mesh care.
#[derive(Debug, Parser)]
#[command(
    name = "orchestrator",
    version,
    propagate_version = false,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Examples:
  orchestrator run start pipeline.yaml --input repo=. --output-dir out
  orchestrator plugin list
  orchestrator serve

`orchestrator help exit-codes` explains the exit status; every command has `--json`."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start, watch, cancel and repeat runs of pipelines
    #[command(
        subcommand,
        after_help = "Examples:
  orchestrator run start pipeline.yaml --input repo=.
  orchestrator run list --status failed
  orchestrator run retry 01JD3Y7ZJ6V4W2N9Q8K5T1R0BX --from render"
    )]
    Run(command::run::Command),

    /// Inspect, sign, install and grant plugins
    #[command(
        subcommand,
        after_help = "Examples:
  orchestrator plugin sign ./greeter --key release
  orchestrator plugin install ./greeter
  orchestrator plugin grant greeter file:read=/data/in"
    )]
    Plugin(command::plugin::Command),

    /// Make and list release keys
    #[command(
        subcommand,
        after_help = "Examples:
  orchestrator key generate release
  orchestrator key list"
    )]
    Key(command::key::Command),

    /// Say which keys may sign which plugins
    #[command(
        subcommand,
        after_help = "Examples:
  orchestrator trust add release --level 3 --names 'com.example.*'
  orchestrator trust list"
    )]
    Trust(command::trust::Command),

    /// Show, check and prove what was allowed and refused
    #[command(
        subcommand,
        after_help = "Examples:
  orchestrator audit show --denied --since 24h
  orchestrator audit verify --from /mnt/copy/checkpoints"
    )]
    Audit(command::audit::Command),

    /// Check and show pipelines
    #[command(
        subcommand,
        after_help = "Examples:
  orchestrator pipeline validate pipeline.yaml
  orchestrator pipeline show --schema > pipeline.schema.json"
    )]
    Pipeline(command::pipeline::Command),

    /// Serve the HTTP API, metrics and probes
    #[command(after_help = "Examples:
  orchestrator serve
  orchestrator serve --listen 127.0.0.1:0 --json
  curl -H \"Authorization: Bearer $(cat ~/.local/share/orchestrator/api-token)\" \\
       http://127.0.0.1:7878/api/v1/runs")]
    Serve(command::serve::Args),

    /// Show the settings in force
    #[command(
        subcommand,
        after_help = "Examples:
  orchestrator config show
  orchestrator config show --origin"
    )]
    Config(command::config::Command),

    /// Print a script that completes commands in a shell
    #[command(after_help = "Examples:
  orchestrator completion bash > ~/.local/share/bash-completion/completions/orchestrator
  orchestrator completion fish > ~/.config/fish/completions/orchestrator.fish")]
    Completion(command::completion::Args),

    /// Print the version
    #[command(after_help = "Examples:
  orchestrator version
  orchestrator version --json")]
    Version,

    /// Print help about a command, or about `exit-codes`
    #[command(after_help = "Examples:
  orchestrator help exit-codes
  orchestrator help run start")]
    Help(command::help::Args),
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _};

    use super::*;

    fn lines(command: &Command, before: &str, found: &mut Vec<String>) {
        for command in command.get_subcommands() {
            let line = format!("{before}{}", command.get_name());
            match command.has_subcommands() {
                true => lines(command, &format!("{line} "), found),
                false => found.push(line),
            }
        }
    }

    /// Help texts everywhere are checked against this list.
    #[test]
    fn the_list_of_commands_is_complete() {
        let mut found = Vec::new();
        lines(&Cli::command(), "", &mut found);
        found.sort();
        let listed: Vec<_> = include_str!("../commands.txt").lines().collect();
        assert_eq!(found, listed, "write the left list to cli/commands.txt");
    }
}
