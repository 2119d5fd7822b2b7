//! `orchestrator plugin lock`

use std::path::PathBuf;

use orchestrator_engine::Home;
use orchestrator_signing::{GrantStore, LockFile, TrustStore, verify};
use serde_json::json;

use super::pack;
use crate::{
    context::Context,
    failure::Result,
    output::{counted, harmless},
};

/// The lock file of a home.
const NAME: &str = "orchestrator.lock";

/// Where the lock file is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct At {
    /// The lock file [default: orchestrator.lock in the home directory]
    #[arg(long, value_name = "FILE")]
    lock_file: Option<PathBuf>,
}

impl At {
    pub(super) fn path(&self, home: &Home) -> PathBuf {
        match &self.lock_file {
            Some(path) => path.clone(),
            None => home.root().join(NAME),
        }
    }

    /// What is written down; `None` when there is no file.
    pub(super) fn read(&self, home: &Home) -> Result<Option<LockFile>> {
        Ok(LockFile::read(&self.path(home))?)
    }

    /// What there is to write down now. Of further platforms that is what was written
    /// down before, if it can be read.
    pub(super) fn renewed(&self, home: &Home) -> Result<LockFile> {
        let mut new = now(home)?;
        if let Ok(Some(before)) = LockFile::read(&self.path(home)) {
            new.keep_platforms(&before);
        }
        Ok(new)
    }

    /// What is written down, which has to be something.
    pub(super) fn need(&self, home: &Home) -> Result<LockFile> {
        Ok(LockFile::need(&self.path(home))?)
    }
}

/// Whether an engine goes by the lock file.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Locked {
    /// Start nothing unless the plugins are exactly what the lock file names,
    /// wherever they are found
    #[arg(long)]
    locked: bool,

    #[command(flatten)]
    at: At,
}

impl Locked {
    /// The lock file to go by.
    pub(crate) fn file(&self, context: &Context) -> Result<Option<PathBuf>> {
        Ok(match self.locked {
            true => Some(self.at.path(&context.home()?)),
            false => None,
        })
    }
}

/// Says where a lock file is of a host whose trust root is another than this one's.
pub(super) fn note_other_root(context: &Context, home: &Home, locked: &LockFile) -> Result {
    let root = TrustStore::open(&home.trust())?.root();
    if locked
        .plugins()
        .iter()
        .any(|release| !release.is_of_line(&root))
    {
        context.out.note(
            "the lock file was written under another trust root; the versions of the two are not compared",
        );
    }
    Ok(())
}

/// What there would be to write down now.
fn now(home: &Home) -> Result<LockFile> {
    let root = TrustStore::open(&home.trust())?.root();
    let grants = GrantStore::open(&home.grants_file())?;
    Ok(LockFile::of_store(&home.plugins(), &root, &grants)?)
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if something is not as it is written down
    #[arg(long)]
    locked: bool,

    /// Also write down this release of an installed version, which is for another
    /// platform
    #[arg(long, value_name = "PACKAGE", conflicts_with = "locked")]
    also: Vec<PathBuf>,

    #[command(flatten)]
    at: At,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let path = self.at.path(&home);
        if self.locked {
            note_other_root(context, &home, &self.at.need(&home)?)?;
            self.at.need(&home)?.require(&now(&home)?)?;
        } else {
            let mut new = self.at.renewed(&home)?;
            let trust = TrustStore::open(&home.trust())?;
            for package in &self.also {
                let root = trust.root();
                if pack::is_archive(package) {
                    let (_files, package) = pack::open(context, package, &trust)?;
                    new.add_platform(&package, &root)?;
                } else {
                    new.add_platform(&verify(package, &root)?, &root)?;
                }
            }
            new.write(&path)?;
        }
        let count = self.at.need(&home)?.plugins().len();
        let value = json!({ "lock_file": path.display().to_string(), "plugins": count });
        context.out.show(&value, |_| {
            let verb = if self.locked { "holds" } else { "written" };
            let path = harmless(&path.display().to_string());
            format!("{path}: {verb}, {}", counted(count, "plugin"))
        })
    }
}
