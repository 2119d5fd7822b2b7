//! Whose call is being worked on.
//!
//! Policies tell what they do without saying for whom, for they know nothing
//! of runs and steps. They tell it while the call is polled, though.

use super::classify::StackCall;

tokio::task_local! {
    static CURRENT: StackCall;
}

/// Does a part of the work on `call`.
pub(super) fn during<T>(call: &StackCall, work: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(call.clone(), work)
}

/// The call that is being worked on, if one is.
pub(super) fn current() -> Option<StackCall> {
    CURRENT.try_with(StackCall::clone).ok()
}
