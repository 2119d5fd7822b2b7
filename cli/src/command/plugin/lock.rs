//! `orchestrator plugin lock`

use std::path::PathBuf;

use orchestrator_engine::Home;
use orchestrator_signing::{GrantStore, LockFile, LockFileError, TrustStore};
use serde_json::json;

use crate::{context::Context, failure::Result};

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

    /// What is written down, which has to be something.
    pub(super) fn need(&self, home: &Home) -> Result<LockFile> {
        let path = self.path(home).display().to_string();
        let found = self.read(home)?;
        Ok(found.ok_or(LockFileError::Missing { path })?)
    }

    /// Refuses a home that is not as it is written down.
    pub(crate) fn require(&self, context: &Context) -> Result {
        let home = context.home()?;
        let locked = self.need(&home)?;
        Ok(locked.require(&now(&home)?)?)
    }
}

/// What there would be to write down now.
pub(super) fn now(home: &Home) -> Result<LockFile> {
    let root = TrustStore::open(&home.trust())?.root();
    let grants = GrantStore::open(&home.grants_file())?;
    Ok(LockFile::of_store(&home.plugins(), &root, &grants)?)
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write nothing; fail if something is not as it is written down
    #[arg(long)]
    locked: bool,

    #[command(flatten)]
    at: At,
}

impl Args {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let path = self.at.path(&home);
        if self.locked {
            self.at.require(context)?;
        } else {
            now(&home)?.write(&path)?;
        }
        let count = self.at.need(&home)?.plugins().len();
        let value = json!({ "lock_file": path.display().to_string(), "plugins": count });
        context.out.show(&value, |_| {
            let verb = if self.locked { "holds" } else { "written" };
            format!("{}: {verb}, {count} plugins", path.display())
        })
    }
}
