//! Signed packages, made as a release engineer and an operator would.

use std::{error::Error, fs, path::Path};

use orchestrator_signing::{
    Delegation, NamePattern, SecretKey, SignOptions, TrustLevel, TrustStore, sign,
};

/// The phase that every package made here has.
pub const PHASE: &str = "echo";
/// The version that every package made here has.
pub const VERSION: &str = "1.0.0";

/// Signs packages for a host that trusts it with everything.
pub struct Publisher {
    key: SecretKey,
}

impl Publisher {
    /// Makes a key and has the trust store in `trust_dir` trust it with every
    /// name at the highest level.
    ///
    /// # Errors
    ///
    /// When the store cannot be written.
    pub fn trusted_in(trust_dir: &Path) -> Result<Self, Box<dyn Error>> {
        let key = SecretKey::generate("benches")?;
        let everything = vec![NamePattern::parse("*")?];
        let mut trust = TrustStore::open(trust_dir)?;
        let level = TrustLevel::Internal;
        trust.add(Delegation::new(key.public().clone(), level, everything))?;
        Ok(Self { key })
    }

    /// Puts the signed package `id` of kind `node` into `plugins_dir`. It has
    /// one idempotent phase, and `program` is its entry.
    ///
    /// # Errors
    ///
    /// When the package cannot be written or signed.
    pub fn install(
        &self,
        plugins_dir: &Path,
        id: &str,
        program: &Path,
    ) -> Result<(), Box<dyn Error>> {
        let dir = plugins_dir.join(id).join(VERSION);
        fs::create_dir_all(&dir)?;
        // A package is regular files with one name each, so no link will do.
        fs::copy(program, dir.join("plugin"))?;
        let manifest = format!(
            r#"{{"id":"{id}","version":"{VERSION}","description":"Answers what it is asked.",
"kind":"node","entry_point":"plugin",
"phases":[{{"name":"{PHASE}","retryable":true,"timeout":"1m"}}]}}"#
        );
        fs::write(dir.join("plugin.json"), manifest)?;
        sign(&dir, &self.key, &SignOptions::new(1))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use orchestrator_signing::verify;

    use super::*;

    #[test]
    fn a_package_verifies_under_its_own_trust_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (trust, plugins) = (dir.path().join("trust"), dir.path().join("plugins"));
        let publisher = Publisher::trusted_in(&trust).unwrap();
        let program = std::env::current_exe().unwrap();
        publisher.install(&plugins, "echo", &program).unwrap();
        let package = plugins.join("echo").join(VERSION);
        let root = TrustStore::open(&trust).unwrap().root();
        let verified = verify(&package, &root).unwrap();
        assert_eq!(verified.trust_level(), TrustLevel::Internal);

        let elsewhere = dir.path().join("elsewhere");
        Publisher::trusted_in(&elsewhere).unwrap();
        let root = TrustStore::open(&elsewhere).unwrap().root();
        assert!(verify(&package, &root).is_err());
    }
}
