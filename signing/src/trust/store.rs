//! The trust root on disk.
//!
//! A folder with four files: `root.json` (signed), `root.key` (a key that
//! this host made to sign its own root, when the operator adds keys by hand),
//! `anchor.json` (which version there must be at least, so that a root that
//! vanished or went back is noticed) and `serials.json`.
//!
//! # The local root key is not encrypted
//!
//! `root.key` is written without a passphrase, with mode 0600, so that keys can
//! be added by hand without asking for one. Whoever reads that file, in a copy
//! of the folder for example, can sign a root that this host accepts, and needs
//! only the right to write the folder to have it trust any key. Keep it out of
//! copies that others can read. A host whose root is signed elsewhere has no
//! such file.

use std::{
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use orchestrator_manifest::PluginName;
use serde::{Deserialize, Serialize};

use super::{Delegation, KeyStatus, RootDocument, Serials, TrustError, TrustRoot};
use crate::{
    digest::Digest,
    durable::{self, Lock, ReadError, Want},
    key::{KeyId, SecretKey},
    key_file::Protection,
};

const ROOT_FILE: &str = "root.json";
const KEY_FILE: &str = "root.key";
const ANCHOR_FILE: &str = "anchor.json";
const SERIALS_FILE: &str = "serials.json";
const LOCK_FILE: &str = ".lock";
const SIZE_MAX: u64 = 4 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Anchor {
    version: u64,
}

/// Whom this host trusts, on disk.
#[derive(Debug)]
pub struct TrustStore {
    dir: PathBuf,
    document: Arc<RootDocument>,
    serials: Arc<Serials>,
}

impl TrustStore {
    /// Opens the store in `dir`. A folder that does not exist or is empty
    /// trusts nobody; nothing is written before something is added.
    ///
    /// # Errors
    ///
    /// [`TrustError::Damaged`] when there was a root and it is gone, does not
    /// verify or has gone back; it is never taken for an empty one.
    pub fn open(dir: &Path) -> Result<Self, TrustError> {
        let mut store = Self {
            dir: dir.to_owned(),
            document: Arc::default(),
            serials: Arc::default(),
        };
        store.reload()?;
        Ok(store)
    }

    /// Whom this host trusts now. A snapshot: what changes later does not
    /// change it.
    pub fn root(&self) -> TrustRoot {
        TrustRoot::new(Arc::clone(&self.document), Arc::clone(&self.serials))
    }

    /// Every key and what it may sign.
    pub fn list(&self) -> &[Delegation] {
        &self.document.release
    }

    /// Trusts a key; does nothing when it is trusted on these very terms. The
    /// first call makes this host's own root key, which signs the root from
    /// then on.
    ///
    /// # Security
    ///
    /// That key lies **unencrypted** in the store as `root.key`, mode 0600. Who
    /// can read it and write to the store decides whom this host trusts.
    ///
    /// # Errors
    ///
    /// [`TrustError::OtherTerms`] when the key is trusted on other terms, which
    /// only [`Self::replace`] changes. The store is then as it was.
    pub fn add(&mut self, delegation: Delegation) -> Result<(), TrustError> {
        self.put(delegation, false)
    }

    /// Trusts a key on these terms, whatever they were before.
    ///
    /// # Errors
    ///
    /// [`TrustError`]; the store is then as it was.
    pub fn replace(&mut self, delegation: Delegation) -> Result<(), TrustError> {
        self.put(delegation, true)
    }

    fn put(&mut self, delegation: Delegation, may_replace: bool) -> Result<(), TrustError> {
        if delegation.names.is_empty() || delegation.threshold == 0 {
            let message = "a key without names, or with a threshold of 0, signs nothing";
            return Err(TrustError::BadDelegation(message.to_owned()));
        }
        self.change(|document| {
            let is_same = |known: &&mut Delegation| known.key.id() == delegation.key.id();
            match document.release.iter_mut().find(is_same) {
                Some(known) if may_replace || *known == delegation => *known = delegation,
                Some(known) => {
                    return Err(TrustError::OtherTerms {
                        key: known.key.name().to_owned(),
                        changes: known.changes(&delegation),
                    });
                }
                None => document.release.push(delegation),
            }
            Ok(())
        })
    }

    /// Forgets a key, given by its identity or name.
    ///
    /// # Errors
    ///
    /// [`TrustError`]; the store is then as it was.
    pub fn remove(&mut self, key: &str) -> Result<(), TrustError> {
        self.change(|document| {
            let position = position(document, key)?;
            document.release.remove(position);
            Ok(())
        })
    }

    /// Retires, revokes or reinstates a key, given by its identity or name.
    ///
    /// # Errors
    ///
    /// [`TrustError`]; the store is then as it was.
    pub fn set_status(&mut self, key: &str, status: KeyStatus) -> Result<(), TrustError> {
        self.change(|document| {
            let position = position(document, key)?;
            document.release[position].status = status;
            Ok(())
        })
    }

    /// Refuses one release from now on, whoever signed it.
    ///
    /// # Errors
    ///
    /// [`TrustError`]; the store is then as it was.
    pub fn revoke_digest(&mut self, statement: Digest, reason: &str) -> Result<(), TrustError> {
        self.change(|document| {
            document.allowed_digests.remove(&statement);
            document.revoked_since.insert(statement, document.version);
            document
                .revoked_digests
                .insert(statement, reason.to_owned());
            Ok(())
        })
    }

    /// Accepts one release although its key is retired or revoked.
    ///
    /// # Errors
    ///
    /// [`TrustError`]; the store is then as it was.
    pub fn allow_digest(&mut self, statement: Digest) -> Result<(), TrustError> {
        self.change(|document| {
            document.revoked_digests.remove(&statement);
            document.revoked_since.remove(&statement);
            document.allowed_digests.insert(statement);
            Ok(())
        })
    }

    /// Replaces the root by one that somebody else signed: the next version
    /// of the present one, or the first one of a host that has none.
    ///
    /// # Errors
    ///
    /// [`TrustError::BadUpdate`] when it does not follow; the store is then
    /// as it was.
    pub fn apply_root(&mut self, root_json: &[u8]) -> Result<(), TrustError> {
        let _lock = self.lock()?;
        self.reload()?;
        let next = match self.document.version {
            0 => RootDocument::parse_self_signed(root_json),
            _ => self.document.parse_next(root_json),
        };
        let next = next.map_err(TrustError::BadUpdate)?;
        self.store(next, root_json)
    }

    /// Remembers that a release was installed.
    pub(crate) fn record_serial(
        &mut self,
        name: &PluginName,
        serial: u64,
    ) -> Result<(), TrustError> {
        let _lock = self.lock()?;
        self.reload()?;
        let mut serials = Serials::clone(&self.serials);
        serials.record(name, serial, self.root().min_serial(name));
        let text = serde_json::to_vec(&serials).expect("texts and numbers always serialise");
        self.write(SERIALS_FILE, &text)?;
        self.serials = Arc::new(serials);
        Ok(())
    }

    /// Makes the next version of the root and signs it with this host's key.
    fn change(
        &mut self,
        edit: impl FnOnce(&mut RootDocument) -> Result<(), TrustError>,
    ) -> Result<(), TrustError> {
        let _lock = self.lock()?;
        self.reload()?;
        let mut next = RootDocument::clone(&self.document);
        next.version += 1;
        let before = next.clone();
        let is_first = self.document.version == 0;
        edit(&mut next)?;
        if next == before {
            return Ok(());
        }
        let key = self.local_key(is_first)?;
        if is_first {
            next.root_keys = vec![key.public().clone()];
            next.root_threshold = 1;
        }
        if next.root_threshold != 1
            || !next
                .root_keys
                .iter()
                .any(|known| known.id() == key.public().id())
        {
            return Err(TrustError::ForeignRoot);
        }
        let signed = next.to_signed(&[&key]);
        self.store(next, signed.as_bytes())
    }

    /// The key that this host signs its own root with. It lies unencrypted in
    /// the store: whoever runs as this user could change the store anyway.
    fn local_key(&self, may_make: bool) -> Result<SecretKey, TrustError> {
        let path = self.dir.join(KEY_FILE);
        match path.symlink_metadata() {
            Ok(_) => Ok(SecretKey::read_file(&path, || None)?),
            Err(_) if may_make => {
                let key = SecretKey::generate("local-root")?;
                key.write_file(&path, &Protection::None)?;
                Ok(key)
            }
            Err(_) => Err(TrustError::ForeignRoot),
        }
    }

    fn store(&mut self, document: RootDocument, root_json: &[u8]) -> Result<(), TrustError> {
        // In this order: a crash in between leaves a root newer than its
        // anchor, which is fine; the reverse would look like a step back.
        let anchor = Anchor {
            version: document.version,
        };
        let anchor = serde_json::to_vec(&anchor).expect("a number always serialises");
        self.write(ROOT_FILE, root_json)?;
        self.write(ANCHOR_FILE, &anchor)?;
        self.document = Arc::new(document);
        Ok(())
    }

    fn reload(&mut self) -> Result<(), TrustError> {
        self.check_exposure()?;
        let root = self.read(ROOT_FILE)?;
        let anchor = self.read(ANCHOR_FILE)?;
        let serials = self.read(SERIALS_FILE)?;
        let anchored = match &anchor {
            Some(bytes) => {
                parse::<Anchor>(bytes)
                    .map_err(|reason| self.damaged(reason))?
                    .version
            }
            None => 0,
        };
        let document = match root {
            Some(bytes) => {
                RootDocument::parse_self_signed(&bytes).map_err(|reason| self.damaged(reason))?
            }
            None if anchor.is_some() || serials.is_some() => {
                return Err(self.damaged("root.json is gone".to_owned()));
            }
            None => RootDocument::default(),
        };
        if document.version < anchored {
            let reason = format!(
                "it went back from version {anchored} to {}",
                document.version
            );
            return Err(self.damaged(reason));
        }
        self.document = Arc::new(document);
        self.serials = match serials {
            Some(bytes) => Arc::new(parse(&bytes).map_err(|reason| self.damaged(reason))?),
            None => Arc::default(),
        };
        Ok(())
    }

    fn check_exposure(&self) -> Result<(), TrustError> {
        let metadata = match self.dir.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.io(&self.dir, error)),
        };
        let owner = metadata.uid();
        let is_ours = owner == 0 || owner == rustix::process::geteuid().as_raw();
        if metadata.mode() & 0o022 != 0 || !is_ours {
            let path = self.dir.display().to_string();
            return Err(TrustError::Exposed { path });
        }
        Ok(())
    }

    fn lock(&self) -> Result<Lock, TrustError> {
        let mut private = std::fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        private
            .create(&self.dir)
            .map_err(|error| self.io(&self.dir, error))?;
        let path = self.dir.join(LOCK_FILE);
        let lock = Lock::acquire(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => TrustError::Busy {
                path: self.dir.display().to_string(),
            },
            _ => self.io(&path, error),
        })?;
        // What cannot be removed now is tried again next time.
        let _ = durable::sweep(&self.dir);
        Ok(lock)
    }

    fn read(&self, file: &str) -> Result<Option<Vec<u8>>, TrustError> {
        let path = self.dir.join(file);
        let want = Want {
            size_max: SIZE_MAX,
            is_private: false,
        };
        match durable::read(&path, want) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(ReadError::Io(error)) => Err(self.io(&path, error)),
            Err(other) => Err(self.damaged(format!("{file}: {other}"))),
        }
    }

    fn write(&self, file: &str, bytes: &[u8]) -> Result<(), TrustError> {
        let path = self.dir.join(file);
        durable::replace(&path, bytes, 0o644).map_err(|error| self.io(&path, error))
    }

    fn damaged(&self, reason: String) -> TrustError {
        let path = self.dir.display().to_string();
        TrustError::Damaged { path, reason }
    }

    fn io(&self, path: &Path, source: io::Error) -> TrustError {
        let path = path.display().to_string();
        TrustError::Io { path, source }
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

fn position(document: &RootDocument, key: &str) -> Result<usize, TrustError> {
    let id = KeyId::parse(key).ok();
    let found: Vec<_> = document
        .release
        .iter()
        .enumerate()
        .filter(|(_, known)| Some(known.key.id()) == id || known.key.name() == key)
        .collect();
    match found.as_slice() {
        [(position, _)] => Ok(*position),
        [] => Err(TrustError::NoSuchKey(key.escape_debug().to_string())),
        _ => Err(TrustError::Ambiguous(key.to_owned())),
    }
}
