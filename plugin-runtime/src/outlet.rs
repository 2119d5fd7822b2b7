//! Where a plugin's words go: events to the sink, questions to the host.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{
    DenialRule, Event, EventSink, HostService, LogLevel, LogStream, PluginId, RunId, StepId,
    ViolationAction,
};
use orchestrator_sandbox::ExitStatus;
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use crate::{
    logs::{Origin, TokenBucket, escape},
    moment::now_ms,
    progress::{Backlog, Report},
    settings::LogSettings,
};

/// Room for the note that says how much of a line is missing.
const NOTE_BYTES: usize = 64;

/// `SIGSYS`.
const BAD_CALL: i32 = 31;

/// After which time reports of progress that were held back are looked at again.
const ATTEND_EVERY: Duration = Duration::from_millis(250);

/// Where one plugin's words go. Shared by everything that runs the plugin, so that
/// the rate limit holds for the plugin as a whole.
pub(crate) struct Outlet {
    plugin: PluginId,
    events: Arc<dyn EventSink>,
    host: Arc<dyn HostService>,
    bucket: Mutex<TokenBucket>,
    /// Locked before the bucket, where both are.
    backlog: Mutex<Backlog>,
    /// Whether there is one, so that calls need no lock to learn that there is none.
    has_backlog: AtomicBool,
    line_bytes_max: usize,
}

impl Outlet {
    pub(crate) fn new(
        plugin: PluginId,
        events: Arc<dyn EventSink>,
        host: Arc<dyn HostService>,
        settings: &LogSettings,
    ) -> Self {
        Self {
            plugin,
            events,
            host,
            bucket: Mutex::new(TokenBucket::new(settings)),
            backlog: Mutex::default(),
            has_backlog: AtomicBool::new(false),
            line_bytes_max: usize::try_from(settings.line_bytes_max).unwrap_or(usize::MAX),
        }
    }

    pub(crate) fn plugin(&self) -> &PluginId {
        &self.plugin
    }

    pub(crate) fn host(&self) -> &dyn HostService {
        &*self.host
    }

    pub(crate) fn line_bytes_max(&self) -> usize {
        self.line_bytes_max
    }

    pub(crate) fn emit(&self, event: Event) {
        self.events.emit(event);
    }

    /// One line: counted against the plugin's rate, then [written](Self::write).
    pub(crate) fn log(
        &self,
        stream: LogStream,
        level: LogLevel,
        message: &str,
        origin: Option<&Origin>,
    ) {
        if self.admit(stream) {
            self.write(stream, level, message, origin);
        }
    }

    /// Whether the plugin may write one more line now.
    pub(crate) fn admit(&self, stream: LogStream) -> bool {
        let admitted = self.bucket().admit(Instant::now());
        if let Some(suppressed) = admitted {
            self.report_suppressed(stream, suppressed);
        }
        admitted.is_some()
    }

    /// Writes an admitted line, escaped and cut to the longest line.
    pub(crate) fn write(
        &self,
        stream: LogStream,
        level: LogLevel,
        message: &str,
        origin: Option<&Origin>,
    ) {
        let message = escape(message.as_bytes(), self.line_bytes_max + NOTE_BYTES);
        self.emit_line(stream, level, message, origin);
    }

    /// Reports what was dropped since the last line, for the end of a stream.
    pub(crate) fn flush_suppressed(&self, stream: LogStream) {
        let suppressed = self.bucket().take_suppressed();
        self.report_suppressed(stream, suppressed);
    }

    /// How far a call is: counted against the plugin's rate like a line. Of reports
    /// that come faster the latest is told as soon as the rate allows, while its call
    /// goes on; the others are counted and dropped.
    pub(crate) fn progress(self: &Arc<Self>, origin: &Origin, percent: Option<u8>, message: &str) {
        let report = Report {
            origin: origin.clone(),
            percent: percent.map(|percent| percent.min(100)),
            message: message.to_owned(),
        };
        let mut backlog = self.backlog();
        if self.bucket().take(Instant::now()) {
            backlog.forget(origin.run, &origin.step);
            drop(backlog);
            self.tell(&report);
            return;
        }
        backlog.hold(report);
        self.has_backlog.store(true, Ordering::Release);
        // Outside of a runtime they wait for the next report inside of one.
        if !backlog.is_attended
            && let Ok(runtime) = Handle::try_current()
        {
            backlog.is_attended = true;
            runtime.spawn(attend(Arc::downgrade(self)));
        }
    }

    /// The call has ended, and nobody wants to know any more how far it was.
    pub(crate) fn call_ended(&self, run: RunId, step: &StepId) {
        if self.has_backlog.load(Ordering::Acquire) {
            self.backlog().forget(run, step);
        }
    }

    /// Tells what was held back, as far as the rate allows, and how much was dropped.
    /// Returns whether something is left.
    fn tell_backlog(&self) -> bool {
        let mut backlog = self.backlog();
        let now = Instant::now();
        let reports = backlog.take(|| self.bucket().take(now));
        let dropped = backlog.take_dropped();
        backlog.is_attended = !backlog.is_empty();
        let is_attended = backlog.is_attended;
        self.has_backlog.store(is_attended, Ordering::Release);
        drop(backlog);
        for report in &reports {
            self.tell(report);
        }
        if dropped > 0 {
            let message = format!("{dropped} progress reports suppressed: they came too fast");
            self.emit_line(LogStream::Protocol, LogLevel::Warn, message, None);
        }
        is_attended
    }

    fn tell(&self, report: &Report) {
        self.emit(Event::StepProgress {
            run: report.origin.run,
            step: report.origin.step.clone(),
            percent: report.percent,
            message: escape(report.message.as_bytes(), self.line_bytes_max).into(),
        });
    }

    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bucket(&self) -> MutexGuard<'_, TokenBucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn violation(
        &self,
        resource: &'static str,
        current: u64,
        limit: u64,
        action: ViolationAction,
    ) {
        self.emit(Event::ResourceViolation {
            plugin: self.plugin.clone(),
            resource: resource.into(),
            current,
            limit,
            action,
            timestamp_ms: u64::try_from(now_ms()).unwrap_or_default(),
        });
    }

    /// A process that the kernel held to a filter of system calls has ended. The filter
    /// ends one alone that leaves the machine's own interface; what else it refuses, it
    /// refuses to the process, and the host does not see that.
    pub(crate) fn ended_in_filter(&self, status: ExitStatus) {
        if !matches!(
            status,
            ExitStatus::Signaled {
                signal: BAD_CALL,
                ..
            }
        ) {
            return;
        }
        self.emit(Event::CapabilityDenied {
            plugin: self.plugin.clone(),
            capability: "".into(),
            resource: "a system call of another interface than that of x86-64".into(),
            rule: DenialRule::SystemCall,
            suppressed: 0,
        });
    }

    fn report_suppressed(&self, stream: LogStream, lines: u64) {
        if lines > 0 {
            let message = format!("{lines} lines suppressed: the plugin wrote too fast");
            self.emit_line(stream, LogLevel::Warn, message, None);
        }
    }

    fn emit_line(
        &self,
        stream: LogStream,
        level: LogLevel,
        message: String,
        origin: Option<&Origin>,
    ) {
        self.emit(Event::PluginLog {
            plugin: self.plugin.clone(),
            stream,
            level,
            message: message.into(),
            run: origin.map(|origin| origin.run),
            trace: origin.map(|origin| origin.trace),
        });
    }
}

/// Tells what was held back until nothing is.
async fn attend(outlet: Weak<Outlet>) {
    loop {
        sleep(ATTEND_EVERY).await;
        match outlet.upgrade() {
            Some(outlet) if outlet.tell_backlog() => {}
            _ => return,
        }
    }
}
