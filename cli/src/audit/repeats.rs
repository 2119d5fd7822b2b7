//! What a plugin is refused again and again: the first time is recorded, further ones are
//! counted and recorded together, so that a plugin in a loop does not fill the log.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use orchestrator_signing::audit::AuditEvent;
use tokio::time::Instant;

/// Refusals of every plugin in the last while.
#[derive(Debug)]
pub(super) struct Repeats {
    /// How long further ones are counted before that is recorded.
    every: Duration,
    /// How many different ones of a plugin are told apart; further ones are counted together.
    sorts_max: usize,
    plugins: HashMap<String, BTreeMap<Sort, Seen>>,
    /// Nothing is to be told before this.
    due: Option<Instant>,
}

/// What makes two refusals the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Of([Option<String>; 5]),
    Others,
}

#[derive(Debug)]
struct Seen {
    since: Instant,
    /// How many came after what was recorded last.
    more: u64,
    last: AuditEvent,
}

impl Sort {
    fn of(event: &AuditEvent) -> Self {
        let phase = event.context.get("phase");
        let fields = [
            &event.rule,
            &event.capability,
            &event.resource,
            &event.action,
        ];
        let [rule, capability, resource, action] = fields.map(Clone::clone);
        Self::Of([rule, capability, resource, action, phase.cloned()])
    }
}

impl Repeats {
    pub(super) fn new(every: Duration, sorts_max: usize) -> Self {
        Self {
            every,
            sorts_max,
            plugins: HashMap::new(),
            due: None,
        }
    }

    /// The refusal, if it is to be recorded; else it is counted.
    pub(super) fn take(&mut self, event: AuditEvent, now: Instant) -> Option<AuditEvent> {
        let plugin = event.plugin.clone().unwrap_or_default();
        let sorts = self.plugins.entry(plugin).or_default();
        let mut sort = Sort::of(&event);
        if !sorts.contains_key(&sort) && sorts.len() >= self.sorts_max {
            sort = Sort::Others;
        }
        if let Some(seen) = sorts.get_mut(&sort) {
            let untold = event.context.get("suppressed");
            let untold: u64 = untold.and_then(|it| it.parse().ok()).unwrap_or(0);
            seen.more = seen.more.saturating_add(1).saturating_add(untold);
            seen.last = event;
            return None;
        }
        let seen = Seen {
            since: now,
            more: 0,
            last: event.clone(),
        };
        sorts.insert(sort, seen);
        self.due.get_or_insert(now + self.every);
        Some(event)
    }

    /// What was counted for long enough: the last of each sort, with how many there were.
    pub(super) fn counted(&mut self, now: Instant) -> Vec<AuditEvent> {
        if self.due.is_none_or(|due| now < due) {
            return Vec::new();
        }
        let every = self.every;
        self.told(|seen| now >= seen.since + every, now)
    }

    /// Everything that was counted, at the end.
    pub(super) fn rest(&mut self, now: Instant) -> Vec<AuditEvent> {
        self.told(|_| true, now)
    }

    fn told(&mut self, is_due: impl Fn(&Seen) -> bool, now: Instant) -> Vec<AuditEvent> {
        let mut told = Vec::new();
        for sorts in self.plugins.values_mut() {
            sorts.retain(|sort, seen| {
                if !is_due(seen) {
                    return true;
                }
                let goes_on = seen.more > 0;
                if goes_on {
                    let event = seen.last.clone();
                    let event = event.with("repeated", seen.more.to_string());
                    told.push(match sort {
                        Sort::Others => event.with("among_others", "true"),
                        Sort::Of(_) => event,
                    });
                }
                (seen.since, seen.more) = (now, 0);
                goes_on
            });
        }
        self.plugins.retain(|_, sorts| !sorts.is_empty());
        let sorts = self.plugins.values().flat_map(BTreeMap::values);
        self.due = sorts.map(|seen| seen.since + self.every).min();
        told
    }
}

#[cfg(test)]
mod tests {
    use orchestrator_signing::audit::{Kind, Outcome};

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn denial(plugin: &str, resource: &str) -> AuditEvent {
        let mut event = AuditEvent::new(Kind::Denial, Outcome::Denied).plugin(plugin);
        event.resource = Some(resource.to_owned());
        event
    }

    fn repeated(events: &[AuditEvent]) -> Vec<(&str, &str)> {
        let events = events.iter();
        events
            .map(|it| (it.resource.as_deref().unwrap(), &*it.context["repeated"]))
            .collect()
    }

    #[test]
    fn the_first_is_recorded_and_a_loop_takes_one_record_a_minute() {
        let mut repeats = Repeats::new(MINUTE, 16);
        let start = Instant::now();
        let mut records = 0;
        // Ten times a second for an hour.
        for tenth in 0..36_000 {
            let now = start + Duration::from_millis(100) * tenth;
            records += repeats.counted(now).len();
            records += usize::from(repeats.take(denial("p", "a"), now).is_some());
        }
        assert_eq!(records, 60);
        let rest = repeats.rest(start + 60 * MINUTE);
        assert_eq!(repeated(&rest), [("a", "600")]);
        assert!(repeats.rest(start + 61 * MINUTE).is_empty());
    }

    #[test]
    fn what_differs_is_recorded_and_so_is_who_is_another() {
        let mut repeats = Repeats::new(MINUTE, 16);
        let now = Instant::now();
        for (plugin, resource) in [("p", "a"), ("p", "b"), ("q", "a")] {
            assert!(repeats.take(denial(plugin, resource), now).is_some());
            assert!(repeats.take(denial(plugin, resource), now).is_none());
        }
        // And what comes again after a while.
        assert_eq!(repeats.counted(now + MINUTE).len(), 3);
        assert_eq!(repeats.counted(now + 2 * MINUTE).len(), 0);
        assert!(repeats.take(denial("p", "a"), now + 2 * MINUTE).is_some());
    }

    #[test]
    fn names_without_end_take_no_records_and_no_room_without_end() {
        let mut repeats = Repeats::new(MINUTE, 16);
        let now = Instant::now();
        let hosts = (0..10_000).map(|number| denial("p", &number.to_string()));
        let recorded = hosts.filter_map(|event| repeats.take(event, now)).count();
        assert_eq!(recorded, 17);
        assert_eq!(repeats.plugins["p"].len(), 17);
        let told = repeats.counted(now + MINUTE);
        assert_eq!(repeated(&told), [("9999", "9983")]);
        assert_eq!(told[0].context["among_others"], "true");
    }

    #[test]
    fn what_the_proxy_did_not_tell_counts_too() {
        let mut repeats = Repeats::new(MINUTE, 16);
        let now = Instant::now();
        repeats.take(denial("p", "a"), now);
        repeats.take(denial("p", "a").with("suppressed", "9"), now);
        assert_eq!(repeated(&repeats.rest(now)), [("a", "10")]);
    }
}
