//! Turns a panic of the service into an error.
//!
//! For: a service in the same process, whose panic would otherwise end the
//! task of its caller and tell the breaker nothing. Goes innermost.
//!
//! Not for: builds with `panic = "abort"`, where there is nothing to catch;
//! and it cannot mend state that the panic left half changed. A service that
//! shares state with others should survive its own panics.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, UnwindSafe, catch_unwind},
    task::{Context, Poll},
};

use crate::{
    admission::{Admission, Call, End},
    classify::Classify,
    refusal::Refusal,
    retry::Once,
    stack::Policies,
};

/// A longer panic message is cut to this many bytes.
const MESSAGE_MAX: usize = 1024;

/// Has a stack answer with [`Refusal::Panicked`] when the service panics:
/// while it gets ready, in `call`, while its future is polled, or when that is
/// dropped after a panic.
#[derive(Clone, Copy, Debug, Default)]
pub struct CatchPanic;

/// [`CatchPanic`] alone, as a layer. Needs to know nothing of requests and
/// results.
pub type CatchPanicLayer = Policies<Unclassified, (), Once, CatchPanic>;

impl CatchPanicLayer {
    /// Catches panics.
    #[must_use]
    pub fn new() -> Self {
        Self::assemble(Unclassified, (), Once, CatchPanic)
    }
}

impl Default for CatchPanicLayer {
    fn default() -> Self {
        Self::new()
    }
}

/// Keeps every default of [`Classify`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Unclassified;

impl<Req, Res, Err> Classify<Req, Res, Err> for Unclassified {}

/// Lets every call in. The stack does the catching.
impl<Req, Res, Err> Admission<Req, Res, Err> for CatchPanic {
    type Hold = ();

    const PER_CALL: bool = false;

    const WAITS: bool = false;

    const TIMES_ENTRY: bool = false;

    const TIMES_END: bool = false;

    const CATCHES_PANICS: bool = true;

    #[inline]
    fn poll_admit(
        &self,
        (): &mut (),
        _: &mut Call,
        _: &Req,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), Refusal>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn settle(&self, (): &mut (), _: &mut Call, _: &End<'_, Res, Err>) {}
}

/// Does `work`, and makes the refusal if it panics.
#[inline]
pub(crate) fn catch(work: impl FnOnce() + UnwindSafe) -> Result<(), Refusal> {
    catch_unwind(work).map_err(refusal)
}

#[cold]
fn refusal(payload: Box<dyn Any + Send>) -> Refusal {
    let message = message(&*payload);
    // What a panic leaves behind may panic again when it is dropped.
    discard(AssertUnwindSafe(|| drop(payload)));
    Refusal::Panicked { message }
}

/// Runs `cleanup` and gives up on it if it panics; what its own panic leaves
/// behind is leaked, so that this ends.
pub(crate) fn discard(cleanup: impl FnOnce() + UnwindSafe) {
    if let Err(payload) = catch_unwind(cleanup) {
        std::mem::forget(payload);
    }
}

/// What the panic said, cut to [`MESSAGE_MAX`].
fn message(payload: &(dyn Any + Send)) -> String {
    let text = if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "a panic without a message"
    };
    text[..text.floor_char_boundary(MESSAGE_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Ready, ready},
        pin::Pin,
    };

    use tower::{Layer, Service, ServiceExt, service_fn};

    use super::*;
    use crate::testing::{Fault, recorder};

    fn panicked(message: &str) -> Result<u32, Fault> {
        let message = message.to_owned();
        Err(Fault::Refused(Refusal::Panicked { message }))
    }

    #[tokio::test]
    async fn a_panic_while_polled_becomes_an_error_and_is_told() {
        let (listener, events) = recorder();
        let service = CatchPanicLayer::new()
            .with_listener(listener)
            .layer(service_fn(|n: u32| async move {
                tokio::task::yield_now().await;
                if n == 0 {
                    Err(Fault::Broken)
                } else {
                    panic!("number {n}")
                }
            }));

        assert_eq!(service.clone().oneshot(7).await, panicked("number 7"));
        assert_eq!(service.oneshot(0).await, Err(Fault::Broken));
        assert_eq!(events.names(), ["refused panic"]);
    }

    #[tokio::test]
    async fn a_panic_in_call_becomes_an_error() {
        fn call(n: u32) -> Ready<Result<u32, Fault>> {
            if n == 7 {
                panic!("in call")
            } else {
                ready(Ok(n))
            }
        }
        let service = CatchPanicLayer::new().layer(service_fn(call));

        assert_eq!(service.clone().oneshot(7).await, panicked("in call"));
        assert_eq!(service.oneshot(1).await, Ok(1));
    }

    #[derive(Clone)]
    struct PanicsWhenAskedToBeReady;

    impl Service<u32> for PanicsWhenAskedToBeReady {
        type Response = u32;
        type Error = Fault;
        type Future = Ready<Result<u32, Fault>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Fault>> {
            panic!("not ready")
        }

        fn call(&mut self, n: u32) -> Self::Future {
            ready(Ok(n))
        }
    }

    #[tokio::test]
    async fn a_panic_in_poll_ready_becomes_an_error() {
        let service = CatchPanicLayer::new().layer(PanicsWhenAskedToBeReady);

        assert_eq!(service.oneshot(1).await, panicked("not ready"));
    }

    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    struct PanicsTwice {
        _held: PanicsWhenDropped,
    }

    impl Future for PanicsTwice {
        type Output = Result<u32, Fault>;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            std::panic::panic_any(PanicsWhenDropped)
        }
    }

    #[tokio::test]
    async fn neither_the_payload_nor_the_future_may_panic_on() {
        let service = service_fn(|_: u32| PanicsTwice {
            _held: PanicsWhenDropped,
        });

        let result = CatchPanicLayer::new().layer(service).oneshot(1).await;

        assert_eq!(result, panicked("a panic without a message"));
    }

    #[tokio::test]
    async fn a_long_message_is_cut_between_characters() {
        let service = service_fn(|_: u32| -> Ready<Result<u32, Fault>> {
            panic!("a{}", "é".repeat(MESSAGE_MAX))
        });

        let result = CatchPanicLayer::new().layer(service).oneshot(1).await;

        let Err(Fault::Refused(Refusal::Panicked { message })) = result else {
            panic!("{result:?}")
        };
        assert_eq!(message.len(), MESSAGE_MAX - 1);
    }
}
