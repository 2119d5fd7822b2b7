//! Where a plugin's words go: events to the sink, questions to the host.

use std::sync::{Arc, Mutex, PoisonError};

use orchestrator_contract::{
    Event, EventSink, HostService, LogLevel, LogStream, PluginId, ViolationAction,
};
use tokio::time::Instant;

use crate::{
    logs::{Origin, TokenBucket, escape},
    settings::LogSettings,
};

/// Room for the note that says how much of a line is missing.
const NOTE_BYTES: usize = 64;

/// Where one plugin's words go. Shared by everything that runs the plugin, so that
/// the rate limit holds for the plugin as a whole.
pub(crate) struct Outlet {
    plugin: PluginId,
    events: Arc<dyn EventSink>,
    host: Arc<dyn HostService>,
    bucket: Mutex<TokenBucket>,
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
        let admitted = {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.admit(Instant::now())
        };
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
        let suppressed = {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            bucket.take_suppressed()
        };
        self.report_suppressed(stream, suppressed);
    }

    pub(crate) fn progress(&self, origin: &Origin, percent: Option<u8>, message: &str) {
        self.emit(Event::StepProgress {
            run: origin.run,
            step: origin.step.clone(),
            percent: percent.map(|percent| percent.min(100)),
            message: escape(message.as_bytes(), self.line_bytes_max).into(),
        });
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
