//! The level of a line: what the line itself says, or what its stream means.

use std::borrow::Cow;

use orchestrator_contract::LogLevel;
use serde_json::{Map, Value};

/// Keys of a JSON line that carry nothing beyond level, time and message.
const PLAIN_KEYS: [&str; 12] = [
    "level",
    "@level",
    "severity",
    "lvl",
    "msg",
    "message",
    "@message",
    "time",
    "ts",
    "timestamp",
    "@timestamp",
    "target",
];

/// The level of `line` and the text to show.
///
/// A JSON object with a level keeps it, and shows only its message when it holds
/// nothing else of interest. `WARN text`, `WARN: text` and `[WARN] text` keep
/// theirs. Everything else has the `default` of its stream.
pub(super) fn level_of(line: &str, default: LogLevel) -> (LogLevel, Cow<'_, str>) {
    if line.starts_with('{')
        && let Ok(Value::Object(fields)) = serde_json::from_str(line)
        && let Some(level) = json_level(&fields)
    {
        return match json_message(&fields) {
            Some(message) => (level, message.to_owned().into()),
            None => (level, line.into()),
        };
    }
    match prefix(line) {
        Some((level, rest)) => (level, rest.into()),
        None => (default, line.into()),
    }
}

fn json_level(fields: &Map<String, Value>) -> Option<LogLevel> {
    ["level", "@level", "severity", "lvl"]
        .iter()
        .find_map(|key| fields.get(*key)?.as_str())
        .and_then(|level| named(&level.to_ascii_uppercase()))
}

fn json_message(fields: &Map<String, Value>) -> Option<&str> {
    let plain = fields.keys().all(|key| PLAIN_KEYS.contains(&&**key));
    ["message", "msg", "@message"]
        .iter()
        .find_map(|key| fields.get(*key)?.as_str())
        .filter(|_| plain)
}

fn prefix(line: &str) -> Option<(LogLevel, &str)> {
    let bracketed = line.strip_prefix('[');
    let rest = bracketed.unwrap_or(line);
    let length = rest.bytes().take_while(u8::is_ascii_uppercase).count();
    let (word, rest) = rest.split_at(length);
    let level = named(word)?;
    let rest = match bracketed {
        Some(_) => rest.trim_start_matches(' ').strip_prefix(']')?,
        None => rest.strip_prefix(':').unwrap_or(rest),
    };
    if rest.is_empty() {
        return Some((level, rest));
    }
    rest.strip_prefix([' ', '\t'])
        .map(|rest| (level, rest.trim_start()))
}

fn named(word: &str) -> Option<LogLevel> {
    Some(match word {
        "TRACE" => LogLevel::Trace,
        "DEBUG" => LogLevel::Debug,
        "INFO" | "NOTICE" => LogLevel::Info,
        "WARN" | "WARNING" => LogLevel::Warn,
        "ERROR" | "ERR" | "FATAL" | "CRITICAL" | "PANIC" => LogLevel::Error,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_the_level_they_state() {
        use LogLevel::{Debug, Error, Info, Trace, Warn};
        let cases = [
            ("plain text", Error, "plain text"),
            ("INFO listening", Info, "listening"),
            ("[WARN]  low", Warn, "low"),
            ("DEBUG: x=1", Debug, "x=1"),
            ("TRACE", Trace, ""),
            ("INFORMATION is power", Error, "INFORMATION is power"),
            ("Info listening", Error, "Info listening"),
            ("[INFO listening", Error, "[INFO listening"),
            (r#"{"level":"warn","msg":"low"}"#, Warn, "low"),
            (
                r#"{"@level":"debug","@message":"m","@timestamp":"t"}"#,
                Debug,
                "m",
            ),
            (
                r#"{"level":"info","msg":"m","n":1}"#,
                Info,
                r#"{"level":"info","msg":"m","n":1}"#,
            ),
            (
                r#"{"level":"odd","msg":"m"}"#,
                Error,
                r#"{"level":"odd","msg":"m"}"#,
            ),
            (r#"{"broken"#, Error, r#"{"broken"#),
        ];
        for (line, level, shown) in cases {
            assert_eq!(level_of(line, Error), (level, shown.into()), "{line}");
        }
    }
}
