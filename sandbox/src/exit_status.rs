//! How a process ended.

use std::fmt;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// It returned this code, 0 to 255.
    Exited(i32),
    /// A signal ended it.
    Signaled {
        /// The number of the signal.
        signal: i32,
        /// Whether the kernel wrote a core file.
        core: bool,
    },
}

impl ExitStatus {
    /// Whether the process returned 0.
    pub fn success(self) -> bool {
        self == Self::Exited(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(out, "exit code {code}"),
            Self::Signaled {
                signal,
                core: false,
            } => write!(out, "signal {signal}"),
            Self::Signaled { signal, core: true } => write!(out, "signal {signal}, core dumped"),
        }
    }
}
