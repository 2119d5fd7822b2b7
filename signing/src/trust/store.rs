//! The trust root on disk.
//!
//! A folder with four files: `root.json` (signed), `root.key` (a key that
//! this host made to sign its own root, when the operator adds keys by hand),
//! `anchor.json` (which root this host follows, so that one that vanished, went
//! back or was put there by something else is noticed) and `serials.json`.
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
    collections::BTreeSet,
    fs::Metadata,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde::Deserialize;

use super::{
    Delegation, NextRoot, RootDocument, RootFile, Serials, TrustError, TrustRoot, anchor::Anchor,
    local_key, root_file::RootFault,
};
use crate::{
    digest::Digest,
    durable::{self, Lock, ReadError, Want},
    exposure::{can_be_swapped_in, is_exposed},
    package::Package,
    verified::Verified,
};

const ROOT_FILE: &str = "root.json";
const ANCHOR_FILE: &str = "anchor.json";
const SERIALS_FILE: &str = "serials.json";
const LOCK_FILE: &str = ".lock";
const SIZE_MAX: u64 = 4 * 1024 * 1024;
/// Twice what the releases may take.
const SERIALS_SIZE_MAX: u64 = 128 * 1024 * 1024;
/// Without it everything would be new, and nothing a step back.
const SERIALS_GONE: &str = "serials.json is gone; restore it from a copy, or write \
     `{\"plugins\":{}}` to it for this host to forget which releases it has had";
/// How often files that somebody is changing are read before giving up.
const READS_MAX: u32 = 100;
/// How long another process may take to change the store.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whom this host trusts, on disk.
#[derive(Debug)]
pub struct TrustStore {
    dir: PathBuf,
    document: Arc<RootDocument>,
    serials: Arc<Serials>,
    /// Of the file that the document was read from.
    digest: Option<Digest>,
    stored_at: Option<Timestamp>,
    /// Whether the anchor says that releases are remembered.
    has_serials: bool,
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
            digest: None,
            stored_at: None,
            has_serials: false,
        };
        store.reload()?;
        Ok(store)
    }

    /// Whom this host trusts now. A snapshot: what changes later does not
    /// change it.
    pub fn root(&self) -> TrustRoot {
        TrustRoot {
            document: Arc::clone(&self.document),
            serials: Arc::clone(&self.serials),
            stored_at: self.stored_at,
            clock: None,
        }
    }

    /// Every key and what it may sign.
    pub fn list(&self) -> &[Delegation] {
        &self.document.release
    }

    /// Whether nobody else has to send this host its roots.
    pub fn signs_its_own_root(&self) -> bool {
        self.document.root_threshold <= 1 && local_key::is_there(&self.dir)
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
        self.edit(|next| next.add(delegation))
    }

    /// Trusts a key on these terms, whatever they were before.
    ///
    /// # Errors
    ///
    /// [`TrustError`]; the store is then as it was.
    pub fn replace(&mut self, delegation: Delegation) -> Result<(), TrustError> {
        self.edit(|next| next.replace(delegation))
    }

    /// Makes the next version of the root and signs it with this host's own
    /// key, which the first call makes. An edit that changes nothing makes no
    /// version.
    ///
    /// # Errors
    ///
    /// What `edit` returns; [`TrustError::ForeignRoot`] when this host's key
    /// cannot sign the next version alone; the store is then as it was.
    pub fn edit<T>(
        &mut self,
        edit: impl FnOnce(&mut NextRoot) -> Result<T, TrustError>,
    ) -> Result<T, TrustError> {
        let _lock = self.lock()?;
        self.reload()?;
        let mut next = NextRoot::from_document(&self.document);
        let before = next.document().clone();
        let done = edit(&mut next)?;
        if *next.document() != before {
            self.sign_and_store(next)?;
        }
        Ok(done)
    }

    /// Makes the first root, which trusts nobody: a key of this host's own
    /// signs it alone.
    ///
    /// # Errors
    ///
    /// [`TrustError::RootThere`] when there is one; the store is then as it
    /// was.
    pub fn init(&mut self) -> Result<(), TrustError> {
        let _lock = self.lock()?;
        self.reload()?;
        self.refuse_second_root()?;
        self.sign_and_store(NextRoot::from_document(&self.document))
    }

    /// Follows the root of somebody else from now on. Nothing vouches for it
    /// but whoever calls this: compare its digest over another way first.
    ///
    /// # Errors
    ///
    /// [`TrustError::RootThere`] when there is one, [`TrustError::TooFewSigned`]
    /// and others when it is none that can be followed.
    pub fn adopt(&mut self, root_json: &[u8]) -> Result<(), TrustError> {
        let _lock = self.lock()?;
        self.reload()?;
        self.refuse_second_root()?;
        let first = RootDocument::parse_self_signed(root_json)?;
        self.store(first, root_json)
    }

    fn refuse_second_root(&self) -> Result<(), TrustError> {
        match self.document.version {
            0 => Ok(()),
            version => Err(TrustError::RootThere { version }),
        }
    }

    /// Replaces the root by its next version, which others signed.
    ///
    /// # Errors
    ///
    /// [`TrustError::TooFewSigned`], [`TrustError::BadUpdate`] and others when
    /// it does not follow, [`TrustError::NoRoot`] when there is none to
    /// follow; the store is then as it was.
    pub fn apply_root(&mut self, root_json: &[u8]) -> Result<(), TrustError> {
        let _lock = self.lock()?;
        self.reload()?;
        if self.document.version == 0 {
            return Err(TrustError::NoRoot);
        }
        let next = self.document.parse_next(root_json)?;
        self.store(next, root_json)
    }

    /// Has this host's own key sign a root that is on its way.
    ///
    /// # Errors
    ///
    /// [`TrustError::ForeignRoot`] when this host has no such key, and those of
    /// [`RootFile::sign`].
    pub fn sign_with_own_key(&mut self, file: &mut RootFile) -> Result<(), TrustError> {
        let _lock = self.lock()?;
        self.reload()?;
        let key = local_key::read(&self.dir, &self.document)?;
        file.sign(&key, Some(&self.root()))
    }

    /// Replaces this host's own root key by a new one. The next version is
    /// signed by both.
    ///
    /// # Errors
    ///
    /// [`TrustError`]; the old key is then still the one that counts.
    pub fn rotate_own_key(&mut self) -> Result<(), TrustError> {
        let _lock = self.lock()?;
        self.reload()?;
        let old = local_key::read(&self.dir, &self.document)?;
        let new = local_key::stage(&self.dir)?;
        let mut next = NextRoot::from_document(&self.document);
        next.remove_root_key(&old.public().id().to_string())?;
        next.add_root_key(new.public().clone());
        let signed = next.document().to_signed(&[&old, &new]);
        let next = self.document.parse_next(signed.as_bytes())?;
        self.store(next, signed.as_bytes())?;
        local_key::settle(&self.dir)
    }

    /// Remembers that this host has these packages: that what is older is a step
    /// back, and which keys counted for them, which they then do for good unless they
    /// are revoked. Writes nothing when there is nothing new and nothing would soon be
    /// forgotten. Waits a while for whoever is changing the store.
    ///
    /// # Errors
    ///
    /// [`TrustError::Expired`]: a host whose root has expired may not know
    /// what was revoked since, so nothing new comes to it.
    pub fn record<'p>(
        &mut self,
        packages: impl IntoIterator<Item = &'p Verified<Package>>,
    ) -> Result<(), TrustError> {
        self.record_beside(packages, &[])
    }

    /// [`record`](Self::record), where releases with these digests lie beside the
    /// packages: they are remembered as long.
    pub(crate) fn record_beside<'p>(
        &mut self,
        packages: impl IntoIterator<Item = &'p Verified<Package>>,
        present: &[Digest],
    ) -> Result<(), TrustError> {
        let (root, judged_by) = (self.root(), self.digest);
        let packages: Vec<_> = packages.into_iter().collect();
        let (mut has_new, mut changed) = (false, BTreeSet::new());
        for (release, keys) in packages.iter().filter_map(|it| it.vouched()) {
            let is_new = !root.is_recorded(&release, keys);
            has_new |= is_new;
            if is_new || root.is_going(&release) {
                changed.insert(release.name);
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        let _lock = self.lock()?;
        self.reload()?;
        let root = self.root();
        if has_new {
            root.check_not_expired()?;
        }
        let mut serials = Serials::clone(&self.serials);
        for name in &changed {
            serials.keep(name, present);
        }
        // Also what is known: whatever is here is to be forgotten last.
        let changed = |it: &&&Verified<Package>| changed.contains(&it.manifest().id);
        for package in packages.iter().filter(changed) {
            // By another root its keys may have come to their end meanwhile.
            let judged = match judged_by == self.digest {
                true => Ok(Verified::clone(package)),
                false => package.judged_by(&root),
            };
            let judged = judged.ok();
            if let Some((release, keys)) = judged.as_ref().and_then(|it| it.vouched()) {
                root.with_numbers(release.name, |numbers| {
                    serials.record(&release, keys, numbers);
                });
            }
        }
        serials.fit();
        let text = serde_json::to_vec(&serials).expect("texts and numbers always serialise");
        self.write(SERIALS_FILE, &text)?;
        self.serials = Arc::new(serials);
        if !self.has_serials {
            self.has_serials = true;
            self.write_anchor(&self.anchor())?;
        }
        Ok(())
    }

    /// Of the root as it is.
    fn anchor(&self) -> Anchor {
        let version = self.document.version;
        Anchor::of(version, self.digest, self.stored_at, self.has_serials)
    }

    fn sign_and_store(&mut self, mut next: NextRoot) -> Result<(), TrustError> {
        let key = match self.document.version {
            0 => local_key::make(&self.dir)?,
            _ => local_key::read(&self.dir, &self.document)?,
        };
        if self.document.version == 0 {
            next.add_root_key(key.public().clone());
        }
        let next = next.into_document();
        next.check()?;
        let signed = next.to_signed(&[&key]);
        // Read back as any other host would: what is stored is what loads.
        let read = match self.document.version {
            0 => RootDocument::parse_self_signed(signed.as_bytes()),
            _ => self.document.parse_next(signed.as_bytes()),
        };
        match read {
            Err(RootFault::TooFewSigned { .. }) => Err(TrustError::ForeignRoot),
            read => self.store(read?, signed.as_bytes()),
        }
    }

    /// Killed at any moment, this leaves a root that the anchor knows: the old
    /// one, or the new one.
    fn store(&mut self, document: RootDocument, root_json: &[u8]) -> Result<(), TrustError> {
        let digest = Digest::of(root_json);
        // A clock that went back does not take the time back with it.
        let now = Timestamp::now();
        self.stored_at = Some(self.stored_at.map_or(now, |before| before.max(now)));
        self.has_serials |= self.dir.join(SERIALS_FILE).exists();
        self.write_anchor(&self.anchor().before(digest))?;
        self.write(ROOT_FILE, root_json)?;
        self.document = Arc::new(document);
        self.digest = Some(digest);
        self.write_anchor(&self.anchor())
    }

    fn write_anchor(&self, anchor: &Anchor) -> Result<(), TrustError> {
        let text = serde_json::to_vec(anchor).expect("texts and numbers always serialise");
        self.write(ANCHOR_FILE, &text)
    }

    pub(crate) fn reload(&mut self) -> Result<(), TrustError> {
        self.check_exposure()?;
        let [anchor, root] = self.read_together()?;
        let serials = self.read(SERIALS_FILE)?;
        let anchor: Anchor = match anchor {
            Some(bytes) => self.parse(ANCHOR_FILE, &bytes)?,
            None if root.is_some() => return Err(self.damaged("anchor.json is gone".to_owned())),
            None if serials.is_some() => return Err(self.damaged("root.json is gone".to_owned())),
            None => Anchor::default(),
        };
        let anchored = match anchor.read(root.as_deref()) {
            Ok(anchored) => anchored,
            Err(RootFault::BadKey(key)) => return Err(TrustError::BadKey(key)),
            Err(fault) => return Err(self.damaged(fault.to_string())),
        };
        if anchored.document.version == 0 && serials.is_some() {
            return Err(self.damaged("root.json is gone".to_owned()));
        }
        if anchor.has_serials && serials.is_none() {
            return Err(self.damaged(SERIALS_GONE.to_owned()));
        }
        let serials: Serials = match serials {
            Some(bytes) => self.parse(SERIALS_FILE, &bytes)?,
            None => Serials::default(),
        };
        let fault = |fault| self.damaged(format!("{SERIALS_FILE}: {fault}"));
        serials.check().map_err(fault)?;
        self.document = Arc::new(anchored.document);
        self.digest = anchored.digest;
        self.stored_at = anchor.stored_at;
        self.has_serials = anchor.has_serials;
        self.serials = Arc::new(serials);
        Ok(())
    }

    /// The anchor and the root of one moment: whoever reads takes no lock, and
    /// somebody may be changing both.
    fn read_together(&self) -> Result<[Option<Vec<u8>>; 2], TrustError> {
        for _ in 0..READS_MAX {
            let anchor = self.read(ANCHOR_FILE)?;
            let root = self.read(ROOT_FILE)?;
            if self.read(ANCHOR_FILE)? == anchor {
                return Ok([anchor, root]);
            }
        }
        let path = self.dir.display().to_string();
        Err(TrustError::Busy { path })
    }

    fn check_exposure(&self) -> Result<(), TrustError> {
        let above = self.dir.parent().filter(|it| !it.as_os_str().is_empty());
        let above = above.map(|it| (it, can_be_swapped_in as fn(&Metadata) -> bool));
        for (path, is_exposed) in [(&*self.dir, is_exposed as _)].into_iter().chain(above) {
            match path.metadata() {
                Ok(metadata) if is_exposed(&metadata) => {
                    let path = path.display().to_string();
                    return Err(TrustError::Exposed { path });
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.io(path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn lock(&self) -> Result<Lock, TrustError> {
        durable::create_dir(&self.dir, 0o700).map_err(|error| self.io(&self.dir, error))?;
        let path = self.dir.join(LOCK_FILE);
        let lock = Lock::wait(&path, PATIENCE).map_err(|error| match error.kind() {
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
            size_max: match file {
                SERIALS_FILE => SERIALS_SIZE_MAX,
                _ => SIZE_MAX,
            },
            is_private: false,
        };
        match durable::read(&path, want) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(ReadError::Io(error)) => Err(self.io(&path, error)),
            Err(other) => Err(self.damaged(format!("{file}: {other}"))),
        }
    }

    fn parse<'a, T: Deserialize<'a>>(&self, file: &str, bytes: &'a [u8]) -> Result<T, TrustError> {
        serde_json::from_slice(bytes).map_err(|error| self.damaged(format!("{file}: {error}")))
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
