//! A package in an archive, on this machine or just downloaded.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use orchestrator_signing::{
    Hasher,
    archive::{Limits, unpack_within},
};

use super::{Fetched, Order, Source, SourceError};
use crate::{error::CliError, failure::Result};

pub(super) struct Archive {
    path: PathBuf,
}

impl Archive {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

impl Source for Archive {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn fetch(&self, order: &Order) -> Result<Fetched> {
        let open = || File::open(&self.path);
        let file = open().map_err(|error| CliError::file("read", &self.path, error))?;
        fetched(file, &self.location(), order)
    }
}

/// Unpacks an open archive, if it is the one that was asked for. What is unpacked is
/// what is hashed: it is read once, whoever writes to the file meanwhile.
pub(super) fn fetched(file: File, location: &str, order: &Order) -> Result<Fetched> {
    fs::create_dir_all(&order.downloads)
        .map_err(|error| CliError::file("write", &order.downloads, error))?;
    let mut input = Hashing {
        file,
        hasher: Hasher::default(),
    };
    let unpacked = unpack_within(&mut input, &order.downloads, order.limits);
    if unpacked.is_err() && order.digest.is_some() {
        // Which archive it is says more than what is wrong with it. A device need
        // not end.
        let most = Limits::default().archive_bytes() + 1;
        io::copy(&mut input.by_ref().take(most), &mut io::sink())
            .map_err(|error| CliError::file("read", Path::new(location), error))?;
    }
    let digest = input.hasher.digest();
    if let Some(expected) = order.digest.filter(|expected| *expected != digest) {
        return Err(SourceError::Digest {
            location: location.to_owned(),
            expected,
            found: digest,
        }
        .into());
    }
    Ok(Fetched::unpacked(unpacked?, digest))
}

/// Hashes what is read.
struct Hashing {
    file: File,
    hasher: Hasher,
}

impl Read for Hashing {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::FileExt as _,
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use orchestrator_signing::{Digest, SecretKey, SignOptions, archive::pack, sign};

    use super::*;
    use crate::output::Output;

    /// An archive, as long as any other that differs in one letter.
    fn packed(dir: &Path, letter: char) -> Vec<u8> {
        let manifest =
            format!("name: demo\nversion: 1.0.0\ndescription: {letter}\nentry_point: run\n");
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("plugin.yaml"), manifest).unwrap();
        fs::write(dir.join("run"), "#!/bin/sh\n").unwrap();
        let key = SecretKey::generate("release").unwrap();
        sign(dir, &key, &SignOptions::new(1)).unwrap();
        let mut bytes = Vec::new();
        pack(dir, &mut bytes).unwrap();
        bytes
    }

    /// Somebody writes another archive over it all the time, as correct as the first.
    #[test]
    fn what_is_unpacked_is_what_has_the_digest() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ['a', 'b'].map(|letter| packed(&dir.path().join("package"), letter));
        let path = dir.path().join("a.opkg");
        fs::write(&path, &a).unwrap();
        let order = Order {
            downloads: dir.path().join("downloads"),
            digest: Some(Digest::of(&a)),
            limits: Limits::default(),
            out: Output::new(false, true, true),
        };
        let is_over = AtomicBool::new(false);
        let (mut good, mut refused, mut wrong) = (0, 0, 0);
        thread::scope(|scope| {
            scope.spawn(|| {
                let file = File::options().write(true).open(&path).unwrap();
                while !is_over.load(Ordering::Relaxed) {
                    for bytes in [&b, &a] {
                        file.write_all_at(bytes, 0).unwrap();
                        file.set_len(bytes.len() as u64).unwrap();
                        thread::yield_now();
                    }
                }
            });
            for number in 0..30_000 {
                if number >= 1_000 && good > 0 && refused > 0 {
                    break;
                }
                match Archive::new(path.clone()).fetch(&order) {
                    Ok(fetched) => {
                        let manifest = fs::read_to_string(fetched.dir().join("plugin.yaml"));
                        match manifest.unwrap().contains("description: a") {
                            true => good += 1,
                            false => wrong += 1,
                        }
                    }
                    Err(_) => refused += 1,
                }
            }
            is_over.store(true, Ordering::Relaxed);
        });
        assert_eq!(wrong, 0, "{good} good, {refused} refused");
        assert!(good > 0 && refused > 0, "{good} good, {refused} refused");
    }
}
