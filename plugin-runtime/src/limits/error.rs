//! What happened to a plugin that used more than it may, and why limits cannot change.

use miette::Diagnostic;
use thiserror::Error;

/// What happened to a plugin that used more than it may.
#[derive(Clone, Copy, Debug, Error, Diagnostic)]
pub(crate) enum LimitError {
    /// The kernel killed a process of the plugin because all of them together wanted
    /// more memory than they may have. A process that ends by itself because an
    /// allocation failed has crashed instead.
    #[error("the kernel killed it when it wanted more than its {limit} bytes of memory")]
    #[diagnostic(
        code("ORC-3064"),
        help(
            "raise `resources.max_memory_mb` in the plugin's manifest, or have it work in smaller pieces"
        )
    )]
    OutOfMemory { limit: u64 },
}

impl LimitError {
    /// The message with the code behind it.
    pub(crate) fn with_code(&self) -> String {
        match self.code() {
            Some(code) => format!("{self} ({code})"),
            None => self.to_string(),
        }
    }
}

/// Why limits of a plugin cannot be changed. It goes on with those that it had.
#[derive(Clone, Debug, PartialEq, Eq, Error, Diagnostic)]
#[non_exhaustive]
pub enum LimitRefusal {
    /// A limit of a plugin cannot be changed while the host runs.
    #[error("`{key}` of plugin {id} cannot be changed: {why}")]
    #[diagnostic(
        code("ORC-3065"),
        help("the plugin goes on with the limits that it had")
    )]
    Fixed {
        /// The plugin.
        id: String,
        /// The limit.
        key: &'static str,
        /// What is in the way.
        why: &'static str,
    },

    /// Plugins of trust levels 1 and 2 have a most of what they may use that the
    /// operator has set for all of them, and no single one gets more.
    #[error(
        "`{key}` of plugin {id} cannot be {asked}: the operator lets a confined plugin have at most {most}"
    )]
    #[diagnostic(
        code("ORC-3080"),
        help("ask for less, or raise `{setting}` and start the service again")
    )]
    AboveCeiling {
        /// The plugin.
        id: String,
        /// The limit.
        key: &'static str,
        /// What was asked for, in the limit's unit.
        asked: u32,
        /// What there is at most, in the same unit.
        most: u64,
        /// What sets that.
        setting: &'static str,
    },
}
