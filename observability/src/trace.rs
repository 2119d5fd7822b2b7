//! Which trace the current task belongs to.
//!
//! A task-local and not a `tracing` span per call: entering a span costs several
//! hundred nanoseconds even where nobody looks, reading this costs a few.

use std::future::Future;

use orchestrator_contract::TraceContext;
use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    static CURRENT: TraceContext;
}

/// Runs `future` as part of `trace`: log lines written inside it carry the
/// trace's ids. Tasks it spawns are not inside it. Dropping it drops `future`.
pub fn with_trace<F: Future>(trace: TraceContext, future: F) -> TaskLocalFuture<TraceContext, F> {
    CURRENT.scope(trace, future)
}

/// Runs `work` as part of `trace`.
pub fn in_trace<R>(trace: TraceContext, work: impl FnOnce() -> R) -> R {
    CURRENT.sync_scope(trace, work)
}

/// The trace that the current task belongs to, where it belongs to one.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|trace| *trace).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_trace_counts_and_ends_with_its_scope() {
        let outer = TraceContext::from_random(1, 1, true);
        let inner = outer.child(2);
        assert_eq!(current(), None);
        in_trace(outer, || {
            assert_eq!(current(), Some(outer));
            in_trace(inner, || assert_eq!(current(), Some(inner)));
            assert_eq!(current(), Some(outer));
        });
        assert_eq!(current(), None);
    }
}
