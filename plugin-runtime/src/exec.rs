//! Plugins of kind `exec`: one process for each call.
//!
//! ```text
//! <entry> execute <phase>   input on stdin, output on stdout, log on stderr
//! <entry> validate          status 0, or refuses with what it writes to stderr
//! <entry> info              {"id": …, "version": …, "phases": […]} on stdout
//! ```
//!
//! `validate` and `info` run once, before the first call. Status 0 of `execute`
//! means that stdout is the output, which is JSON; other statuses are in
//! `exec/outcome.rs`, the environment is in `exec/environment.rs`.

mod environment;
mod outcome;
mod run;

use std::{
    ffi::OsString,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use orchestrator_contract::{CallError, Payload, PhaseCall, PhaseReply, PluginState};
use orchestrator_manifest::Manifest;
use serde::Deserialize;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub(crate) use environment::{Identity, remaining_ms};

use crate::{
    PluginProblem, error::LifecycleError, lifecycle::Lifecycle, limits::Bounds, logs::Origin,
    monitor::Monitor, outlet::Outlet, output, program::Program, settings::ExecSettings,
};

/// How many lines of stderr are shown with an error.
const ERROR_LINES: usize = 20;

/// A plugin of kind `exec`.
pub(crate) struct Exec {
    /// Until the plugin is closed; its files go with it.
    program: Mutex<Option<Arc<Program>>>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) identity: Identity,
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) bounds: Arc<Bounds>,
    pub(crate) settings: ExecSettings,
    pub(crate) crash_output_bytes: u64,
    slots: Semaphore,
    waiting: AtomicU64,
    closing: CancellationToken,
}

/// Everything that runs a plugin of kind `exec`.
pub(crate) struct ExecParts {
    pub(crate) program: Program,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) identity: Identity,
    pub(crate) outlet: Arc<Outlet>,
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) bounds: Arc<Bounds>,
    pub(crate) settings: ExecSettings,
    pub(crate) crash_output_bytes: u64,
}

/// What `info` prints.
#[derive(Debug, Deserialize)]
struct Info {
    #[serde(alias = "name")]
    id: String,
    version: String,
    phases: Vec<String>,
}

impl Exec {
    pub(crate) fn new(parts: ExecParts) -> Self {
        let ExecParts {
            program,
            manifest,
            identity,
            outlet,
            monitor,
            bounds,
            settings,
            crash_output_bytes,
        } = parts;
        Self {
            slots: Semaphore::new(usize::from(settings.concurrency_max.max(1))),
            waiting: AtomicU64::new(0),
            closing: CancellationToken::new(),
            program: Mutex::new(Some(Arc::new(program))),
            manifest,
            identity,
            outlet,
            monitor,
            bounds,
            settings,
            crash_output_bytes,
        }
    }

    /// Runs `validate` and `info`. A refusal or a mismatch leaves the plugin in
    /// state `Error`; when the host could not run them, the next call tries again.
    pub(crate) async fn start(&self, life: &Lifecycle) -> Result<(), CallError> {
        let checked = async {
            self.validate().await?;
            self.info().await
        };
        match checked.await {
            Ok(()) => {}
            Err(Refused::ByHost(error)) => return Err(error),
            Err(Refused::ByPlugin(error)) => {
                let problem = PluginProblem::new(&error);
                life.fail(PluginState::Error, problem.clone());
                return Err(problem.to_call_error());
            }
        }
        let _ = life.go(
            PluginState::Initialized,
            "`validate` and `info` agree with its manifest",
        );
        let _ = life.go(PluginState::Starting, "it needs no process between calls");
        let _ = life.go(PluginState::Running, "it takes calls");
        Ok(())
    }

    /// Runs `execute`. Waits for one of the plugin's slots, at most until the call's
    /// deadline. Dropping the future ends the process group.
    pub(crate) async fn call(&self, call: PhaseCall) -> Result<PhaseReply, CallError> {
        let _slot = self.slot(call.deadline.map(Instant::from_std)).await?;
        let arguments = ["execute".into(), OsString::from(call.phase.as_str())];
        let variables = self.identity.of_call(&call);
        let input = call.input.bytes.clone();
        let finished = self
            .run(arguments, variables, input, Some(Origin::of(&call)))
            .await?;
        let usage = finished.usage;
        let output = Payload::from_json_bytes(outcome::judge(finished)?);
        output::check(&output).await?;
        Ok(PhaseReply {
            usage,
            ..PhaseReply::new(output)
        })
    }

    /// Ends every process of the plugin and takes no further calls.
    pub(crate) fn close(&self) {
        self.closing.cancel();
        let program = self
            .program
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Outside the lock, since it may remove files.
        drop(program);
    }

    fn program(&self) -> Result<Arc<Program>, CallError> {
        let program = self.program.lock().unwrap_or_else(PoisonError::into_inner);
        program
            .clone()
            .ok_or_else(|| self.unavailable("it has stopped"))
    }

    fn unavailable(&self, why: &str) -> CallError {
        CallError::Unavailable {
            message: format!("plugin {}: {why}", self.outlet.plugin()),
        }
    }

    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    async fn slot(
        &self,
        deadline: Option<Instant>,
    ) -> Result<tokio::sync::SemaphorePermit<'_>, CallError> {
        if let Ok(slot) = self.slots.try_acquire() {
            return Ok(slot);
        }
        let limit = u64::from(self.settings.waiting_max);
        if self.waiting() >= limit {
            return Err(CallError::Overloaded { limit });
        }
        let _waiting = Waiting::count(&self.waiting);
        let acquired = match deadline {
            Some(deadline) => timeout_at(deadline, self.slots.acquire())
                .await
                .map_err(|_| self.unavailable("all its processes were busy until the deadline"))?,
            None => self.slots.acquire().await,
        };
        acquired.map_err(|_| self.unavailable("it is stopping"))
    }

    async fn validate(&self) -> Result<(), Refused> {
        let finished = self.ask("validate").await?;
        if finished.status.success() {
            return Ok(());
        }
        let said = finished.tail.last_lines(ERROR_LINES);
        let message = match said.is_empty() {
            true => crate::process::describe(finished.status),
            false => said,
        };
        Err(Refused::ByPlugin(LifecycleError::Validate { message }))
    }

    async fn info(&self) -> Result<(), Refused> {
        let finished = self.ask("info").await?;
        let mismatch = |message| Refused::ByPlugin(LifecycleError::Info { message });
        if !finished.status.success() {
            let status = crate::process::describe(finished.status);
            return Err(mismatch(format!(
                "{status}: {}",
                finished.tail.last_lines(ERROR_LINES)
            )));
        }
        let info: Info = serde_json::from_slice(&finished.output)
            .map_err(|error| mismatch(format!("its output is not understood: {error}")))?;
        compare(&self.manifest, &info).map_err(mismatch)
    }

    async fn ask(&self, question: &str) -> Result<run::Finished, Refused> {
        let variables = self.identity.variables();
        self.run([question.into()], variables, Bytes::new(), None)
            .await
            .map_err(Refused::ByHost)
    }
}

/// Why `validate` or `info` did not pass.
enum Refused {
    /// They could not be run; that says nothing about the plugin.
    ByHost(CallError),
    ByPlugin(LifecycleError),
}

fn compare(manifest: &Manifest, info: &Info) -> Result<(), String> {
    if info.id != manifest.id.as_str() && info.id != manifest.name.as_str() {
        return Err(format!("id {} instead of {}", info.id, manifest.id));
    }
    if info.version != manifest.version.to_string() {
        return Err(format!(
            "version {} instead of {}",
            info.version, manifest.version
        ));
    }
    same_phases(manifest, &info.phases)
}

/// Compares the phases that a program states with those of its manifest.
pub(crate) fn same_phases<P: AsRef<str>>(manifest: &Manifest, stated: &[P]) -> Result<(), String> {
    let sorted = |mut phases: Vec<String>| {
        phases.sort();
        phases.dedup();
        phases
    };
    let stated = sorted(
        stated
            .iter()
            .map(|phase| phase.as_ref().to_owned())
            .collect(),
    );
    let declared = manifest
        .callable_phases()
        .into_iter()
        .map(|phase| phase.name);
    let declared = sorted(declared.collect());
    if stated == declared {
        return Ok(());
    }
    Err(format!(
        "phases {} instead of {}",
        stated.join(", "),
        declared.join(", ")
    ))
}

/// Counts a call while it waits.
pub(crate) struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    pub(crate) fn count(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
