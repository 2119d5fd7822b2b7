//! What a plugin compiled into the host implements, and what it is given.

use std::{fmt, future::ready, pin::Pin, sync::Arc};

use orchestrator_contract::{
    CallError, HostCallError, HostOperation, HostService, LogLevel, LogStream, PhaseCall,
    PhaseName, PhaseReply, Reconciled, RunId, SessionId, StepId, TraceContext,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{logs::Origin, outlet::Outlet};

/// A future on the heap.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A plugin compiled into the host.
///
/// Only [`call`](Self::call) has to be written. The hooks run in this order:
/// `init`, `start`, `health`, then calls, then `stop`, `destroy`. A hook that
/// fails leaves the plugin in state `error`; its message is shown to people.
///
/// Dropping a call's future cancels the call, so nothing may be left half done
/// between two awaits.
pub trait Plugin: Send + Sync + 'static {
    /// Runs one phase.
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        context: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>>;

    /// Says what became of an earlier call whose end the engine did not see.
    fn reconcile(&self, phase: &PhaseName, idempotency_key: &str) -> BoxFuture<'_, Reconciled> {
        let _ = (phase, idempotency_key);
        Box::pin(ready(Reconciled::Unknown))
    }

    /// Takes the plugin's configuration, an object.
    fn init<'a>(&'a self, config: &'a Value) -> BoxFuture<'a, Result<(), String>> {
        let _ = config;
        Box::pin(ready(Ok(())))
    }

    /// Gets ready for calls.
    fn start(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(ready(Ok(())))
    }

    /// Says whether calls can be answered, right after `start`.
    fn health(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(ready(Ok(())))
    }

    /// Ends what `start` began. Runs when no call is in flight any more, or when
    /// the grace period is over.
    fn stop(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(ready(Ok(())))
    }

    /// Gives back what `init` took.
    fn destroy(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(ready(Ok(())))
    }
}

/// What a builtin plugin can do besides answering. Cheap to clone.
#[derive(Clone)]
pub struct CallContext {
    outlet: Arc<Outlet>,
    config: Arc<Value>,
    origin: Origin,
    session: SessionId,
}

impl CallContext {
    pub(crate) fn new(outlet: Arc<Outlet>, config: Arc<Value>, call: &PhaseCall) -> Self {
        Self {
            outlet,
            config,
            origin: Origin::of(call),
            session: call.session,
        }
    }

    /// Says how far the call is: hundredths done where known, and at what.
    pub fn progress(&self, percent: Option<u8>, message: &str) {
        self.outlet.progress(&self.origin, percent, message);
    }

    /// Writes a log line. Lines over the plugin's rate limit are counted and
    /// dropped.
    pub fn log(&self, level: LogLevel, message: &str) {
        self.outlet
            .log(LogStream::Protocol, level, message, Some(&self.origin));
    }

    /// The context that the phases of this run share.
    pub fn session(&self) -> Session {
        Session {
            outlet: Arc::clone(&self.outlet),
            id: self.session,
        }
    }

    /// The plugin's configuration, an object; empty when it has none.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The plugin's configuration as a `T`.
    ///
    /// # Errors
    ///
    /// When the configuration is not a `T`.
    pub fn config_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&*self.config)
    }

    /// The run this call belongs to.
    pub fn run(&self) -> RunId {
        self.origin.run
    }

    /// The step this call belongs to.
    pub fn step(&self) -> &StepId {
        &self.origin.step
    }

    /// Where the call stands in its trace.
    pub fn trace(&self) -> TraceContext {
        self.origin.trace
    }
}

impl fmt::Debug for CallContext {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("CallContext")
            .field("plugin", &self.outlet.plugin())
            .field("run", &self.origin.run)
            .field("step", &self.origin.step)
            .finish_non_exhaustive()
    }
}

/// The context that the phases of a run share, as one plugin sees it. Dropping a
/// question's future abandons it; a change that was already made stays.
#[derive(Clone)]
pub struct Session {
    outlet: Arc<Outlet>,
    id: SessionId,
}

impl Session {
    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The value of `key`, or null.
    ///
    /// # Errors
    ///
    /// What the host says.
    pub async fn get(&self, key: &str) -> Result<Value, HostCallError> {
        self.ask(HostOperation::SessionGet { key: key.into() })
            .await
    }

    /// Sets `key`.
    ///
    /// # Errors
    ///
    /// What the host says; mostly a size or count out of bounds.
    pub async fn set(&self, key: &str, value: Value) -> Result<(), HostCallError> {
        let key = key.into();
        self.ask(HostOperation::SessionSet { key, value }).await?;
        Ok(())
    }

    /// Removes `key`, and says whether it was there.
    ///
    /// # Errors
    ///
    /// What the host says.
    pub async fn delete(&self, key: &str) -> Result<bool, HostCallError> {
        let answer = self.ask(HostOperation::SessionDelete { key: key.into() });
        Ok(answer.await? == Value::Bool(true))
    }

    /// Every key, sorted.
    ///
    /// # Errors
    ///
    /// What the host says.
    pub async fn keys(&self) -> Result<Vec<String>, HostCallError> {
        let answer = self.ask(HostOperation::SessionKeys).await?;
        serde_json::from_value(answer).map_err(|error| HostCallError::Failed {
            message: error.to_string(),
        })
    }

    async fn ask(&self, operation: HostOperation) -> Result<Value, HostCallError> {
        let host: &dyn HostService = self.outlet.host();
        host.answer(self.outlet.plugin(), self.id, operation).await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Session").field(&self.id).finish()
    }
}
