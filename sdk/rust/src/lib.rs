//! What a plugin author uses: implement [`Plugin`], hand it to [`serve`].
//!
//! ```no_run
#![doc = include_str!("../examples/shout.rs")]
//! ```
//!
//! One program answers in two ways, and the author does not choose:
//!
//! * as kind `exec`, one process per call: `shout execute shout` reads the
//!   input on stdin and writes the output on stdout; `shout validate` checks
//!   the configuration; `shout info` says what the plugin is. All three work by
//!   hand: `echo '"hello"' | shout execute shout`.
//! * as kind `node`, one process for many calls at once, when the host left a
//!   socket in `ORCHESTRATOR_NODE_FD`. Faster, and a call may use the session.
//!
//! stdout and stderr belong to the plugin in both: `println!` shows up in the
//! host's log and never in an output.
//!
//! The host's side is not here: whether a plugin is trusted, confined, retried
//! or given up is decided by the host, and nothing a plugin calls here changes
//! that.
//!
//! Start with [`Plugin`], then [`Context`], then [`Error`].

mod cancellation;
mod context;
mod error;
mod exec;
mod input;
mod node;
mod plugin;
mod reply;
mod serve;
mod setup;
mod unwind;

pub use context::{Context, Session};
pub use error::Error;
pub use input::Input;
pub use plugin::{Info, Plugin};
pub use reply::Reply;
pub use serve::serve;
pub use setup::Setup;

pub use orchestrator_contract::{
    ContentType, Criticality, JSON, LogLevel, Payload, PhaseReply, Reconciled, RunId, SessionId,
    StepId, TEXT, TraceContext, Usage,
};
