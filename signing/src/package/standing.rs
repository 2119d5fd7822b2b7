//! A package that is in use while whom the host trusts changes.

use std::sync::Arc;

use super::{
    Inner, Package, VerifyError,
    verify::{decide, nobody_signed, parse_statement},
};
use crate::{
    digest::Digest,
    dsse::Envelope,
    statement::PAYLOAD_TYPE,
    trust::{TrustLevel, TrustRoot},
    verified::Verified,
};

impl Verified<Package> {
    /// The same package without its files: what it says and who answers for
    /// it, to be asked about later. Holds no folder open.
    #[must_use]
    pub fn without_files(&self) -> Self {
        let inner = Inner {
            files: Vec::new(),
            ..Inner::clone(&self.0)
        };
        Self::new(Package(Arc::new(inner)))
    }

    /// How far the package is trusted by `trust`, which may have changed since
    /// it was verified. Its files are not read again. What nobody signed is
    /// trusted as far as it was.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] when its signatures no longer count.
    pub fn trust_level_by(&self, trust: &TrustRoot) -> Result<TrustLevel, VerifyError> {
        if self.release().is_none() {
            return Ok(self.trust_level());
        }
        let envelope = Envelope::parse(self.envelope())?;
        let (payload, signers) = envelope
            .verified_by(PAYLOAD_TYPE, trust.keys())
            .ok_or_else(|| nobody_signed(&envelope, trust, self.origin()))?;
        let statement = parse_statement(payload)?;
        let digest = Digest::of(payload);
        let decision = decide(&statement.predicate, digest, trust, &signers)?;
        Ok(decision.trust_level)
    }
}
