//! Finds out how the plugin was started, and answers that way.

use std::{
    env,
    ffi::OsString,
    io::{self, Write},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use crate::{Info, Plugin, exec, node};

/// How a person misused the command line.
const USAGE: u8 = 2;

/// A plugin and what it said about itself.
pub(crate) struct Served<P> {
    pub(crate) plugin: P,
    pub(crate) info: Info,
}

/// Answers as the plugin was started: one call (`execute <phase>`), a question
/// (`validate`, `info`), or many calls over the socket in
/// `ORCHESTRATOR_NODE_FD`. Started in no such way it says what it is and how to
/// use it, and ends with status 2.
///
/// Call it from `main`, outside any async runtime, and return what it returns.
/// It ends when the work is done, when the host goes away, or on `SIGTERM` and
/// `SIGINT`; calls that are then open are dropped.
pub fn serve(plugin: impl Plugin) -> ExitCode {
    let info = plugin.info();
    let served = Arc::new(Served { plugin, info });
    if let Some(descriptor) = env::var_os(node::DESCRIPTOR) {
        return node::run(served, &descriptor);
    }
    let mut arguments = env::args_os();
    let program = arguments.next().unwrap_or_default();
    // Arguments that the manifest adds stand before the command.
    let command: Vec<OsString> = arguments
        .skip_while(|argument| argument.as_encoded_bytes().starts_with(b"-"))
        .collect();
    let command: Vec<&str> = command.iter().filter_map(|word| word.to_str()).collect();
    match command[..] {
        ["execute", phase] => exec::execute(served, phase),
        ["validate"] => exec::validate(&*served),
        ["info"] => exec::info(&served.info),
        ["help"] => {
            show(&mut io::stdout(), &usage(&served.info, &program));
            ExitCode::SUCCESS
        }
        _ => {
            show(&mut io::stderr(), &usage(&served.info, &program));
            ExitCode::from(USAGE)
        }
    }
}

fn usage(info: &Info, program: &OsString) -> String {
    let Info { id, version, .. } = info;
    let name = Path::new(program).file_name().unwrap_or(program);
    let name = name.to_string_lossy();
    let phases = info.phases.join(", ");
    let first = info.phases.first().map_or("<phase>", String::as_str);
    format!(
        "{id} {version}, a plugin for Orchestrator\n\
         \n\
         Usage:\n  \
           {name} execute <phase>   input on stdin, output on stdout\n  \
           {name} validate          checks ORCHESTRATOR_CONFIG and ORCHESTRATOR_GRANTS\n  \
           {name} info              prints id, version and phases as JSON\n\
         \n\
         Phases: {phases}\n\
         \n\
         Orchestrator starts it by itself. By hand:\n  \
           echo '{{\"x\":1}}' | {name} execute {first}\n"
    )
}

/// Nobody is left to tell when writing fails.
fn show(to: &mut dyn Write, text: &str) {
    let _ = to.write_all(text.as_bytes());
}
