//! Runs plugins: finds packages, loads what is verified and granted, starts
//! processes, carries calls to them and watches what they use. One file per kind.
//!
//! This crate must not decide whether a call is tried again, how many calls are let
//! through or what a run does with a failure: that is the engine's. It reads no
//! configuration file, and of the environment only what an operator granted to a plugin,
//! opens no port, and starts native programs only through `orchestrator-sandbox` and only
//! from bytes that `orchestrator-signing` verified.
//!
//! ```
//! # use std::{collections::BTreeMap, sync::Arc};
//! # use orchestrator_contract::{NoEvents, NoHost};
//! # use orchestrator_plugin_runtime::*;
//! # async fn example(paths: RuntimePaths) -> Result<(), Box<dyn std::error::Error>> {
//! let hello = Builtin::phase("hello", "1.0.0", "greet", async |call, _| Ok(call.input))?;
//! let runtime = Runtime::start(
//!     RuntimeSettings::default(),
//!     paths,
//!     "1.0.0".parse()?,
//!     BTreeMap::new(),
//!     vec![hello],
//!     Arc::new(NoEvents),
//!     Arc::new(NoHost),
//! )
//! .await?;
//! let hello = runtime.resolve("hello", &"^1".parse()?)?; // a tower::Service of phase calls
//! # Ok(()) }
//! ```
//!
//! Start with [`Runtime`], then [`PluginHandle`], then `entry.rs`, where a call finds
//! its kind.
//!
//! | to see | read |
//! |---|---|
//! | how packages are found | `search_path.rs`, `discovery.rs` |
//! | why one is refused | `load.rs`, `dependencies.rs`, `limits.rs` |
//! | what holds one to its grants | `confinement.rs` |
//! | what it would have to be granted | `learn.rs` |
//! | a plugin's life | `lifecycle.rs`, `entry.rs`, `supervisor.rs`, `health.rs`, `moment.rs` |
//! | how it goes on with a new release | `reload.rs`, `registry.rs` |
//! | which version is meant | `dependencies.rs`, `channel.rs` |
//! | the kinds | `builtin.rs`, `exec.rs`, `node.rs` |
//! | what their outputs must be | `output.rs`, `media_type.rs` |
//! | what is said about it | `logs.rs`, `progress.rs`, `outlet.rs`, `monitor.rs`, `violations.rs`, `status.rs`, `unused.rs` |

mod builtin;
pub mod byte_size;
mod channel;
mod confinement;
mod dependencies;
mod discovery;
pub mod egress;
mod entry;
mod error;
mod exec;
mod handle;
mod health;
mod learn;
mod lifecycle;
mod limits;
mod load;
mod logs;
mod media_type;
mod moment;
mod monitor;
mod node;
mod outlet;
mod output;
mod plugin;
mod problem;
mod process;
mod program;
mod progress;
mod registry;
mod reload;
mod runtime;
mod search_path;
mod settings;
mod status;
mod supervisor;
mod unused;
mod validator;
mod violations;
mod withdraw;

pub use builtin::{Builtin, IntoReply};
pub use confinement::{
    AbsentLayer, HostConfinement, LayerOfHost, LevelOfHost, Sandbox, SandboxStatus,
    confinement_of_host,
};
pub use discovery::{Discovery, DiscoveryFault, Found, discover};
pub use entry::CallFuture;
pub use error::{ResolveError, RuntimeError};
pub use handle::PluginHandle;
pub use health::{HealthMetrics, PluginHealth};
pub use learn::{Lessons, Proposal, Withheld};
pub use lifecycle::{LastProblem, StateChange};
pub use limits::{
    HeldLimit, LimitChange, LimitOfHost, LimitRefusal, Policy as LimitPolicy,
    Watch as PluginLimits, limits_of_host,
};
pub use plugin::{BoxFuture, CallContext, Plugin, Session};
pub use problem::{PluginProblem, ProblemClass};
pub use reload::{HandedOn, Reloaded};
pub use runtime::{Runtime, RuntimePaths};
pub use search_path::{SearchEntry, SearchPath, Surroundings};
pub use settings::{
    ExecSettings, Level3, LogSettings, MonitorSettings, NodeSettings, PolicySettings,
    ReloadSettings, RestartSettings, RuntimeSettings, SandboxSettings, StartMode,
};
pub use status::{DependencyStatus, PhaseStatus, PluginStatus};
pub use validator::{Operation, SecurityValidator, Validator, Veto};
pub use violations::{UnreadViolations, Violation};
