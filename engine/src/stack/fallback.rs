//! What answers in place of a step's call that failed.
//!
//! Outside of all other policies, so that it sees what they refuse, and so that
//! no breaker takes its answer for a success of the plugin.

use std::{
    future::ready,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use orchestrator_contract::{
    CallError, ContentType, FallbackKind, Fault, Payload, PhaseName, PhaseReply,
};
use orchestrator_plugin_runtime::BoxFuture;
use orchestrator_policies::{
    Classify, ConfigError, FallbackLayer, LastGood, Listener, PolicyEvent, clock,
};
use semver::Version;
use sha2::{Digest as _, Sha256};
use tower::{Layer as _, ServiceExt as _};

use super::{
    PhaseStack, Service,
    classify::StackCall,
    listener::{Teller, unexpected},
};
use crate::{config::FallbackConfig, journal::FellBack};

/// The last good results of a plugin. Clones share them.
#[derive(Clone)]
pub(crate) struct LastResults {
    results: LastGood<Key, PhaseReply>,
    /// Longer inputs and results are not kept.
    bytes_max: u64,
}

/// Whose result it is, and of what.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    phase: PhaseName,
    version: Version,
    tenant: Option<Arc<str>>,
    input: [u8; 32],
}

impl LastResults {
    pub(super) fn new(config: &FallbackConfig) -> Result<Self, ConfigError> {
        Ok(Self {
            results: LastGood::new(&config.last_good)?,
            bytes_max: config.result_bytes_max,
        })
    }

    /// The result that `request` may fall back to, and is to be remembered as.
    pub(crate) fn of(&self, request: &StackCall, version: &Version) -> LastResult {
        let call = request.call();
        let key = self.fits(&call.input).then(|| Key {
            phase: call.phase.clone(),
            version: version.clone(),
            tenant: call.tenant.clone(),
            input: digest(&call.input),
        });
        LastResult {
            of: self.clone(),
            key,
        }
    }

    fn fits(&self, payload: &Payload) -> bool {
        payload.len() as u64 <= self.bytes_max
    }
}

fn digest(payload: &Payload) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(payload.content_type.as_str());
    // No content type has it, so that no two inputs are one text.
    hasher.update([0]);
    hasher.update(&payload.bytes);
    hasher.finalize().into()
}

/// One of the last good results, which may not be there.
#[derive(Clone)]
pub(crate) struct LastResult {
    of: LastResults,
    /// None for an input that is too long.
    key: Option<Key>,
}

impl LastResult {
    fn remember(&self, reply: &PhaseReply) {
        let Some(key) = self.key.clone().filter(|_| self.of.fits(&reply.output)) else {
            return;
        };
        let mut reply = reply.clone();
        // It may be a small part of something large.
        reply.output = Payload::new(
            ContentType::clone(&reply.output.content_type),
            Bytes::copy_from_slice(&reply.output.bytes),
        );
        self.of.results.keep(key, reply, clock::now());
    }

    fn get(&self) -> Option<PhaseReply> {
        self.of.results.get(self.key.as_ref()?, clock::now())
    }
}

/// What stands by for one call.
#[derive(Clone)]
pub(crate) enum Standby {
    Value(Payload),
    Phase(PhaseStack, StackCall),
    LastGood(LastResult),
}

/// Calls a phase; `standby` answers if that fails, and then the second part
/// says so. Dropping the future cancels whichever call is under way.
pub(crate) async fn call(
    service: Service,
    request: StackCall,
    standby: Standby,
    repeatable: bool,
    teller: Teller,
) -> (Result<PhaseReply, CallError>, Option<Box<FellBack>>) {
    let occasion = Arc::new(Occasion {
        request: request.clone(),
        teller,
        failed: OnceLock::new(),
        answered: OnceLock::new(),
    });
    let substitute = Substitute {
        standby,
        occasion: Arc::clone(&occasion),
    };
    let layer = FallbackLayer::new(StepClassify { repeatable }, substitute);
    let listener = Arc::clone(&occasion) as Arc<dyn Listener>;
    let service = layer.with_listener(listener).layer(service);
    let result = service.oneshot(request).await;
    (result, occasion.fell_back())
}

/// One call that may fall back.
struct Occasion {
    request: StackCall,
    teller: Teller,
    /// Why the call failed.
    failed: OnceLock<CallError>,
    /// What answered in its place.
    answered: OnceLock<FallbackKind>,
}

impl Occasion {
    fn fell_back(&self) -> Option<Box<FellBack>> {
        let (by, error) = (*self.answered.get()?, self.failed.get()?.clone());
        Some(Box::new(FellBack { by, error }))
    }

    fn tell(&self, by: FallbackKind, answered: bool) {
        if let Some(error) = self.failed.get() {
            self.teller.fell_back(&self.request, by, answered, error);
        }
    }
}

impl Listener for Occasion {
    fn on_event(&self, event: &PolicyEvent) {
        match event {
            PolicyEvent::FellBack { by, .. } => {
                let by = *self.answered.get_or_init(|| kind(*by));
                self.tell(by, true);
            }
            PolicyEvent::FallbackFailed { by, .. } => self.tell(kind(*by), false),
            other => unexpected(other),
        }
    }
}

fn kind(kind: orchestrator_policies::FallbackKind) -> FallbackKind {
    use orchestrator_policies::FallbackKind as Kind;

    match kind {
        Kind::Value => FallbackKind::Value,
        Kind::Service => FallbackKind::Phase,
        Kind::LastGood => FallbackKind::LastGood,
    }
}

#[derive(Clone)]
struct Substitute {
    standby: Standby,
    occasion: Arc<Occasion>,
}

type Answer = Result<PhaseReply, CallError>;

impl orchestrator_policies::fallback::Substitute<StackCall, PhaseReply, CallError> for Substitute {
    type Kept = ();
    type Future = BoxFuture<'static, Answer>;

    fn keep(&self, _: &StackCall) {}

    fn learn(&self, (): (), reply: &PhaseReply) {
        if let Standby::LastGood(last) = &self.standby {
            last.remember(reply);
        }
    }

    fn answer(&self, (): (), failed: &Answer) -> Option<Self::Future> {
        let Err(error) = failed else { return None };
        let error = self.occasion.failed.get_or_init(|| error.clone());
        Some(match &self.standby {
            Standby::Value(value) => Box::pin(ready(Ok(PhaseReply::new(value.clone())))),
            Standby::Phase(stack, request) => {
                Box::pin(stack.service.clone().oneshot(request.clone()))
            }
            Standby::LastGood(last) => {
                let answer = last.get().ok_or_else(|| error.clone());
                Box::pin(ready(answer))
            }
        })
    }

    fn kind(&self) -> orchestrator_policies::FallbackKind {
        use orchestrator_policies::FallbackKind as Kind;

        match self.standby {
            Standby::Value(_) => Kind::Value,
            Standby::Phase(..) => Kind::Service,
            Standby::LastGood(_) => Kind::LastGood,
        }
    }
}

/// Which failures a fallback is for.
#[derive(Clone, Copy)]
struct StepClassify {
    /// Whether doing it twice does no more than doing it once.
    repeatable: bool,
}

impl Classify<StackCall, PhaseReply, CallError> for StepClassify {
    /// Failures of the plugin and refusals of the policies. Not what the plugin
    /// says no to, which is an answer; not what somebody cancelled; and not what
    /// may happen only once and perhaps has, of which a person has to decide.
    fn falls_back(&self, result: &Answer) -> bool {
        result.as_ref().is_err_and(|error| {
            error.fault() != Fault::Caller && (self.repeatable || !error.may_have_happened())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallback_is_for_failures_and_refusals_alone() {
        let falls_back = |repeatable, error: CallError| {
            let classify = StepClassify { repeatable };
            classify.falls_back(&Err(error))
        };
        for repeatable in [true, false] {
            assert!(falls_back(repeatable, CallError::transient("busy")));
            let open = CallError::CircuitOpen { retry_after_ms: 1 };
            assert!(falls_back(repeatable, open));
            assert!(!falls_back(repeatable, CallError::permanent("no")));
            assert!(!falls_back(repeatable, CallError::invalid_input("no")));
            let reason = "enough".to_owned();
            assert!(!falls_back(repeatable, CallError::Cancelled { reason }));
            // What may happen only once, and may have, is not to look done.
            let message = "oh".to_owned();
            assert_eq!(
                falls_back(repeatable, CallError::Panic { message }),
                repeatable
            );
        }
    }
}
