//! Who floods the log is counted instead of recorded.
//!
//! Each plugin and kind of event has a bucket of its own, so that a plugin that
//! is refused a thousand times a second hides neither another's refusals nor
//! its own start.

use std::{collections::HashMap, time::Duration};

use super::record::Kind;

/// Plugins and kinds that are counted apart; further ones share one bucket.
const BUCKETS_MAX: usize = 4_096;

/// Whom a bucket belongs to. No plugin: the host itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source {
    pub(super) plugin: Option<String>,
    pub(super) kind: Kind,
}

/// How many records a source may make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuotaSettings {
    /// Records a second in the long run.
    pub per_second: f64,
    /// Records at once.
    pub burst: u32,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Duration,
    suppressed: u64,
}

impl Bucket {
    fn refill(&mut self, settings: QuotaSettings, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        let most = f64::from(settings.burst);
        self.tokens = (self.tokens + passed * settings.per_second).min(most);
        self.at = now;
    }
}

#[derive(Debug)]
pub(super) struct Quota {
    settings: QuotaSettings,
    buckets: HashMap<Source, Bucket>,
    /// Whether any bucket has something to tell.
    has_suppressed: bool,
}

impl Quota {
    pub(super) fn new(settings: QuotaSettings) -> Self {
        Self {
            settings,
            buckets: HashMap::new(),
            has_suppressed: false,
        }
    }

    /// Whether the source may make one more record; counts it if not.
    pub(super) fn admit(&mut self, source: &Source, now: Duration) -> bool {
        let settings = self.settings;
        let bucket = self.bucket(source, now);
        bucket.refill(settings, now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return true;
        }
        bucket.suppressed += 1;
        self.has_suppressed = true;
        false
    }

    /// Counts records that were lost for want of room.
    pub(super) fn suppress(&mut self, source: &Source, many: u64, now: Duration) {
        self.bucket(source, now).suppressed += many;
        self.has_suppressed = true;
    }

    pub(super) fn has_suppressed(&self) -> bool {
        self.has_suppressed
    }

    /// What was counted since the last time.
    pub(super) fn take_suppressed(&mut self) -> Vec<(Source, u64)> {
        self.has_suppressed = false;
        let counted = self.buckets.iter_mut();
        counted
            .filter(|(_, bucket)| bucket.suppressed > 0)
            .map(|(source, bucket)| (source.clone(), std::mem::take(&mut bucket.suppressed)))
            .collect()
    }

    fn bucket(&mut self, source: &Source, now: Duration) -> &mut Bucket {
        let is_known = self.buckets.contains_key(source);
        if !is_known && self.buckets.len() >= BUCKETS_MAX {
            self.forget_idle(now);
        }
        let source = match is_known || self.buckets.len() < BUCKETS_MAX {
            true => source.clone(),
            false => Source {
                plugin: Some("_other".to_owned()),
                kind: source.kind,
            },
        };
        let tokens = f64::from(self.settings.burst);
        self.buckets.entry(source).or_insert(Bucket {
            tokens,
            at: now,
            suppressed: 0,
        })
    }

    /// A full bucket with nothing to tell is as good as none.
    fn forget_idle(&mut self, now: Duration) {
        let settings = self.settings;
        self.buckets.retain(|_, bucket| {
            bucket.refill(settings, now);
            bucket.suppressed > 0 || bucket.tokens < f64::from(settings.burst)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denials_of(plugin: &str) -> Source {
        Source {
            plugin: Some(plugin.to_owned()),
            kind: Kind::Denial,
        }
    }

    fn quota() -> Quota {
        Quota::new(QuotaSettings {
            per_second: 2.0,
            burst: 10,
        })
    }

    #[test]
    fn a_flood_hides_nobody_else() {
        let mut quota = quota();
        let start = Duration::from_secs(100);
        let flood = denials_of("flood");
        let admitted = (0..1_000).filter(|_| quota.admit(&flood, start)).count();
        assert_eq!(admitted, 10);
        assert!(quota.admit(&denials_of("calm"), start));
        let spawned = Source {
            kind: Kind::Spawn,
            ..flood.clone()
        };
        assert!(quota.admit(&spawned, start));
        assert_eq!(quota.take_suppressed(), [(flood.clone(), 990)]);
        assert_eq!(quota.take_suppressed(), []);
        let later = start + Duration::from_secs(3);
        let admitted = (0..1_000).filter(|_| quota.admit(&flood, later)).count();
        assert_eq!(admitted, 6);
    }

    #[test]
    fn names_without_end_take_no_room_without_end() {
        let mut quota = quota();
        let start = Duration::from_secs(1);
        for number in 0..3 * BUCKETS_MAX {
            quota.admit(&denials_of(&number.to_string()), start);
        }
        assert!(quota.buckets.len() <= BUCKETS_MAX + 1);
        // All have their fill again after a while, and make room.
        let later = start + Duration::from_secs(60);
        quota.take_suppressed();
        assert!(quota.admit(&denials_of("new"), later));
        assert!(quota.buckets.len() < 10);
    }
}
