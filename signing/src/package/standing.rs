//! A package that is in use while whom the host trusts changes.

use std::{collections::BTreeMap, sync::Arc};

use orchestrator_manifest::PluginName;

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

    /// Whether it may be loaded where it was found. What this host has had may;
    /// what is new to it has to be what could be installed, also `beside` the other
    /// new ones that were found with it.
    ///
    /// # Errors
    ///
    /// [`VerifyError::Trust`] when the root has expired and this host remembers what it
    /// has had, [`VerifyError::StepBack`] for
    /// a release older than one that this host has had, [`VerifyError::SameSerial`] for
    /// one with the number of another. Who wants one of the latter two installs it,
    /// with leave to go back.
    pub fn check_may_come(
        &self,
        trust: &TrustRoot,
        beside: &mut Arrivals,
    ) -> Result<(), VerifyError> {
        let Some((release, _)) = self.vouched().filter(|it| !trust.has_had(&it.0)) else {
            return Ok(());
        };
        // An image that is only read would be worth nothing from that day on.
        if trust.remembers() {
            trust.check_not_expired()?;
        }
        let (plugin, serial) = (release.name.to_string(), release.serial);
        if trust.is_step_back(&release) {
            return Err(VerifyError::StepBack {
                plugin,
                serial,
                newest: trust.serial_floor(release.name),
            });
        }
        let first = beside.0.entry((release.name.clone(), serial));
        let is_another = *first.or_insert(release.digest) != release.digest;
        match is_another || trust.has_another_of_its_number(&release) {
            true => Err(VerifyError::SameSerial { plugin, serial }),
            false => Ok(()),
        }
    }
}

/// The releases that are new to a host and are found together, by their numbers: of
/// two with one number, the first may come.
#[derive(Debug, Default)]
pub struct Arrivals(BTreeMap<(PluginName, u64), Digest>);
