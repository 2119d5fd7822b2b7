//! One process per call: input on stdin, output on stdout, log on stderr.

mod environment;

use std::{
    fs::File,
    io::{self, IsTerminal, Read, Write},
    os::fd::AsFd,
    process::ExitCode,
    sync::Arc,
};

use bytes::Bytes;
use orchestrator_contract::{LogLevel, Payload, PhaseReply, frame::CancelMode};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::{Context, Error, Info, Input, Plugin, Reply, context::Channel, serve::Served, unwind};

/// The largest input.
pub(crate) const INPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Writes one line per line of `message`, each with its level.
pub(crate) fn stderr(level: LogLevel, message: &str) {
    let level = level.as_str().to_ascii_uppercase();
    let mut lines = String::with_capacity(message.len() + 8);
    for line in message.lines() {
        lines.extend([&level, " ", line, "\n"]);
    }
    // Nobody is left to tell when writing fails.
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// What is on stderr is the message of the failed call, so it stands there as
/// it is; a line without a level is an error.
fn fail(error: &Error) -> ExitCode {
    // Nobody is left to tell when writing fails.
    let _ = writeln!(io::stderr(), "{error}");
    ExitCode::from(error.exit_code())
}

/// `info`
pub(crate) fn info(info: &Info) -> ExitCode {
    let Info {
        id,
        version,
        phases,
        ..
    } = info;
    let json = serde_json::json!({ "id": id, "version": version, "phases": phases });
    finish(writeln!(io::stdout(), "{json}"))
}

/// `validate`
pub(crate) fn validate<P: Plugin>(served: &Served<P>) -> ExitCode {
    let verdict = environment::setup().and_then(|setup| served.plugin.validate(&setup));
    match verdict {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// `execute <phase>`
pub(crate) fn execute<P: Plugin>(served: Arc<Served<P>>, phase: &str) -> ExitCode {
    match Output::claim() {
        Ok(output) => match answer(served, phase).and_then(as_json) {
            Ok(json) => output.write(&json),
            Err(error) => fail(&error),
        },
        Err(error) => fail(&Error::permanent(format_args!("stdout: {error}"))),
    }
}

fn answer<P: Plugin>(served: Arc<Served<P>>, phase: &str) -> Result<Reply, Error> {
    served.info.check_phase(phase)?;
    let setup = environment::setup()?;
    let (header, content_type) = environment::call(phase)?;
    let input = read_input()?;
    let input = match input.is_empty() && content_type.is_json() {
        true => Payload::null(),
        false => Payload::new(content_type, input),
    };
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::transient)?;
    let outcome = runtime.block_on(async {
        let context = Context::new(header, Arc::new(setup), Channel::Exec);
        let call = served
            .plugin
            .call(context.phase(), Input::new(input), &context);
        tokio::select! {
            biased;
            outcome = unwind::catch(call) => outcome.flatten(),
            error = stopped(&context) => Err(error),
        }
    });
    // A blocking task that does not end must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// The output as stdout carries it. A host takes stdout for JSON, so a text becomes
/// a JSON text, which pipelines read as the same.
fn as_json(reply: Reply) -> Result<Bytes, Error> {
    let Payload {
        content_type,
        bytes,
    } = PhaseReply::from(reply).output;
    let refused = |what: &str| {
        Error::invalid_output(format_args!(
            "kind `exec` answers with JSON or text, not with {content_type}{what}"
        ))
    };
    if content_type.is_json() {
        return Ok(bytes);
    }
    if !content_type.is_text() {
        return Err(refused(""));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| refused(" that is not UTF-8"))?;
    let json = Payload::json(text).map_err(Error::invalid_output)?;
    Ok(json.bytes)
}

/// Resolves when the call should be dropped: a signal or the deadline came, and
/// the call had its grace time.
async fn stopped(context: &Context) -> Error {
    let error = tokio::select! {
        signal = asked_to_end() => match signal {
            Ok(name) => Error::cancelled(format_args!("stopped by {name}")),
            Err(error) => Error::transient(format_args!("signals: {error}")),
        },
        () = passed(context) => Error::transient("the time that the host gives is over"),
    };
    context.cancellation().cancel(CancelMode::Cooperative);
    context.cancellation().expired().await;
    error
}

async fn passed(context: &Context) {
    match context.deadline() {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Resolves with the name of the signal that asks the process to end.
pub(crate) async fn asked_to_end() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

fn read_input() -> Result<Vec<u8>, Error> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        stderr(
            LogLevel::Info,
            "reading the input from the terminal; Ctrl-D ends it",
        );
    }
    let mut input = Vec::new();
    let read = stdin
        .lock()
        .take(INPUT_BYTES_MAX + 1)
        .read_to_end(&mut input);
    read.map_err(|error| Error::transient(format_args!("stdin: {error}")))?;
    if input.len() as u64 > INPUT_BYTES_MAX {
        let limit = INPUT_BYTES_MAX >> 20;
        return Err(Error::invalid_input(format_args!("more than {limit} MiB")));
    }
    Ok(input)
}

/// The process's stdout, kept for the output alone.
struct Output(File);

impl Output {
    /// Takes stdout away from the plugin, whose `println!` then goes to stderr
    /// and so into the log.
    fn claim() -> io::Result<Self> {
        let stdout = io::stdout().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        Ok(Self(stdout.into()))
    }

    fn write(mut self, bytes: &[u8]) -> ExitCode {
        let newline = match self.0.is_terminal() {
            true => "\n",
            false => "",
        };
        let written = self.0.write_all(bytes);
        finish(written.and_then(|()| self.0.write_all(newline.as_bytes())))
    }
}

fn finish(written: io::Result<()>) -> ExitCode {
    match written {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&Error::transient(format_args!("stdout: {error}"))),
    }
}
