//! Puts plugins and policies together: pipelines in, durable runs out.
//!
//! The engine opens no socket, prints nothing and reads no arguments; whoever
//! embeds it does. It reads the environment in `config/sources.rs` and
//! `engine/builder.rs` alone.
//!
//! Start with [`Engine`] in `engine.rs`, follow a call through `stack.rs`, and
//! a run through `run.rs`.

#[doc(hidden)]
pub mod bench;
mod builtin;
mod bus;
mod caught;
pub mod config;
mod disabled;
mod engine;
mod error;
mod evaluate;
mod health;
mod history;
mod home;
pub mod journal;
pub mod pipeline;
mod plan;
mod report;
mod request;
mod run;
pub mod session;
mod stack;

pub use bus::{EventItem, EventStream};
pub use disabled::Disabled;
pub use engine::{DrainReport, Engine, EngineBuilder, Resolution, Resumed, RunHandle};
pub use error::{EngineError, ErrorClass};
pub use history::RunHistory;
pub use home::{Home, HomeError};
pub use orchestrator_contract as contract;
pub use orchestrator_plugin_runtime::{
    Builtin, CallContext, LimitChange, LimitPolicy, Operation, Plugin, SecurityValidator, Veto,
};
pub use report::{Describe, OutputView, RunOverview, RunReport, StepReport};
pub use request::RunRequest;
