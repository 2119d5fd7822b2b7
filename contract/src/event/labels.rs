//! The words of events that are also values of labels: closed sets.

use serde::{Deserialize, Serialize};

/// An enum that is also a closed set of label values.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $label:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $label)] $variant),+
        }

        impl $name {
            /// Every value.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The value in snake_case.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }
    };
}

labels! {
    /// How a run ended.
    RunOutcome {
        /// Every required step succeeded, and so did the others.
        Success => "success",
        /// Every required step succeeded, another did not.
        Degraded => "degraded",
        /// A required step failed.
        Failed => "failed",
        /// Somebody ended it.
        Cancelled => "cancelled",
    }
}

impl RunOutcome {
    /// Whether the run's outputs are there.
    pub const fn has_outputs(self) -> bool {
        matches!(self, Self::Success | Self::Degraded)
    }
}

labels! {
    /// How a step ended.
    StepOutcome {
        /// It has an output.
        Success => "success",
        /// It has an error.
        Failed => "failed",
        /// Its condition was false.
        Skipped => "skipped",
        /// Somebody ended it.
        Cancelled => "cancelled",
        /// The engine stopped between its start and its end, and nobody knows
        /// whether its effect happened.
        Unknown => "unknown",
    }
}

labels! {
    /// Which policy refused a call.
    RefusedBy {
        /// The total deadline had passed.
        Deadline => "deadline",
        /// The rate limit.
        RateLimit => "rate_limit",
        /// The breaker.
        Breaker => "breaker",
        /// The bulkhead.
        Bulkhead => "bulkhead",
        /// More important calls came first.
        Shed => "shed",
    }
}

labels! {
    /// What is asked in place of a call that failed.
    FallbackKind {
        /// A value of the pipeline.
        Value => "value",
        /// A phase of another plugin.
        Phase => "phase",
        /// The last good result.
        LastGood => "last_good",
    }
}

labels! {
    /// The state of a breaker.
    BreakerState {
        /// Calls flow.
        Closed => "closed",
        /// Calls are refused.
        Open => "open",
        /// A few probes flow.
        HalfOpen => "half_open",
    }
}

labels! {
    /// Where a plugin stands in its life.
    PluginState {
        /// Its manifest was read.
        Discovered => "discovered",
        /// Its signature and grants were checked.
        Verified => "verified",
        /// It is in the registry.
        Loaded => "loaded",
        /// It answered `validate` or its handshake and has its configuration.
        Initialized => "initialized",
        /// Its process is being started.
        Starting => "starting",
        /// It takes calls.
        Running => "running",
        /// An operator keeps it from taking calls.
        Disabled => "disabled",
        /// It finishes its calls and takes no more.
        Stopping => "stopping",
        /// It has stopped.
        Stopped => "stopped",
        /// It is out of the registry.
        Unloaded => "unloaded",
        /// It could not be brought further.
        Error => "error",
        /// It ended too often and is not started again by itself.
        CrashLoop => "crash_loop",
    }
}

labels! {
    /// How a reload ended.
    ReloadOutcome {
        /// The new one serves.
        Switched => "switched",
        /// Nothing has changed.
        Failed => "failed",
    }
}

labels! {
    /// Where a plugin's line came from.
    LogStream {
        /// Standard output.
        Stdout => "stdout",
        /// Standard error.
        Stderr => "stderr",
        /// A `Log` frame.
        Protocol => "protocol",
    }
}

labels! {
    /// How serious a line is.
    LogLevel {
        /// Every detail.
        Trace => "trace",
        /// For whoever looks for a fault.
        Debug => "debug",
        /// Normal course of things.
        Info => "info",
        /// Something to look at.
        Warn => "warn",
        /// Something failed.
        Error => "error",
    }
}

labels! {
    /// Why a plugin was refused something.
    DenialRule {
        /// No grant names it.
        NotGranted => "not_granted",
        /// The name leads to addresses that are not public alone, and no grant names those.
        NotPublic => "not_public",
        /// It is in no spelling that has one meaning alone.
        Malformed => "malformed",
        /// The plugin has as many connections as it may have.
        TooManyConnections => "too_many_connections",
        /// It was granted, and the program that embeds the engine denies it.
        Vetoed => "vetoed",
        /// The kernel ended the process for a system call of another interface than the
        /// machine's own, which nothing grants.
        SystemCall => "system_call",
    }
}

labels! {
    /// What was done about a violation.
    ViolationAction {
        /// It was reported.
        Warn => "warn",
        /// It gets no more than it may have.
        Throttle => "throttle",
        /// The process tree was killed.
        Kill => "kill",
    }
}

impl ViolationAction {
    /// How serious a line about it is.
    pub const fn level(self) -> LogLevel {
        match self {
            Self::Warn | Self::Throttle => LogLevel::Warn,
            Self::Kill => LogLevel::Error,
        }
    }
}
