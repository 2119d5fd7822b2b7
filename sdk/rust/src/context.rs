//! What a call knows and may do besides its input.

mod session;

use std::{fmt::Display, sync::Arc, time::Duration};

use orchestrator_contract::{
    Criticality, LogLevel, RunId, SessionId, StepId, TraceContext, frame::CallHeader,
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use session::Session;

use crate::{Error, Setup, cancellation::Cancellation, exec::stderr, node::Link};

/// What a call knows and may do besides its input.
///
/// Clones are the same context, for tasks that the call starts.
#[derive(Clone, Debug)]
pub struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    header: CallHeader,
    deadline: Option<Instant>,
    setup: Arc<Setup>,
    cancellation: Cancellation,
    channel: Channel,
}

/// How a context reaches the host.
#[derive(Debug)]
pub(crate) enum Channel {
    /// Through stderr.
    Exec,
    /// Through frames.
    Node(Arc<Link>),
}

impl Context {
    pub(crate) fn new(header: CallHeader, setup: Arc<Setup>, channel: Channel) -> Self {
        let deadline = header
            .timeout_ms
            .and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
        Self(Arc::new(Inner {
            header,
            deadline,
            setup,
            cancellation: Cancellation::default(),
            channel,
        }))
    }

    /// The run; all zero when started by hand.
    pub fn run(&self) -> RunId {
        self.0.header.run
    }

    /// The step of the run's pipeline; `manual` when started by hand.
    pub fn step(&self) -> &StepId {
        &self.0.header.step
    }

    /// Which try this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.0.header.attempt
    }

    /// The same for every attempt of a step, also after a crash: give it to
    /// whatever must not do the work twice. `manual` when started by hand.
    pub fn idempotency_key(&self) -> &str {
        &self.0.header.idempotency_key
    }

    /// On whose behalf the call is made.
    pub fn tenant(&self) -> Option<&str> {
        self.0.header.tenant.as_deref()
    }

    /// How much it matters to whoever waits.
    pub fn criticality(&self) -> Criticality {
        self.0.header.criticality
    }

    /// Where the call stands in its trace; `Display` writes a `traceparent`.
    pub fn trace(&self) -> TraceContext {
        self.0.header.traceparent
    }

    /// The id of the session that the run's phases share; all zero when started
    /// by hand. See [`Self::session`] for what is in it.
    pub fn session_id(&self) -> SessionId {
        self.0.header.session
    }

    /// How long the host will still wait; `None` when it does not say.
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the host no longer wants the answer. Ask between pieces of a
    /// long computation.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancellation.is_cancelled()
    }

    /// Resolves when the host no longer wants the answer; never otherwise.
    /// Dropping it has no effect.
    pub async fn cancelled(&self) {
        self.0.cancellation.cancelled().await;
    }

    /// Says how far the call is, in hundredths. Never waits: what the host is
    /// too slow to take is dropped.
    pub fn progress(&self, percent: impl Into<Option<u8>>, message: impl Display) {
        let percent = percent.into().map(|percent| percent.min(100));
        let message = message.to_string();
        match &self.0.channel {
            Channel::Node(link) => link.progress(self.0.header.call, percent, message),
            Channel::Exec => match percent {
                Some(percent) => stderr(LogLevel::Debug, &format!("{percent}% {message}")),
                None => stderr(LogLevel::Debug, &message),
            },
        }
    }

    /// Writes a line into the host's log, with this call's trace. Never waits:
    /// what the host is too slow to take is counted and dropped. No secrets.
    pub fn log(&self, level: LogLevel, message: impl Display) {
        let message = message.to_string();
        match &self.0.channel {
            Channel::Node(link) => link.log(Some(self.0.header.call), level, message),
            Channel::Exec => stderr(level, &message),
        }
    }

    /// What the operator decided about this plugin.
    pub fn setup(&self) -> &Setup {
        &self.0.setup
    }

    /// See [`Setup::config`].
    ///
    /// # Errors
    ///
    /// When the configuration is not a `T`.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.setup().config()
    }

    /// See [`Setup::grants`].
    pub fn grants(&self) -> &[String] {
        self.setup().grants()
    }

    /// See [`Setup::granted`].
    pub fn granted(&self, capability: &str) -> impl Iterator<Item = &str> {
        self.setup().granted(capability)
    }

    /// The values that the run's phases share. Kind `node` only.
    pub fn session(&self) -> Session<'_> {
        let link = match &self.0.channel {
            Channel::Node(link) => Some(&**link),
            Channel::Exec => None,
        };
        Session::new(link, self.0.header.call)
    }

    pub(crate) fn phase(&self) -> &str {
        self.0.header.phase.as_str()
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    pub(crate) fn cancellation(&self) -> &Cancellation {
        &self.0.cancellation
    }
}
