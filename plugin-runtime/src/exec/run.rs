//! Runs one process to its end.

use std::{ffi::OsString, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use orchestrator_contract::{CallError, LogStream, Usage, ViolationAction};
use orchestrator_sandbox::{ExitStatus, SpawnError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Exec, environment::Variables};
use crate::{
    logs::{Origin, PIPE_READ_BYTES, Tail, drain},
    monitor::WatchGuard,
    process::{DRAIN_AFTER_END, Process, StartError, explain, input_pipe, output_pipe},
    program::Program,
};

/// Where a sealed script is for its interpreter.
const SCRIPT_FD: i32 = 3;

/// A process that ran to its end.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) status: ExitStatus,
    pub(super) output: Bytes,
    pub(super) tail: Arc<Tail>,
    pub(super) usage: Usage,
}

/// Ends the process when the call is given up.
struct Running {
    process: Option<Process>,
    grace: Duration,
    closing: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            process.end_in_background(self.grace, self.closing.clone());
        }
    }
}

/// stdout was longer than allowed.
struct TooMuchOutput;

impl Exec {
    /// Runs one process to its end. Dropping the future ends its process group.
    pub(super) async fn run(
        &self,
        arguments: impl IntoIterator<Item = OsString>,
        variables: Variables,
        input: Bytes,
        origin: Option<Origin>,
    ) -> Result<Finished, CallError> {
        let program = self.program()?;
        let longest = longest(&variables);
        let started = self.begin(&program, arguments, variables).await;
        let (process, stdin, stdout, stderr) = started.map_err(|error| match &origin {
            // The same program was asked `validate` with all variables but the call's.
            Some(_) if error.is_of_variables() => unfit(&error, longest),
            _ => CallError::Unavailable {
                message: explain(&error),
            },
        })?;
        let watch = self.monitor.watch(&process, &self.outlet, &self.bounds);
        let running = Running {
            process: Some(process),
            grace: self.settings.kill_grace,
            closing: self.closing.clone(),
        };
        let tail = Arc::new(Tail::new(self.crash_output_bytes));
        let log = drain(
            stderr,
            LogStream::Stderr,
            Arc::clone(&self.outlet),
            Arc::clone(&tail),
            origin,
        );
        let pipes = async {
            let output = read_bounded(stdout, self.settings.output_bytes_max);
            // Output over the limit ends the wait for the other two.
            let input = async {
                feed(stdin, input).await;
                Ok(())
            };
            let log = async {
                log.await;
                Ok(())
            };
            tokio::try_join!(input, output, log)
        };
        let ended = tokio::select! {
            ended = until_end(&running, pipes) => ended,
            error = watch.violated() => Err(Some(error)),
            () = self.closing.cancelled() => Err(Some(CallError::Cancelled {
                reason: "the plugin is stopped".to_owned(),
            })),
        };
        let mut running = running;
        let process = running.process.take();
        let (status, output) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                // Past its limits there is no grace.
                drop(process);
                return Err(error.unwrap_or_else(|| self.too_much_output()));
            }
        };
        let cpu_time = process
            .and_then(|process| process.cpu_time())
            .unwrap_or_default();
        watch.ended(cpu_time);
        self.look_back(&program, &watch, status)?;
        Ok(Finished {
            status,
            output,
            tail,
            usage: usage(cpu_time),
        })
    }

    /// Whether an end says that the process went to the end of its limits or grants.
    fn look_back(
        &self,
        program: &Program,
        watch: &WatchGuard,
        status: ExitStatus,
    ) -> Result<(), CallError> {
        let killed = watch.killed_for_memory();
        // What is made of a tree of which a part was killed is no answer, unless it says so.
        if let Some(error) = killed.filter(|_| status != ExitStatus::Exited(0)) {
            return Err(error);
        }
        if program.filters_calls() {
            self.outlet.ended_in_filter(status);
        }
        Ok(())
    }

    async fn begin(
        &self,
        program: &Program,
        arguments: impl IntoIterator<Item = OsString>,
        variables: Variables,
    ) -> Result<(Process, pipe::Sender, pipe::Receiver, pipe::Receiver), StartError> {
        let (stdin_end, stdin) = input_pipe()?;
        let (stdout, stdout_end) = output_pipe()?;
        let (stderr, stderr_end) = output_pipe()?;
        let mut spec = program
            .spec(SCRIPT_FD, arguments)?
            .descriptor(0, stdin_end)
            .descriptor(1, stdout_end)
            .descriptor(2, stderr_end);
        for (name, value) in variables {
            spec = spec.variable(name, value);
        }
        Ok((Process::start(spec, program).await?, stdin, stdout, stderr))
    }

    fn too_much_output(&self) -> CallError {
        let limit = self.settings.output_bytes_max;
        self.outlet
            .violation("output", limit + 1, limit, ViolationAction::Kill);
        CallError::ResourceLimit {
            resource: "output".to_owned(),
            message: format!("stdout is longer than {limit} bytes"),
        }
    }
}

fn usage(cpu_time: Duration) -> Usage {
    Usage {
        cpu_ms: u64::try_from(cpu_time.as_millis()).unwrap_or(u64::MAX),
        ..Usage::default()
    }
}

/// The variable with the longest value, and how many bytes that has.
fn longest(variables: &Variables) -> Option<(&'static str, usize)> {
    let lengths = variables.iter().map(|(name, value)| (*name, value.len()));
    lengths.max_by_key(|(_, length)| *length)
}

/// A call that no process can be given: says nothing about the plugin.
fn unfit(error: &StartError, longest: Option<(&str, usize)>) -> CallError {
    let mut message = format!("no process can be given this call: {}", explain(error));
    // Of the other faults the sandbox knows the variable.
    if let (StartError::Spawn(SpawnError::Child { .. }), Some((name, length))) = (error, longest) {
        message += &format!("; {name} has {length} bytes");
    }
    CallError::InvalidInput { message }
}

type Piped = Result<((), BytesMut, ()), TooMuchOutput>;

/// Waits until the process has ended and its pipes are empty. An error without
/// content is output over the limit.
async fn until_end(
    running: &Running,
    pipes: impl Future<Output = Piped>,
) -> Result<(ExitStatus, Bytes), Option<CallError>> {
    let Some(process) = &running.process else {
        return Err(None);
    };
    let lost = |error: io::Error| {
        Some(CallError::Unknown {
            message: format!("the end of the process was missed: {error}"),
        })
    };
    let mut pipes = std::pin::pin!(pipes);
    let (status, piped) = tokio::select! {
        piped = &mut pipes => {
            let output = piped.map_err(|TooMuchOutput| None)?.1;
            (process.wait().await.map_err(lost)?, Some(output))
        }
        status = process.wait() => (status.map_err(lost)?, None),
    };
    let output = match piped {
        Some(output) => output,
        None => match timeout(DRAIN_AFTER_END, pipes).await {
            Ok(piped) => piped.map_err(|TooMuchOutput| None)?.1,
            Err(_) => {
                return Err(Some(CallError::protocol(
                    "pipe_left_open",
                    "the process has ended but something it started still holds its stdout",
                )));
            }
        },
    };
    Ok((status, output.freeze()))
}

/// Writes the input. A process that does not read it, or not all of it, is free to.
async fn feed(mut stdin: pipe::Sender, input: Bytes) {
    let _ = stdin.write_all(&input).await;
}

async fn read_bounded(mut stdout: pipe::Receiver, max: u64) -> Result<BytesMut, TooMuchOutput> {
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let mut output = BytesMut::new();
    loop {
        output.reserve(PIPE_READ_BYTES);
        match stdout.read_buf(&mut output).await {
            // An error means that the pipe is gone, which is an end too.
            Ok(0) | Err(_) => return Ok(output),
            Ok(_) if output.len() > max => return Err(TooMuchOutput),
            Ok(_) => {}
        }
    }
}
