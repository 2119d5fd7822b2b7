//! Whether a plugin is well, as far as it was asked.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use orchestrator_contract::PluginState;
use serde::Serialize;
use tokio::time::{Instant, timeout};

use crate::{
    entry::{Body, Entry},
    moment::Moment,
};

/// How long the check right after the start may take.
pub(crate) const FIRST_CHECK: Duration = Duration::from_secs(5);

/// Whether a plugin is well.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PluginHealth {
    /// Absent while too little is known: it does not run, or was not asked yet.
    pub healthy: Option<bool>,
    /// When it was asked last, in milliseconds since 1970 (UTC).
    pub last_check: Option<i64>,
    /// How many of the last checks failed in a row.
    pub consecutive_fails: u32,
    /// What the last check found that failed.
    pub last_error: Option<String>,
    /// What was counted since the host started.
    pub metrics: HealthMetrics,
}

/// What was counted of health checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HealthMetrics {
    /// Checks that have ended.
    pub checks: u64,
    /// How many of them failed.
    pub failures: u64,
    /// How long the last one took, in milliseconds.
    pub duration_ms: u64,
}

/// What the checks of one plugin found.
#[derive(Debug, Default)]
pub(crate) struct HealthRecord(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    health: PluginHealth,
    last_check: Option<Moment>,
    last_seen: Option<Moment>,
}

impl HealthRecord {
    /// Takes note of a check that began at `began` and of what it found.
    fn note(&self, began: Instant, found: &Result<(), String>) {
        let (now, took) = (Moment::now(), began.elapsed());
        let mut record = self.lock();
        record.last_check = Some(now);
        let health = &mut record.health;
        health.last_check = Some(now.shown());
        health.metrics.checks += 1;
        health.metrics.duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        match found {
            Ok(()) => {
                health.consecutive_fails = 0;
                record.last_seen = Some(now);
            }
            Err(error) => {
                health.consecutive_fails = health.consecutive_fails.saturating_add(1);
                health.metrics.failures += 1;
                health.last_error = Some(error.clone());
            }
        }
    }

    /// When it last said that it is well.
    pub(crate) fn last_seen(&self) -> Option<Moment> {
        self.lock().last_seen
    }

    /// What is known of a plugin in `state` that runs since `started_at`. What was
    /// found before says nothing of it.
    pub(crate) fn health(
        &self,
        state: PluginState,
        started_at: Option<Moment>,
        had_problem: bool,
    ) -> PluginHealth {
        use PluginState::{CrashLoop, Error, Running, Starting};
        let record = self.lock();
        let mut health = record.health.clone();
        health.healthy = match state {
            Running => {
                let last = record.last_check.filter(|at| Some(*at) >= started_at);
                last.map(|_| health.consecutive_fails == 0)
            }
            // It ended by itself, or never came up.
            Error | CrashLoop => Some(false),
            Starting => had_problem.then_some(false),
            _ => None,
        };
        health
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Asks the plugin whether it is well, at most for `limit`. Nothing for one that
    /// does not run: it has nothing to answer with. Dropping the future gives the
    /// question up, which counts for nothing.
    pub(crate) async fn check_health(&self, limit: Duration) -> Option<Result<(), String>> {
        if !self.life.is_running() {
            return None;
        }
        let began = Instant::now();
        let asked = async {
            match &self.body {
                Body::Builtin(builtin) => builtin.is_well().await,
                Body::Node(node) => node.health().await,
                // It has no process between calls.
                Body::Exec(_) | Body::None => Ok(()),
            }
        };
        let found = timeout(limit, asked).await;
        let found = found.unwrap_or_else(|_| Err(format!("timeout after {limit:?}")));
        // One that ended meanwhile has another problem, which its state tells.
        if !self.life.is_running() {
            return None;
        }
        self.health.note(began, &found);
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[test]
    fn three_failures_and_a_recovery_are_told_in_five_fields() {
        let record = HealthRecord::default();
        let told = |state| serde_json::to_value(record.health(state, None, false)).unwrap();
        assert!(told(PluginState::Running)["healthy"].is_null());
        for _ in 0..3 {
            record.note(Instant::now(), &Err("the disk is gone".to_owned()));
        }
        let sick = told(PluginState::Running);
        assert_eq!(sick["healthy"], false);
        assert_eq!(sick["consecutive_fails"], 3);
        assert_eq!(sick["last_error"], "the disk is gone");
        assert!(sick["last_check"].is_i64());
        assert_eq!(sick["metrics"]["failures"], 3);
        record.note(Instant::now(), &Ok(()));
        let well = told(PluginState::Running);
        assert_eq!(well["healthy"], true);
        assert_eq!(well["consecutive_fails"], 0);
        assert_eq!(well["metrics"]["checks"], 4);
        assert_eq!(told(PluginState::CrashLoop)["healthy"], false);
        assert!(told(PluginState::Disabled)["healthy"].is_null());
    }

    /// The machine's clock goes on by itself here, and says nothing of these seconds.
    #[tokio::test(start_paused = true)]
    async fn what_was_found_is_placed_by_the_clock_that_only_goes_on() {
        let record = HealthRecord::default();
        record.note(Instant::now(), &Ok(()));
        advance(Duration::from_secs(1)).await;
        let started = Some(Moment::now());
        let told = || record.health(PluginState::Running, started, false);
        assert_eq!(told().healthy, None, "another process was well");
        assert!(record.last_seen() < started);
        let began = Instant::now();
        advance(Duration::from_secs(3)).await;
        record.note(began, &Ok(()));
        assert_eq!(told().healthy, Some(true));
        assert_eq!(told().metrics.duration_ms, 3_000);
    }
}
