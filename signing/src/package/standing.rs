//! A package that is in use while whom the host trusts changes.

use std::sync::Arc;

use super::{
    Inner, Package, Publisher, VerifyError,
    verify::{decide, nobody_signed, parse_statement},
};
use crate::{
    digest::Digest, dsse::Envelope, statement::PAYLOAD_TYPE, trust::TrustRoot, verified::Verified,
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

    /// The same package as `trust` sees it, which may have changed since it was
    /// verified: how far it is trusted, and who answers for it. Its files are not
    /// read again. What nobody signed is trusted as far as it was.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] when its signatures no longer count.
    pub fn judged_by(&self, trust: &TrustRoot) -> Result<Self, VerifyError> {
        if self.release().is_none() {
            return Ok(self.clone());
        }
        let envelope = Envelope::parse(self.envelope())?;
        let (payload, signers) = envelope
            .verified_by(PAYLOAD_TYPE, trust.keys())
            .ok_or_else(|| nobody_signed(&envelope, trust, self.origin()))?;
        let statement = parse_statement(payload)?;
        let digest = Digest::of(payload);
        let decision = decide(&statement.predicate, digest, trust, &signers)?;
        let inner = Inner {
            publisher: Publisher::of(&decision),
            publishers: decision.publishers,
            signers: decision.signers,
            vouchers: decision.vouchers,
            trust_level: decision.trust_level,
            ..Inner::clone(&self.0)
        };
        Ok(Self::new(Package(Arc::new(inner))))
    }

    /// The highest serial number that this host has had of the plugin, where that of
    /// this release is lower.
    pub fn newer_had(&self, trust: &TrustRoot) -> Option<u64> {
        let (release, _) = self.vouched()?;
        let newest = trust.serial_floor(release.name);
        (release.serial < newest).then_some(newest)
    }

    /// Whether loading it is no step back.
    ///
    /// # Errors
    ///
    /// [`VerifyError::StepBack`] for a release that this host has never had, older
    /// than one that it has had. Who wants it installs it, with leave to go back.
    pub fn check_no_step_back(&self, trust: &TrustRoot) -> Result<(), VerifyError> {
        match self.vouched() {
            Some((release, _)) if trust.is_step_back(&release) => Err(VerifyError::StepBack {
                plugin: release.name.to_string(),
                serial: release.serial,
                newest: trust.serial_floor(release.name),
            }),
            _ => Ok(()),
        }
    }
}
