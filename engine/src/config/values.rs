//! Values that cannot work, whatever the others are.

use orchestrator_observability::log::Filter;

use super::{Config, ConfigError};

/// Finds at start what would otherwise stop a task in the background, or every
/// request.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let Config {
        server,
        runtime,
        journal,
        session,
        ..
    } = config;
    let zeros = [
        ("server.header_timeout", server.header_timeout.is_zero()),
        ("server.request_timeout", server.request_timeout.is_zero()),
        (
            "server.write_idle_timeout",
            server.write_idle_timeout.is_zero(),
        ),
        ("server.write_timeout", server.write_timeout.is_zero()),
        ("server.event_heartbeat", server.event_heartbeat.is_zero()),
        (
            "runtime.monitor.interval",
            runtime.monitor.interval.is_zero(),
        ),
        ("journal.group_records_max", journal.group_records_max == 0),
        ("journal.group_bytes_max", journal.group_bytes_max == 0),
        ("journal.queue_max", journal.queue_max == 0),
        ("journal.payload_bytes_max", journal.payload_bytes_max == 0),
        ("journal.readers_max", journal.readers_max == 0),
        ("journal.cancel_poll", journal.cancel_poll.is_zero()),
        ("session.sweep_interval", session.sweep_interval.is_zero()),
    ];
    if let Some((key, _)) = zeros.into_iter().find(|(_, is_zero)| *is_zero) {
        return Err(ConfigError::Zero { key });
    }
    match config.log.level.parse::<Filter>() {
        Ok(_) => Ok(()),
        Err(error) => Err(ConfigError::LogLevel {
            reason: error.to_string(),
        }),
    }
}
