//! Packages to measure with, and a host that trusts their key.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use orchestrator_signing::{
    Delegation, NamePattern, SecretKey, SignOptions, TrustLevel, TrustRoot, TrustStore, sign,
    verify,
};
use sha2::{Digest as _, Sha256};

use crate::measure::BenchError;

/// The files of the large package, and how many bytes each has.
pub(crate) const FILES: usize = 400;
pub(crate) const FILE_BYTES: usize = (100 << 20) / FILES;

const MANIFEST: &str = "\
name: measured
version: 1.0.0
description: A package to measure with
entry_point: bin/run
capabilities: [file:read=/data, system:info]
";

pub(crate) struct Signed {
    dir: PathBuf,
    files: Vec<PathBuf>,
    key: SecretKey,
    root: TrustRoot,
}

impl Signed {
    /// Four hundred files of random bytes.
    pub(crate) fn large(home: &Path) -> Result<Self, BenchError> {
        let mut random = fastrand::Rng::with_seed(1);
        let mut bytes = vec![0; FILE_BYTES];
        let dir = home.join("large");
        for number in 0..FILES {
            random.fill(&mut bytes);
            write(
                &dir.join(format!("data/{:02}/{number:03}", number / 20)),
                &bytes,
            )?;
        }
        Self::finish(home, dir)
    }

    /// A manifest, a script and a prompt: what a plugin in shell is.
    pub(crate) fn small(home: &Path) -> Result<Self, BenchError> {
        let dir = home.join("small");
        write(&dir.join("prompts/analyze.txt"), &[b'x'; 2_000])?;
        Self::finish(home, dir)
    }

    fn finish(home: &Path, dir: PathBuf) -> Result<Self, BenchError> {
        write(&dir.join("plugin.yaml"), MANIFEST.as_bytes())?;
        let program = dir.join("bin/run");
        write(&program, &[b'#'; 8_000])?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let key = SecretKey::generate("release")?;
        let mut trust = TrustStore::open(&home.join("trust"))?;
        let names = vec![NamePattern::parse("*")?];
        let delegation = Delegation::new(key.public().clone(), TrustLevel::Internal, names);
        trust.replace(delegation)?;
        let mut signed = Self {
            files: Vec::new(),
            root: trust.root().clone(),
            dir,
            key,
        };
        signed.sign()?;
        list(&signed.dir, &mut signed.files)?;
        signed.files.sort();
        Ok(signed)
    }

    pub(crate) fn sign(&self) -> Result<(), BenchError> {
        sign(&self.dir, &self.key, &SignOptions::new(1))?;
        Ok(())
    }

    pub(crate) fn verify(&self) -> Result<(), BenchError> {
        verify(&self.dir, &self.root)?;
        Ok(())
    }

    /// One pass of SHA-256 over all bytes, one file after the other.
    pub(crate) fn hash(&self) -> Result<(), BenchError> {
        let mut hasher = Sha256::new();
        self.read(|piece| hasher.update(piece))?;
        std::hint::black_box(hasher.finalize());
        Ok(())
    }

    /// Reads all bytes.
    pub(crate) fn read(&self, mut each: impl FnMut(&[u8])) -> Result<(), BenchError> {
        let mut piece = vec![0; 128 << 10];
        for path in &self.files {
            let mut file = File::open(path)?;
            loop {
                match file.read(&mut piece)? {
                    0 => break,
                    count => each(&piece[..count]),
                }
            }
        }
        Ok(())
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(path, bytes)
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => list(&entry.path(), files)?,
            false => files.push(entry.path()),
        }
    }
    Ok(())
}
