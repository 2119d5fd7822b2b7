//! Whether the journal takes records, and since when it does not.

use std::{
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{error::AppendError, now_ms};

/// What keeps the journal from taking records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// What the last write got.
    pub error: AppendError,
}

impl Trouble {
    /// Whether it stays until the journal is opened again. What is not for good
    /// is over as soon as a write succeeds, which is tried time and again.
    pub const fn is_for_good(&self) -> bool {
        matches!(self.error, AppendError::Unavailable { poisoned: true, .. })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        match jiff::Timestamp::from_millisecond(self.since_ms) {
            Ok(since) => write!(f, " (since {since:.0})"),
            Err(_) => Ok(()),
        }
    }
}

/// What is known of the journal's condition. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    dir: Arc<Path>,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

impl Condition {
    /// Of the journal in `dir`, which was just opened.
    pub(super) fn of(dir: &Path) -> Self {
        Self {
            dir: dir.into(),
            trouble: Arc::default(),
        }
    }

    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.lock().clone()
    }

    /// What every write gets from now on, if there is such an error.
    pub(super) fn poison(&self) -> Option<AppendError> {
        let trouble = self.lock();
        let for_good = trouble.as_ref().filter(|trouble| trouble.is_for_good());
        for_good.map(|trouble| trouble.error.clone())
    }

    /// The error of a write that failed for `reason`.
    pub(super) fn unavailable(&self, reason: String, poisoned: bool) -> AppendError {
        AppendError::Unavailable {
            path: self.dir.to_path_buf(),
            reason,
            poisoned,
        }
    }

    /// Takes note that a write failed. What is for good stays. Returns the
    /// error, and whether all was well before.
    pub(super) fn failed(&self, reason: String, poisoned: bool) -> (AppendError, bool) {
        let error = self.unavailable(reason, poisoned);
        let mut trouble = self.lock();
        match &mut *trouble {
            Some(trouble) if trouble.is_for_good() => (trouble.error.clone(), false),
            Some(trouble) => {
                trouble.error = error.clone();
                (error, false)
            }
            none => {
                *none = Some(Trouble {
                    since_ms: now_ms(),
                    error: error.clone(),
                });
                (error, true)
            }
        }
    }

    /// Takes note that a write succeeded. Returns what that ends.
    pub(super) fn works(&self) -> Option<Trouble> {
        self.lock().take_if(|trouble| !trouble.is_for_good())
    }

    /// Takes note that nothing is written any more. Returns the error of
    /// whoever comes later.
    pub(super) fn closed(&self) -> AppendError {
        self.failed("it was closed".to_owned(), true).0
    }

    fn lock(&self) -> MutexGuard<'_, Option<Trouble>> {
        // Only whole values are ever put in, so a panic elsewhere does no harm.
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_lasts_until_a_write_succeeds_unless_it_is_for_good() {
        let condition = Condition::of(Path::new("/j"));
        assert_eq!((condition.trouble(), condition.works()), (None, None));

        assert!(condition.failed("full".to_owned(), false).1);
        let first = condition.trouble().unwrap();
        assert!(!condition.failed("fuller".to_owned(), false).1);
        let second = condition.trouble().unwrap();
        assert_eq!(second.since_ms, first.since_ms);
        let text = second.to_string();
        for part in ["`/j`", "fuller", " (since 2"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(condition.poison(), None);
        assert_eq!(condition.works(), Some(second));
        assert_eq!(condition.trouble(), None);

        let (lost, _) = condition.failed("lost".to_owned(), true);
        assert_eq!(condition.works(), None);
        assert_eq!(condition.failed("full".to_owned(), false).0, lost);
        assert_eq!(condition.poison(), Some(lost.clone()));
        assert_eq!(condition.closed(), lost);
    }
}
