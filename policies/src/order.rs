//! The order in which a call meets policies, and what a wrong one does.
//!
//! Policies work in any order, but most orders do not do what one expects of
//! them. Whoever lets the order be configured checks it with [`check_order`]
//! when the configuration is loaded, long before the day on which the
//! difference shows.

use std::fmt;

use miette::Diagnostic;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A policy, by what it does. In the order in which a call meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// Answers for calls that fail.
    Fallback,
    /// Bounds how long a call may take altogether.
    TotalDeadline,
    /// Turns away the less important calls first.
    Shed,
    /// Bounds how often a service is called.
    RateLimit,
    /// Tries failed attempts again.
    Retry,
    /// Gives a failing service a rest.
    Breaker,
    /// Bounds how many calls are in flight.
    Bulkhead,
    /// Bounds how long an attempt may take.
    AttemptDeadline,
    /// Turns a panic into an error.
    CatchPanic,
}

impl PolicyKind {
    /// All, in their order, outermost first.
    pub const ALL: [Self; 9] = [
        Self::Fallback,
        Self::TotalDeadline,
        Self::Shed,
        Self::RateLimit,
        Self::Retry,
        Self::Breaker,
        Self::Bulkhead,
        Self::AttemptDeadline,
        Self::CatchPanic,
    ];

    /// The name in configurations.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::TotalDeadline => "total_deadline",
            Self::Shed => "shed",
            Self::RateLimit => "rate_limit",
            Self::Retry => "retry",
            Self::Breaker => "breaker",
            Self::Bulkhead => "bulkhead",
            Self::AttemptDeadline => "attempt_deadline",
            Self::CatchPanic => "catch_panic",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An order that would not do what one expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Diagnostic)]
#[non_exhaustive]
pub enum OrderError {
    /// Two policies are the wrong way round.
    #[error("`{inner}` is outside `{outer}`: {consequence}")]
    #[diagnostic(code("ORC-1291"), help("put `{outer}` before `{inner}`"))]
    Reversed {
        /// The policy that must be the outer one of the two.
        outer: PolicyKind,
        /// The policy that must be the inner one.
        inner: PolicyKind,
        /// What the order that was asked for would do.
        consequence: &'static str,
    },
    /// A policy is there twice.
    #[error("`{kind}` is there twice")]
    #[diagnostic(code("ORC-1292"), help("name each policy once"))]
    Repeated {
        /// The policy.
        kind: PolicyKind,
    },
}

/// Checks an order, outermost first. Policies may be left out.
///
/// # Errors
///
/// Names the first two policies that are the wrong way round, or one that is
/// there twice.
pub fn check_order(order: &[PolicyKind]) -> Result<(), OrderError> {
    for (place, &inner) in order.iter().enumerate() {
        for &outer in &order[place + 1..] {
            if outer == inner {
                return Err(OrderError::Repeated { kind: inner });
            }
            if outer < inner {
                let consequence = consequence(outer, inner);
                return Err(OrderError::Reversed {
                    outer,
                    inner,
                    consequence,
                });
            }
        }
    }
    Ok(())
}

/// What happens with `inner` outside `outer`. Where a pair has nothing special
/// about it, what the outer policy is for tells.
fn consequence(outer: PolicyKind, inner: PolicyKind) -> &'static str {
    use PolicyKind as Kind;
    match (outer, inner) {
        (Kind::Fallback, Kind::Breaker) => {
            "the breaker would count every answer of the fallback as a success and never open"
        }
        (Kind::Fallback, _) => "calls that it refuses would get no fallback",
        (Kind::TotalDeadline, Kind::Retry) => {
            "each attempt would get the whole time anew, and a caller would wait several times as long"
        }
        (Kind::TotalDeadline, _) => "the time that calls wait there would not be bounded",
        (Kind::Shed, Kind::RateLimit) => "calls that are turned away would use up tokens",
        (Kind::Shed, _) => "a call that is turned away would already have taken up room there",
        (Kind::RateLimit, Kind::Retry) => {
            "each attempt would cost a token, so that failures use up the rate of calls that succeed"
        }
        (Kind::RateLimit, Kind::Breaker) => {
            "the probe of a half-open breaker could be refused for want of a token"
        }
        (Kind::RateLimit, _) => "calls that wait for a token would take up room there",
        (Kind::Retry, Kind::Breaker) => {
            "the breaker would see one failure for a whole chain of attempts, and the chain would go on while it is open"
        }
        (Kind::Retry, Kind::Bulkhead) => "an attempt that waits for its turn would hold a slot",
        (Kind::Retry, Kind::AttemptDeadline) => {
            "the attempt deadline would bound all attempts together, and a hung one would leave no time for another"
        }
        (Kind::Retry, _) => "a panic in one attempt would end the others",
        (Kind::Breaker, Kind::Bulkhead) => {
            "calls that an open breaker refuses would take slots first"
        }
        (Kind::Breaker, Kind::AttemptDeadline) => {
            "a breaker with a layer of its own would learn of an attempt that hangs only where requests carry their deadline"
        }
        (Kind::Breaker, _) => {
            "the breaker would take every panic for a failure and not ask what it means"
        }
        (Kind::Bulkhead, Kind::AttemptDeadline) => {
            "waiting for a slot would use up the time of the attempt"
        }
        (Kind::Bulkhead | Kind::AttemptDeadline | Kind::CatchPanic, _) => {
            "a panic would go through there before it becomes an error"
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_order_of_the_kinds_is_right() {
        assert_eq!(check_order(&PolicyKind::ALL), Ok(()));
        assert!(PolicyKind::ALL.is_sorted());
    }

    #[test]
    fn a_retry_inside_the_breaker_is_refused_and_explained() {
        let error = check_order(&[PolicyKind::Breaker, PolicyKind::Retry]).unwrap_err();

        assert_eq!(
            error.to_string(),
            "`breaker` is outside `retry`: the breaker would see one failure for a whole \
             chain of attempts, and the chain would go on while it is open"
        );
    }

    #[test]
    fn a_policy_that_is_there_twice_is_named() {
        let twice = [PolicyKind::Retry, PolicyKind::Retry];

        let kind = PolicyKind::Retry;
        assert_eq!(check_order(&twice), Err(OrderError::Repeated { kind }));
    }

    #[test]
    fn names_are_those_of_configurations() {
        for kind in PolicyKind::ALL {
            let written = toml::Value::try_from(kind).unwrap();
            assert_eq!(written.as_str(), Some(kind.as_str()));
        }
    }

    proptest! {
        /// Any part of the right order is right, and nothing else is.
        #[test]
        fn only_parts_of_the_order_are_right(
            kinds in prop::sample::subsequence(PolicyKind::ALL.to_vec(), 2..9),
            swap in any::<(prop::sample::Index, prop::sample::Index)>(),
        ) {
            prop_assert_eq!(check_order(&kinds), Ok(()));

            let (one, other) = (swap.0.index(kinds.len()), swap.1.index(kinds.len()));
            let mut swapped = kinds;
            swapped.swap(one, other);
            prop_assert_eq!(check_order(&swapped).is_ok(), one == other);
        }
    }
}
