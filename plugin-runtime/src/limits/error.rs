//! What happened to a plugin that used more than it may.

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
