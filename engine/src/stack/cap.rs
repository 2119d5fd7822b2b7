//! One cap for the attempts at a step and at all that it calls.
//!
//! A phase that is compiled in may run pipelines itself. Were each of three
//! layers to make three attempts, the innermost phase would be called 27 times
//! for one step. So what a step begins is under the step's cap: the first
//! attempt of every call is free, and all further ones together are as many as
//! the step itself may make.

use std::num::NonZeroU32;

use orchestrator_policies::AttemptBudget;
use tokio::task::futures::TaskLocalFuture;

tokio::task_local! {
    static CAP: AttemptBudget;
}

/// The cap of a step that may be tried `most` times, when its next attempt is
/// number `attempt`: those before a resume count. Within another step's call,
/// that step's cap is the one that counts.
pub(crate) fn of_step(
    within: Option<&AttemptBudget>,
    most: NonZeroU32,
    attempt: u32,
) -> AttemptBudget {
    let left = most.get().saturating_sub(attempt.saturating_sub(1));
    let left = || NonZeroU32::new(left).unwrap_or(NonZeroU32::MIN);
    within
        .cloned()
        .unwrap_or_else(|| AttemptBudget::new(left()))
}

/// Has `call` and the runs that its task begins share `cap`. Tasks that it
/// spawns are not under it.
pub(crate) fn under<F: Future>(cap: AttemptBudget, call: F) -> TaskLocalFuture<AttemptBudget, F> {
    CAP.scope(cap, call)
}

/// The cap of the step whose call this task makes, where it makes one.
pub(crate) fn current() -> Option<AttemptBudget> {
    CAP.try_with(AttemptBudget::clone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_before_a_resume_count_and_an_outer_cap_goes_first() {
        let most = NonZeroU32::new(3).unwrap();
        let left = |attempt| of_step(None, most, attempt).left();
        assert_eq!([1, 2, 3, 4, 9].map(left), [2, 1, 0, 0, 0]);

        let outer = AttemptBudget::new(NonZeroU32::MIN);
        assert_eq!(of_step(Some(&outer), most, 1).left(), 0);
    }
}
