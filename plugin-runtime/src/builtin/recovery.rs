//! How often a builtin that is not well is started again, and after which delay.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    error::LifecycleError,
    settings::RestartSettings,
    supervisor::{Restarts, Verdict},
};

/// What the ends of one builtin's runs come to, by the same rules as those of a process.
pub(crate) struct Recovery {
    settings: RestartSettings,
    ends: Mutex<Restarts>,
    /// When it may be started again, where that is not at once.
    rests_until: watch::Sender<Option<Instant>>,
    restarts: AtomicU64,
}

impl Recovery {
    pub(super) fn new(settings: RestartSettings) -> Self {
        Self {
            ends: Mutex::new(Restarts::new(settings.clone())),
            settings,
            rests_until: watch::Sender::new(None),
            restarts: AtomicU64::new(0),
        }
    }

    /// It is not well, and was for `well_for`: after which delay it is started again.
    ///
    /// # Errors
    ///
    /// When that was too often. What an operator starts after that has a clean record.
    pub(crate) fn delay(
        &self,
        well_for: Duration,
        reason: &str,
    ) -> Result<Duration, LifecycleError> {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        match ends.ended(well_for, fastrand::f64()) {
            Verdict::Restart(delay) => {
                self.restarts.fetch_add(1, Ordering::Relaxed);
                Ok(delay)
            }
            Verdict::CrashLoop => {
                ends.reset();
                Err(LifecycleError::CrashLoop {
                    limit: self.settings.crash_loop_restarts,
                    window: self.settings.crash_loop_window,
                    last: reason.to_owned(),
                })
            }
        }
    }

    /// It is not started for so long.
    pub(crate) fn rest(&self, delay: Duration) {
        self.rests_until.send_replace(Some(Instant::now() + delay));
    }

    /// Waits until it may be started. Dropping the future changes nothing.
    pub(crate) async fn rested(&self) {
        let mut rests_until = self.rests_until.subscribe();
        loop {
            let Some(until) = *rests_until.borrow_and_update() else {
                return;
            };
            // Its other end is as near as this one.
            if timeout_at(until, rests_until.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Lets go on at once who waits for the end of a rest.
    pub(crate) fn give_up(&self) {
        self.rests_until.send_replace(None);
    }

    /// Forgets every end, as an operator wants it, and the rest too.
    pub(crate) fn begin_anew(&self) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.reset();
        drop(ends);
        self.give_up();
    }

    /// How often it was started again.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts.load(Ordering::Relaxed)
    }
}
