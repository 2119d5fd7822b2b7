//! The last violations of limits, for whoever asks now and then.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use orchestrator_contract::{Event, EventSink, ViolationAction};
use serde::Serialize;

/// A plugin used more than it may.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Violation {
    /// The plugin's id.
    pub plugin: String,
    /// `memory`, `cpu`, `tasks`, `files`, `disk` or `output`.
    pub resource: String,
    /// What it used, in the resource's unit.
    pub current: u64,
    /// What it may use.
    pub limit: u64,
    /// What was done about it.
    pub action: ViolationAction,
    /// When, in milliseconds since 1970 (UTC).
    pub timestamp_ms: u64,
}

/// Violations that nobody had asked for yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct UnreadViolations {
    /// Oldest first.
    pub violations: Vec<Violation>,
    /// How many older ones there were no room for.
    pub dropped: u64,
}

/// Keeps the last violations among the events that it passes on.
pub(crate) struct Violations {
    events: Arc<dyn EventSink>,
    max: usize,
    unread: Mutex<(VecDeque<Violation>, u64)>,
}

impl Violations {
    /// Passes every event on to `events`, and keeps up to `max` violations.
    pub(crate) fn new(events: Arc<dyn EventSink>, max: u32) -> Self {
        Self {
            events,
            max: usize::try_from(max).unwrap_or(usize::MAX),
            unread: Mutex::default(),
        }
    }

    /// What has come since the last time.
    pub(crate) fn take(&self) -> UnreadViolations {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        let (violations, dropped) = mem::take(&mut *unread);
        UnreadViolations {
            violations: violations.into(),
            dropped,
        }
    }

    fn keep(&self, violation: Violation) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        let (kept, dropped) = &mut *unread;
        kept.push_back(violation);
        while kept.len() > self.max {
            kept.pop_front();
            *dropped += 1;
        }
    }
}

impl EventSink for Violations {
    fn emit(&self, event: Event) {
        if let Event::ResourceViolation {
            plugin,
            resource,
            current,
            limit,
            action,
            timestamp_ms,
        } = &event
        {
            self.keep(Violation {
                plugin: plugin.to_string(),
                resource: resource.to_string(),
                current: *current,
                limit: *limit,
                action: *action,
                timestamp_ms: *timestamp_ms,
            });
        }
        self.events.emit(event);
    }
}

#[cfg(test)]
mod tests {
    use orchestrator_contract::NoEvents;

    use super::*;

    #[test]
    fn of_fifteen_unread_violations_the_last_ten_are_kept_and_five_counted_as_dropped() {
        let violations = Violations::new(Arc::new(NoEvents), 10);
        for current in 0..15 {
            violations.emit(Event::ResourceViolation {
                plugin: "p".into(),
                resource: "memory".into(),
                current,
                limit: 1,
                action: ViolationAction::Warn,
                timestamp_ms: 1_700_000_000_000 + current,
            });
        }
        let unread = violations.take();
        let kept: Vec<_> = unread.violations.iter().map(|it| it.current).collect();
        assert_eq!(kept, (5..15).collect::<Vec<_>>());
        assert_eq!(unread.dropped, 5);
        let first = serde_json::to_value(&unread.violations[0]).unwrap();
        assert_eq!(first["plugin"], "p");
        assert_eq!(first["action"], "warn");
        assert_eq!(first["timestamp_ms"], 1_700_000_000_005_u64);
        assert_eq!(violations.take(), UnreadViolations::default());
    }
}
