//! What a plugin uses while nothing is refused to it, and the least that would let it.
//!
//! The kernel tells of every call that a grant decides about before it is carried out, and
//! the proxy of every connection. No protection: a plugin that is observed has the rights of
//! the engine's user, but for the network around the proxy.

mod proposal;

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use orchestrator_manifest::{Capability, Target};
use orchestrator_sandbox::{Observed, Observer};

pub use self::proposal::{Proposal, Withheld};
use crate::egress::{EgressDenial, EgressObserver};

/// Bounds what is kept of one plugin. What is beyond it is counted.
const KEPT_MAX: usize = 20_000;

/// What is learned of the one package that this is for, by all its processes. Cheap to
/// clone; the clones share it.
#[derive(Clone)]
pub struct Lessons {
    package: Arc<Path>,
    record: Arc<Mutex<Record>>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
struct Record {
    looked: BTreeSet<PathBuf>,
    read: BTreeSet<PathBuf>,
    written: BTreeSet<PathBuf>,
    changed: BTreeSet<PathBuf>,
    made: BTreeSet<PathBuf>,
    executed: BTreeSet<PathBuf>,
    executed_memory: bool,
    system_information: bool,
    reached: BTreeSet<String>,
    refused: BTreeSet<String>,
    around: BTreeSet<SocketAddr>,
    unseen: u64,
}

impl Lessons {
    /// To be learned of the package in this directory.
    pub fn of(package: PathBuf) -> Self {
        Self {
            package: package.into(),
            record: Arc::default(),
        }
    }

    /// The directory of the package.
    pub fn package(&self) -> &Path {
        &self.package
    }

    /// Whether they are of the package in `directory`.
    pub(crate) fn are_of(&self, directory: &Path) -> bool {
        *self.package == *directory
    }

    /// The least that would let the plugin do what was seen so far. Looks at the file
    /// system. What `given` allows is not proposed.
    pub fn proposal(&self, given: &[Capability]) -> Proposal {
        Proposal::of(&self.record(), given)
    }

    /// Takes note of what a process and all that it starts do, on a thread of its own,
    /// until they have ended.
    pub(crate) fn attend(&self, observer: Observer) -> std::io::Result<()> {
        let lessons = self.clone();
        let attend = move || observer.run(|seen| lessons.note(seen));
        let thread = std::thread::Builder::new().name("observer".to_owned());
        thread.spawn(attend).map(drop)
    }

    fn note(&self, seen: Observed) {
        let mut record = self.record();
        if record.kept() >= KEPT_MAX {
            record.unseen += 1;
            return;
        }
        match seen {
            Observed::Looked(path) => drop(record.looked.insert(path)),
            Observed::Read(path) => drop(record.read.insert(path)),
            Observed::Written(path) => drop(record.written.insert(path)),
            Observed::Changed(path) => drop(record.changed.insert(path)),
            Observed::Made(path) => drop(record.made.insert(path)),
            Observed::Executed(path) => drop(record.executed.insert(path)),
            Observed::ExecutedMemory => record.executed_memory = true,
            Observed::Connected(address) => drop(record.around.insert(address)),
            Observed::SystemInformation => record.system_information = true,
            _ => record.unseen += 1,
        }
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EgressObserver for Lessons {
    fn denied(&self, denial: EgressDenial) {
        self.record().refused.insert(denial.resource);
    }

    fn reached(&self, target: &Target) {
        let mut record = self.record();
        match record.kept() >= KEPT_MAX {
            true => record.unseen += 1,
            false => drop(record.reached.insert(target.to_string())),
        }
    }
}

impl Record {
    fn kept(&self) -> usize {
        let paths = [
            &self.looked,
            &self.read,
            &self.written,
            &self.changed,
            &self.made,
            &self.executed,
        ];
        let paths: usize = paths.map(BTreeSet::len).into_iter().sum();
        paths + self.reached.len() + self.refused.len() + self.around.len()
    }
}

/// They are the same when they are shared.
impl PartialEq for Lessons {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.record, &other.record)
    }
}

impl Eq for Lessons {}

impl fmt::Debug for Lessons {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Lessons")
            .field("package", &self.package)
            .finish_non_exhaustive()
    }
}
