//! The last good answer to each request, for as many as there is room for.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    future::{Ready, ready},
    hash::{BuildHasher, Hash, RandomState},
    num::NonZeroUsize,
    sync::{Arc, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{FallbackKind, Substitute};
use crate::{
    clock::{self, Instant},
    config::{ConfigError, check_time},
    sync::{AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering},
};

/// The store is in parts, each with a lock of its own, so that threads seldom
/// meet.
const PARTS: usize = 16;

/// How many answers are kept, and for how long.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LastGoodConfig {
    /// Answers that are kept at most, one for each key. When there is no room,
    /// one that was kept long ago makes some. At least 16.
    pub max_keys: NonZeroUsize,
    /// Answers of this age are good no more.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

impl Default for LastGoodConfig {
    fn default() -> Self {
        Self {
            max_keys: NonZeroUsize::MIN.saturating_add(1023),
            max_age: Duration::from_secs(5 * 60),
        }
    }
}

impl LastGoodConfig {
    /// Checks that these settings can work.
    ///
    /// # Errors
    ///
    /// Names the setting that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.max_keys.get() < PARTS {
            return Err(ConfigError::new(
                "max_keys",
                format!("is less than {PARTS}"),
                "leave room for as many answers as there are common requests",
            ));
        }
        check_time("max_age", self.max_age, Duration::from_millis(1))
    }
}

/// The last good answers. Clones share them.
///
/// Every success is cloned to be kept, and each answer when it is given again;
/// those of some size should be behind an [`Arc`]. Keys and answers are cloned
/// and dropped while no lock is held. Only [`Hash`] and [`Eq`] of a key are
/// asked under one, and must not look back at the answers.
pub struct LastGood<K, Res>(Arc<Shared<K, Res>>);

struct Shared<K, Res> {
    /// Held by who changes the two that follow, so that of two changes one
    /// holds and no mixture.
    changing: Mutex<()>,
    max_keys: AtomicUsize,
    /// In nanoseconds.
    max_age: AtomicU64,
    hasher: RandomState,
    parts: [Mutex<Part<K, Res>>; PARTS],
}

struct Part<K, Res> {
    answers: HashMap<Arc<K>, Answer<Res>>,
    /// The keys, in the order in which their answers were kept.
    order: BTreeMap<u64, Arc<K>>,
    kept: u64,
}

struct Answer<Res> {
    response: Arc<Res>,
    at: Instant,
    /// Its place in the order.
    number: u64,
}

impl<Res> Answer<Res> {
    fn new(response: Res, at: Instant) -> Self {
        let (response, number) = (Arc::new(response), 0);
        Self {
            response,
            at,
            number,
        }
    }
}

/// Keys and answers that are kept no more. To be dropped once no lock is held,
/// for that may run any code.
type Gone<K, Res> = (Vec<Arc<K>>, Vec<Answer<Res>>);

impl<K: Hash + Eq, Res> Part<K, Res> {
    fn keep(&mut self, key: Arc<K>, mut answer: Answer<Res>, room: usize) -> Gone<K, Res> {
        self.kept += 1;
        answer.number = self.kept;
        self.order.insert(self.kept, Arc::clone(&key));
        let (mut keys, mut answers) = (Vec::new(), Vec::new());
        // If the map has such a key it keeps that one; this one is in the order.
        if let Some(before) = self.answers.insert(key, answer) {
            keys.extend(self.order.remove(&before.number));
            answers.push(before);
        }
        while self.order.len() > room
            && let Some((_, oldest)) = self.order.pop_first()
        {
            if let Some((key, answer)) = self.answers.remove_entry(&oldest) {
                keys.push(key);
                answers.push(answer);
            }
            keys.push(oldest);
        }
        (keys, answers)
    }
}

impl<K: Hash + Eq, Res: Clone> LastGood<K, Res> {
    /// No answers yet.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work.
    pub fn new(config: &LastGoodConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let part = |_| {
            Mutex::new(Part {
                answers: HashMap::new(),
                order: BTreeMap::new(),
                kept: 0,
            })
        };
        Ok(Self(Arc::new(Shared {
            changing: Mutex::new(()),
            max_keys: AtomicUsize::new(config.max_keys.get()),
            max_age: AtomicU64::new(clock::nanos(config.max_age)),
            hasher: RandomState::new(),
            parts: std::array::from_fn(part),
        })))
    }

    /// Goes on with `config` and keeps the answers. Those that there is no
    /// room for any more go when the next one comes.
    ///
    /// # Errors
    ///
    /// Says why `config` cannot work; then nothing has changed.
    pub fn reconfigure(&self, config: &LastGoodConfig) -> Result<(), ConfigError> {
        config.validate()?;
        let _changing = lock(&self.0.changing);
        let max_age = clock::nanos(config.max_age);
        self.0.max_age.store(max_age, Ordering::Relaxed);
        let max_keys = config.max_keys.get();
        self.0.max_keys.store(max_keys, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps `response` as the last good answer for `key` at `now`.
    pub fn keep(&self, key: K, response: Res, now: Instant) {
        let room = self.0.max_keys.load(Ordering::Relaxed) / PARTS;
        let (key, answer) = (Arc::new(key), Answer::new(response, now));
        let gone = self.part(&key).keep(key, answer, room);
        drop(gone);
    }

    /// The last good answer for `key`, if it is young enough at `now`.
    #[must_use]
    pub fn get(&self, key: &K, now: Instant) -> Option<Res> {
        let max_age = Duration::from_nanos(self.0.max_age.load(Ordering::Relaxed));
        let part = self.part(key);
        let answer = part.answers.get(key)?;
        let response = (now - answer.at < max_age).then(|| Arc::clone(&answer.response))?;
        drop(part);
        Some(Arc::unwrap_or_clone(response))
    }

    fn part(&self, key: &K) -> MutexGuard<'_, Part<K, Res>> {
        let index = self.0.hasher.hash_one(key) as usize % PARTS;
        lock(&self.0.parts[index])
    }
}

impl<K, Res> LastGood<K, Res> {
    /// How many answers are kept, those that are too old included.
    #[must_use]
    pub fn len(&self) -> usize {
        let parts = self.0.parts.iter();
        parts.map(|part| lock(part).answers.len()).sum()
    }

    /// Whether none is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K, Res> Clone for LastGood<K, Res> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, Res> fmt::Debug for LastGood<K, Res> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.len();
        f.debug_struct("LastGood")
            .field("answers", &answers)
            .finish_non_exhaustive()
    }
}

/// [`LastGood`] with a function that gives a request's key.
pub struct LastGoodOf<K, Res, F> {
    answers: LastGood<K, Res>,
    key: F,
}

impl<K, Res, F> LastGoodOf<K, Res, F> {
    pub(super) fn new(answers: LastGood<K, Res>, key: F) -> Self {
        Self { answers, key }
    }
}

impl<K, Res, F: Clone> Clone for LastGoodOf<K, Res, F> {
    fn clone(&self) -> Self {
        Self::new(self.answers.clone(), self.key.clone())
    }
}

impl<K, Res, F> fmt::Debug for LastGoodOf<K, Res, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.answers.fmt(f)
    }
}

impl<K, F, Req, Res, Err> Substitute<Req, Res, Err> for LastGoodOf<K, Res, F>
where
    K: Hash + Eq,
    Res: Clone,
    F: Fn(&Req) -> Option<K>,
{
    type Kept = Option<K>;
    type Future = Ready<Result<Res, Err>>;

    fn keep(&self, request: &Req) -> Option<K> {
        (self.key)(request)
    }

    fn learn(&self, key: Option<K>, response: &Res) {
        if let Some(key) = key {
            self.answers.keep(key, response.clone(), clock::now());
        }
    }

    fn answer(&self, key: Option<K>, _: &Result<Res, Err>) -> Option<Self::Future> {
        let response = self.answers.get(&key?, clock::now())?;
        Some(ready(Ok(response)))
    }

    fn kind(&self) -> FallbackKind {
        FallbackKind::LastGood
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use loom::{model, thread};

    use super::*;

    /// Two operators, or one whose file is read again while a request comes.
    #[test]
    fn of_two_changes_at_once_one_holds_and_no_mixture() {
        model(|| {
            let config = |max_keys, seconds| LastGoodConfig {
                max_keys: NonZeroUsize::new(max_keys).unwrap(),
                max_age: Duration::from_secs(seconds),
            };
            let answers = LastGood::<u64, u64>::new(&config(16, 1)).unwrap();
            let other = {
                let answers = answers.clone();
                thread::spawn(move || answers.reconfigure(&config(32, 2)).unwrap())
            };
            answers.reconfigure(&config(64, 4)).unwrap();
            other.join().unwrap();

            let keys = answers.0.max_keys.load(Ordering::Relaxed);
            let age = answers.0.max_age.load(Ordering::Relaxed);
            assert!([(32, 2_000_000_000), (64, 4_000_000_000)].contains(&(keys, age)));
        });
    }
}
