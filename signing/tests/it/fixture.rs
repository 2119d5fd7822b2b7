//! A package in a folder, a key, and a host that trusts it.

use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use miette::Diagnostic;
use orchestrator_signing::{
    Delegation, NamePattern, Package, PackageFile, SecretKey, SignOptions, TrustLevel, TrustStore,
    Verified, VerifyError, sign, verify,
};
use tempfile::TempDir;

pub(crate) const MANIFEST: &str = "\
name: demo
version: 1.0.0
description: A package to take apart
entry_point: bin/run
capabilities: [file:read=/data, system:info]
prompts: {analyze: prompts/analyze.txt}
";

/// A package, the key that signs it and a host that trusts the key.
pub(crate) struct Fixture {
    root: TempDir,
    pub(crate) key: SecretKey,
}

impl Fixture {
    /// Signed as release 5, trusted at level 2.
    pub(crate) fn signed() -> Self {
        let fixture = Self::unsigned();
        fixture.sign(5);
        fixture.trust(TrustLevel::Partner, "demo");
        fixture
    }

    /// Neither signed nor trusted.
    pub(crate) fn unsigned() -> Self {
        let root = tempfile::tempdir().unwrap();
        let key = SecretKey::generate("release").unwrap();
        let fixture = Self { root, key };
        fixture.write("plugin.yaml", MANIFEST.as_bytes(), 0o644);
        fixture.write("bin/run", b"#!/bin/sh\necho hello\n", 0o755);
        fixture.write("prompts/analyze.txt", b"Analyse this.\n", 0o644);
        fixture.write("assets/empty", b"", 0o644);
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// The folder of the package.
    pub(crate) fn dir(&self) -> PathBuf {
        self.path("package")
    }

    /// A file of the package.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8], mode: u32) {
        write(&self.file(name), bytes, mode);
    }

    pub(crate) fn sign(&self, serial: u64) {
        sign(&self.dir(), &self.key, &SignOptions::new(serial)).unwrap();
    }

    pub(crate) fn trust(&self, level: TrustLevel, names: &str) {
        let names = vec![NamePattern::parse(names).unwrap()];
        let delegation = Delegation::new(self.key.public().clone(), level, names);
        self.store().replace(delegation).unwrap();
    }

    pub(crate) fn store(&self) -> TrustStore {
        TrustStore::open(&self.path("trust")).unwrap()
    }

    pub(crate) fn verify(&self) -> Result<Verified<Package>, VerifyError> {
        verify(&self.dir(), &self.store().root())
    }

    /// The code with which the package is refused.
    pub(crate) fn refusal(&self) -> String {
        match self.verify() {
            Ok(_) => "accepted".to_owned(),
            Err(error) => code(&error),
        }
    }
}

pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let mut folder = path.parent().unwrap();
    // Whatever the umask is, the package is not open to others.
    while folder != std::env::temp_dir()
        && folder.metadata().unwrap().permissions().mode() & 0o022 != 0
    {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        folder = folder.parent().unwrap();
    }
}

/// The code of an error, which every one of them has, together with a help.
pub(crate) fn code(error: &dyn Diagnostic) -> String {
    assert!(
        error
            .help()
            .is_some_and(|help| !help.to_string().is_empty()),
        "no help: {error}"
    );
    error.code().expect("every error has a code").to_string()
}

/// Reads a file of a package to its end.
pub(crate) fn content(file: &PackageFile) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.open()
        .map_err(io::Error::other)?
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
