//! The `orchestrator` command: reads arguments, prints, listens and exits, which
//! nothing below it does.
//!
//! Start with [`args`], then the file of one command under `command/`. How it
//! speaks is in `output.rs`, how it fails in `failure.rs` and `exit.rs`.

mod args;
mod audit;
mod bounded_file;
mod command;
mod context;
mod error;
mod exit;
mod failure;
mod held;
mod named_pipeline;
mod output;
mod passphrase;
mod progress;
mod redaction;
mod run_input;
mod run_output;
mod run_record;
mod run_view;
mod saved_outputs;
mod serve;
mod services;
mod signals;
mod signer;
mod source;
mod table;
mod whoami;

use std::{ffi::OsString, process::ExitCode};

use args::{Cli, Command};
use clap::Parser as _;
use context::Context;
use exit::Exit;
use failure::Failure;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().collect();
    let result = match Cli::try_parse_from(&arguments) {
        Ok(cli) => {
            let context = Context::new(cli.global);
            let result = start(&context, &arguments, cli.command);
            if let Err(failure) = &result {
                failure.tell(context.out);
            }
            result
        }
        Err(error) => command::help::of_parser(&error, &arguments),
    };
    let exit = match result {
        Ok(()) => Exit::Ok,
        Err(Failure { exit, .. }) => exit,
    };
    ExitCode::from(exit.code())
}

fn start(context: &Context, arguments: &[OsString], command: Command) -> failure::Result {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    {
        let _inside = runtime.enter();
        signals::outlive_size_limit()?;
    }
    audit::around(context, arguments, || {
        let result = runtime.block_on(dispatch(context, command));
        // A blocking read, such as one of a terminal, must not hold the exit up.
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        result
    })
}

async fn dispatch(context: &Context, command: Command) -> failure::Result {
    match command {
        Command::Run(command) => command.execute(context).await,
        Command::Plugin(command) => command.execute(context).await,
        Command::Key(command) => command.execute(context).await,
        Command::Trust(command) => command.execute(context).await,
        Command::Audit(command) => command.execute(context).await,
        Command::Pipeline(command) => command.execute(context).await,
        Command::Serve(args) => args.execute(context).await,
        Command::Config(command) => command.execute(context),
        Command::Completion(args) => args.execute(context),
        Command::Version => command::version::execute(context),
        Command::Help(args) => args.execute(context),
    }
}
