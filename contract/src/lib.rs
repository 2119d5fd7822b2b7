//! The words every Orchestrator crate shares.
//!
//! This crate does no I/O, starts no task and reads no clock, so every other
//! crate may use it, a plugin compiled to WebAssembly included.
//!
//! | word | meaning |
//! |---|---|
//! | plugin | a signed package: manifest, entry, assets |
//! | phase | one named operation of one plugin |
//! | pipeline | declared graph of steps; a step names a phase and its input |
//! | run | one execution of a pipeline |
//! | session | the context that the phases of a run share |
//! | call | one request to one phase |
//! | attempt | one try at a call |
//! | breaker | *closed* lets calls flow, *open* refuses them, *half-open* lets a few probes through |
//!
//! Start with [`PhaseCall`], then [`CallError`], then [`frame`] for the words
//! as they travel to a plugin in another process.

mod call;
mod error;
mod event;
pub mod frame;
mod host;
mod id;
pub mod patience;
mod payload;
mod terminal;
mod trace;

pub use call::{Criticality, PhaseCall, PhaseReply, Reconciled, Usage};
pub use error::{CallError, ErrorKind, Fault, RetryAdvice, TimeoutScope};
pub use event::{
    BreakerState, DenialRule, Event, EventSink, FallbackKind, LogLevel, LogStream, NoEvents,
    PluginState, RefusedBy, ReloadOutcome, RunOutcome, StepOutcome, ViolationAction,
};
pub use host::{HostCallError, HostFuture, HostOperation, HostService, NoHost};
pub use id::{PhaseName, PluginId, RunId, SessionId, StepId};
pub use payload::{ContentType, JSON, Payload, TEXT};
pub use terminal::{harmless_within, hides_or_reorders, steers_terminals};
pub use trace::{SpanId, TraceContext, TraceContextError, TraceId};
