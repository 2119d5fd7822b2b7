//! The same policies by others.

pub(crate) mod by_hand;
pub(crate) mod resilience;
pub(crate) mod single;
pub(crate) mod tower_own;
