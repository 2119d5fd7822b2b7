//! The one thread that writes, and the queue in front of it.
//!
//! Whatever waits is written together and made durable at once, so many callers
//! share the cost of one.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use super::{
    error::AuditError,
    quota::{Quota, Source},
    receipt::{Promise, Receipt, promise},
    record::{AuditEvent, Kind, Outcome, WORD_BYTES_MAX},
    settings::AuditSettings,
    store::Store,
};

/// The most records that become durable together.
const GROUP_MAX: usize = 8_192;
/// How often counted records are told, and what failed is tried again.
const TELL: Duration = Duration::from_secs(1);

/// Called from the writer's thread when the log cannot be written.
pub type Alarm = Box<dyn Fn(&AuditError) + Send>;

struct Entry {
    tail: Vec<u8>,
    from: Source,
    /// Nobody waits for what is only noted.
    promise: Option<Promise>,
}

#[derive(Default)]
struct Queue {
    entries: VecDeque<Entry>,
    is_closed: bool,
}

struct Shared {
    settings: AuditSettings,
    /// The folder of the log.
    path: Arc<Path>,
    queue: Mutex<Queue>,
    quota: Mutex<Quota>,
    /// There is something to write.
    filled: Condvar,
    /// There is room in the queue again.
    room: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Since the machine started.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// The end of the queue where records come in. Dropping it writes what waits.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        store: Store,
        settings: AuditSettings,
        alarm: Alarm,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            settings,
            path: store.path().into(),
            queue: Mutex::default(),
            quota: Mutex::new(Quota::new(settings.quota)),
            filled: Condvar::new(),
            room: Condvar::new(),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                let _at_end = AtEnd(Arc::clone(&of_thread));
                Thread::new(of_thread, store, alarm).run();
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    pub(super) fn record(&self, event: AuditEvent) -> Receipt {
        let (promise, receipt) = promise(&self.shared.path);
        let from = source(&event);
        let entry = self.entry(event, from, Some(promise));
        let mut queue = lock(&self.shared.queue);
        while queue.entries.len() >= self.shared.settings.queue_max && !queue.is_closed {
            queue = self
                .shared
                .room
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if !queue.is_closed {
            queue.entries.push_back(entry);
        }
        drop(queue);
        self.shared.filled.notify_one();
        receipt
    }

    pub(super) fn note(&self, event: AuditEvent) {
        let from = source(&event);
        if !lock(&self.shared.quota).admit(&from, now()) {
            return;
        }
        let entry = self.entry(event, from, None);
        let mut queue = lock(&self.shared.queue);
        if queue.entries.len() >= self.shared.settings.queue_max || queue.is_closed {
            drop(queue);
            lock(&self.shared.quota).suppress(&entry.from, 1, now());
            return;
        }
        queue.entries.push_back(entry);
        drop(queue);
        self.shared.filled.notify_one();
    }

    fn entry(&self, event: AuditEvent, from: Source, promise: Option<Promise>) -> Entry {
        let event = event.cleaned(self.shared.settings.names_secret);
        Entry {
            tail: event.to_tail(Timestamp::now()),
            from,
            promise,
        }
    }
}

/// Whose quota it is. The name is as it came, and only cut: cleaning is for what
/// is written, and costs more than a flood should.
fn source(event: &AuditEvent) -> Source {
    let cut = |name: &String| name[..name.floor_char_boundary(WORD_BYTES_MAX)].to_owned();
    Source {
        plugin: event.plugin.as_ref().map(cut),
        kind: event.kind,
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        lock(&self.shared.queue).is_closed = true;
        self.shared.filled.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there was told by the panic itself.
            thread.join().ok();
        }
    }
}

/// However the thread ends, nobody waits for it any longer.
struct AtEnd(Arc<Shared>);

impl Drop for AtEnd {
    fn drop(&mut self) {
        let left = {
            let mut queue = lock(&self.0.queue);
            queue.is_closed = true;
            std::mem::take(&mut queue.entries)
        };
        self.0.room.notify_all();
        drop(left);
    }
}

struct Thread {
    shared: Arc<Shared>,
    store: Store,
    alarm: Alarm,
    /// Notes that could not be written and are tried again.
    kept: Vec<Entry>,
    is_failing: bool,
    /// When the oldest record that no checkpoint covers was written.
    uncovered_since: Option<Duration>,
    told: Duration,
    tried: Duration,
}

impl Thread {
    fn new(shared: Arc<Shared>, store: Store, alarm: Alarm) -> Self {
        let uncovered_since = store.is_uncovered().then(now);
        Self {
            shared,
            store,
            alarm,
            kept: Vec::new(),
            is_failing: false,
            uncovered_since,
            told: now(),
            tried: Duration::ZERO,
        }
    }

    fn run(mut self) {
        loop {
            let (group, is_closed) = self.next_group();
            let is_told = self.is_burst_told(is_closed);
            if !group.is_empty() || is_told || self.is_retry_due(is_closed) {
                self.write(group);
            }
            self.cover(is_told || is_closed);
            if is_closed && lock(&self.shared.queue).entries.is_empty() {
                return;
            }
        }
    }

    /// Waits until there is something to do.
    fn next_group(&self) -> (Vec<Entry>, bool) {
        let mut queue = lock(&self.shared.queue);
        let waits = queue.entries.is_empty() && !queue.is_closed;
        if waits {
            queue = match self.until_due() {
                None => self.shared.filled.wait(queue),
                Some(due) => {
                    let woken = self.shared.filled.wait_timeout(queue, due);
                    Ok(woken.unwrap_or_else(PoisonError::into_inner).0)
                }
            }
            .unwrap_or_else(PoisonError::into_inner);
        }
        let many = queue.entries.len().min(GROUP_MAX);
        let group = queue.entries.drain(..many).collect();
        let is_closed = queue.is_closed;
        drop(queue);
        self.shared.room.notify_all();
        (group, is_closed)
    }

    /// How long until something has to be done without being asked.
    fn until_due(&self) -> Option<Duration> {
        let interval = self.shared.settings.checkpoint_interval;
        let cover = self.uncovered_since.map(|since| since + interval);
        let retry = self.has_to_retry().then_some(self.tried + TELL);
        let has_suppressed = lock(&self.shared.quota).has_suppressed();
        let tell = (has_suppressed && self.kept.is_empty()).then_some(self.told + TELL);
        let due = [cover, retry, tell].into_iter().flatten().min()?;
        Some(due.saturating_sub(now()))
    }

    fn is_retry_due(&self, is_closed: bool) -> bool {
        self.has_to_retry() && (is_closed || now() >= self.tried + TELL)
    }

    /// Whether notes wait, or other processes until a write is taken back.
    fn has_to_retry(&self) -> bool {
        !self.kept.is_empty() || self.store.has_leftover()
    }

    /// Adds what was counted to what is written. Returns whether anything was.
    fn is_burst_told(&mut self, is_closed: bool) -> bool {
        let mut quota = lock(&self.shared.quota);
        let is_due = is_closed || now() >= self.told + TELL;
        // Counting goes on while what was counted before is not written yet.
        if !quota.has_suppressed() || !is_due || !self.kept.is_empty() && !is_closed {
            return false;
        }
        self.told = now();
        let counted = quota.take_suppressed();
        drop(quota);
        for (from, many) in counted {
            let mut event = AuditEvent::new(Kind::Suppressed, Outcome::Ok)
                .detail(format!(
                    "suppressed {many} records of kind {}",
                    from.kind.as_str()
                ))
                .with("kind", from.kind.as_str())
                .with("count", many.to_string());
            event.plugin.clone_from(&from.plugin);
            let event = event.cleaned(self.shared.settings.names_secret);
            self.kept.push(Entry {
                tail: event.to_tail(Timestamp::now()),
                from,
                promise: None,
            });
        }
        true
    }

    fn write(&mut self, group: Vec<Entry>) {
        let mut entries = std::mem::take(&mut self.kept);
        entries.extend(group);
        if entries.is_empty() && !self.store.has_leftover() {
            return;
        }
        let tails: Vec<_> = entries
            .iter_mut()
            .map(|entry| std::mem::take(&mut entry.tail))
            .collect();
        self.tried = now();
        match self.store.append(&tails) {
            Ok(first) => {
                for (seq, entry) in (first..).zip(entries) {
                    if let Some(promise) = entry.promise {
                        promise.keep(Ok(seq));
                    }
                }
                self.is_failing = false;
                self.hear_trouble();
            }
            Err(error) => self.keep(entries, tails, &error),
        }
        if self.store.is_uncovered() {
            self.uncovered_since.get_or_insert_with(now);
        }
    }

    /// Tells who waits, and keeps what nobody waits for, as far as there is room.
    fn keep(&mut self, entries: Vec<Entry>, tails: Vec<Vec<u8>>, error: &AuditError) {
        for (mut entry, tail) in entries.into_iter().zip(tails) {
            match entry.promise.take() {
                Some(promise) => promise.keep(Err(self.not_recorded(error))),
                None if self.kept.len() < self.shared.settings.queue_max => {
                    entry.tail = tail;
                    self.kept.push(entry);
                }
                None => lock(&self.shared.quota).suppress(&entry.from, 1, now()),
            }
        }
        self.raise(error);
    }

    fn not_recorded(&self, error: &AuditError) -> AuditError {
        let path = self.store.path().display().to_string();
        let reason = match error {
            AuditError::Uncertain { reason, .. } => {
                let reason = reason.clone();
                return AuditError::Uncertain { path, reason };
            }
            AuditError::NotRecorded { reason, .. } => reason.clone(),
            AuditError::Io { source, .. } => format!("{error}: {source}"),
            error => error.to_string(),
        };
        AuditError::NotRecorded { path, reason }
    }

    /// Signs what was written, when that is due.
    fn cover(&mut self, at_once: bool) {
        let Some(since) = self.uncovered_since else {
            return;
        };
        if !self.store.is_uncovered() {
            self.uncovered_since = None;
            return;
        }
        if at_once || now() >= since + self.shared.settings.checkpoint_interval {
            // One that fails is tried again an interval later.
            self.uncovered_since = Some(now());
            match self.store.checkpoint() {
                Ok(()) => {
                    if !self.store.is_uncovered() {
                        self.uncovered_since = None;
                    }
                    self.hear_trouble();
                }
                Err(error) => self.raise(&error),
            }
        }
    }

    fn hear_trouble(&mut self) {
        if let Some(error) = self.store.take_trouble() {
            self.raise(&error);
        }
    }

    /// Once for each time that it begins.
    fn raise(&mut self, error: &AuditError) {
        if !std::mem::replace(&mut self.is_failing, true) {
            (self.alarm)(error);
        }
    }
}
