//! The mark of a value that passed verification.

use std::{fmt, ops::Deref};

/// A value that was verified. Only the verifiers of this crate make one, and
/// whoever loads or starts a plugin accepts nothing else, so there is no way
/// round them.
///
/// ```compile_fail
/// # use orchestrator_signing::{Package, Verified};
/// fn forge(package: Package) -> Verified<Package> {
///     Verified(package)
/// }
/// ```
#[derive(Clone)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value)
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Verified<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Verified").field(&self.0).finish()
    }
}
