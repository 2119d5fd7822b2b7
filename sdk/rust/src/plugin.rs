//! What an author implements.

use std::future::Future;

use orchestrator_contract::Reconciled;

use crate::{Context, Error, Input, Reply, Setup};

/// How many calls a plugin takes at once unless it says otherwise.
const CONCURRENT_CALLS: u32 = 16;

/// A plugin: who it is and how it answers.
///
/// One value answers every call of a process; state it keeps for itself is lost
/// when the process ends, which for kind `exec` is after each call. Over a reload
/// [`Self::get_state`] and [`Self::restore_state`] keep it.
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

    /// Can calls be answered? Asked right after the start and then from time to
    /// time, of kind `node` only. Calls run on the same thread, so one that
    /// blocks it delays the answer. The default is well.
    ///
    /// # Errors
    ///
    /// Says what is wrong, for the operator.
    fn health(&self, setup: &Setup) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = setup;
        std::future::ready(Ok(()))
    }

    /// What the next process needs to go on where this one is, when an operator
    /// reloads the plugin. Asked of kind `node` only, when [`Info::keeps_state`] says
    /// that there is something: once to try, also while calls are open, and once more
    /// when none is; what it gave then counts. The default gives nothing.
    ///
    /// The host bounds the size, 1 MiB unless its operator says otherwise, and waits
    /// for seconds. Dropped when it does not.
    ///
    /// # Errors
    ///
    /// The reload ends with it, and this process goes on.
    fn get_state(&self) -> impl Future<Output = Result<Vec<u8>, Error>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Goes on with what an earlier process gave, which may have been of another
    /// version, older or newer. Comes before the first call, up to two times; the
    /// later one replaces the earlier.
    ///
    /// # Errors
    ///
    /// The reload ends with it, and the earlier process goes on.
    fn restore_state(
        &self,
        state: &[u8],
        from_version: &str,
    ) -> impl Future<Output = Result<(), Error>> + Send {
        let _ = (state, from_version);
        std::future::ready(Ok(()))
    }
}

/// Who a plugin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) phases: Vec<String>,
    pub(crate) concurrent_calls: u32,
    pub(crate) keeps_state: bool,
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
            keeps_state: false,
        }
    }

    /// The plugin has something to lose with its process, and hands it on:
    /// [`Plugin::get_state`] and [`Plugin::restore_state`] are its own.
    #[must_use]
    pub fn keeps_state(mut self) -> Self {
        self.keeps_state = true;
        self
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
