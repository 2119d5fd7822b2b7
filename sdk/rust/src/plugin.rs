//! What an author implements.

use std::future::Future;

use orchestrator_contract::Reconciled;

use crate::{Context, Error, Input, Reply, Setup};

/// How many calls a plugin takes at once unless it says otherwise.
const CONCURRENT_CALLS: u32 = 16;

/// A plugin: who it is and how it answers.
///
/// One value answers every call of a process; state it keeps for itself is lost
/// when the process ends, which for kind `exec` is after each call.
pub trait Plugin: Send + Sync + 'static {
    /// Who the plugin is; must agree with its manifest. Asked once.
    fn info(&self) -> Info;

    /// Checks the configuration and the grants before the first call. The
    /// default accepts everything.
    ///
    /// # Errors
    ///
    /// Refuses to start; the operator reads the message.
    fn validate(&self, setup: &Setup) -> Result<(), Error> {
        let _ = setup;
        Ok(())
    }

    /// Answers one call. `phase` is one of those in [`Info`].
    ///
    /// Calls run at once on one thread: long computations belong into
    /// `tokio::task::spawn_blocking`. A cancelled call first sees
    /// [`Context::cancelled`] and is dropped at its next await one second
    /// later, so clean up in guards.
    ///
    /// # Errors
    ///
    /// See [`Error`]. A panic fails this call and no other.
    fn call(
        &self,
        phase: &str,
        input: Input,
        context: &Context,
    ) -> impl Future<Output = Result<Reply, Error>> + Send;

    /// Did the earlier call of `phase` with this key have its effect? Asked
    /// after a crash, of kind `node` only. The default cannot tell.
    fn reconcile(
        &self,
        phase: &str,
        idempotency_key: &str,
        setup: &Setup,
    ) -> impl Future<Output = Reconciled> + Send {
        let _ = (phase, idempotency_key, setup);
        std::future::ready(Reconciled::Unknown)
    }
}

/// Who a plugin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) phases: Vec<String>,
    pub(crate) concurrent_calls: u32,
}

impl Info {
    /// Names the plugin, its version and its phases as the manifest does.
    pub fn new<P: Into<String>>(
        id: impl Into<String>,
        version: impl Into<String>,
        phases: impl IntoIterator<Item = P>,
    ) -> Self {
        Self {
            id: id.into(),
            version: version.into(),
            phases: phases.into_iter().map(Into::into).collect(),
            concurrent_calls: CONCURRENT_CALLS,
        }
    }

    /// How many calls one process takes at once, from 1; 16 unless set. The
    /// host may send fewer. Kind `exec` has one call per process.
    #[must_use]
    pub fn concurrent_calls(mut self, calls: u32) -> Self {
        self.concurrent_calls = calls.max(1);
        self
    }

    /// Refuses a phase that the plugin does not have.
    pub(crate) fn check_phase(&self, phase: &str) -> Result<(), Error> {
        if self.phases.iter().any(|known| known == phase) {
            return Ok(());
        }
        Err(Error::invalid_input(format_args!(
            "`{}` has no phase `{phase}`; its phases: {}",
            self.id,
            self.phases.join(", ")
        )))
    }
}
