//! Evaluations that may not take long, because other tasks wait for their thread.

use std::cell::Cell;

/// The most work of such an evaluation, in bytes that could be copied meanwhile:
/// a few milliseconds.
const LIGHT_WORK: usize = 1 << 20;
/// How much slower than copied a payload is decoded.
pub(super) const DECODE_WORK: usize = 4;

/// What the evaluation on this thread may still do.
#[derive(Clone, Copy)]
enum Left {
    /// Whatever its budget allows.
    Everything,
    Work(usize),
    /// It came to its end.
    Nothing,
}

thread_local! {
    static LEFT: Cell<Left> = const { Cell::new(Left::Everything) };
}

/// Puts things back, also after a panic.
struct Restore(Left);

impl Drop for Restore {
    fn drop(&mut self) {
        LEFT.set(self.0);
    }
}

/// Evaluates something, unless it is a lot of work: then there is no result, and
/// it has to be done where it may take its time.
pub(crate) fn light<T>(work: impl FnOnce() -> T) -> Option<T> {
    let _restore = Restore(LEFT.replace(Left::Work(LIGHT_WORK)));
    let result = work();
    match LEFT.get() {
        Left::Nothing => None,
        Left::Everything | Left::Work(_) => Some(result),
    }
}

/// Says that work on so many bytes is about to be done. `false` when it must not
/// be done here.
pub(super) fn spend(bytes: usize) -> bool {
    let left = match LEFT.get() {
        Left::Everything => return true,
        Left::Work(left) => left.checked_sub(bytes),
        Left::Nothing => None,
    };
    LEFT.set(left.map_or(Left::Nothing, Left::Work));
    left.is_some()
}

/// [`spend`] for a payload that is about to be decoded.
pub(crate) fn may_decode(bytes: usize) -> bool {
    spend(bytes.saturating_mul(DECODE_WORK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_light_has_a_result_and_what_is_not_has_none() {
        assert_eq!(light(|| spend(LIGHT_WORK)), Some(true));
        assert_eq!(light(|| spend(LIGHT_WORK + 1)), None);
        // Whatever is made of the refusal.
        assert_eq!(light(|| (may_decode(LIGHT_WORK), 7).1), None);
        assert!(spend(usize::MAX), "elsewhere nothing is counted");
        std::panic::catch_unwind(|| light(|| panic!("scripted"))).unwrap_err();
        assert!(spend(usize::MAX), "not even after a panic");
    }
}
