//! What one record says.

use std::collections::BTreeMap;

use jiff::Timestamp;
use orchestrator_manifest::text::harmless_within;
use serde::{Deserialize, Serialize};

use super::clean::{NamesSecret, clean};

/// The longest record, in bytes with its line end. What a record may hold
/// stays below it; a longer line is no record.
pub const LINE_BYTES_MAX: usize = 32 * 1024;

pub(super) const WORD_BYTES_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 2_048;
const CONTEXT_MAX: usize = 16;
const CONTEXT_KEY_BYTES_MAX: usize = 64;

/// What sort of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// A package's signature and files were checked.
    Verify,
    /// A plugin was loaded, or was not.
    Load,
    /// Capabilities were given.
    Grant,
    /// Capabilities were taken back.
    Revoke,
    /// Whom this host trusts was changed.
    RootChange,
    /// A key was made, replaced or removed.
    KeyChange,
    /// A package was installed.
    Install,
    /// A package was removed.
    Remove,
    /// The lock file was changed.
    LockChange,
    /// A key of this host signed something.
    Sign,
    /// A plugin's process was started.
    Spawn,
    /// A plugin's process ended.
    Exit,
    /// Something was asked for that is not allowed.
    Denial,
    /// The settings are others than before.
    ConfigChange,
    /// How a process is confined.
    Sandbox,
    /// Somebody came with a bad token, cookie or passphrase.
    TokenRefused,
    /// The end of the log was not whole and was cut off.
    Repaired,
    /// The log before this one was damaged and is kept beside it.
    SetAside,
    /// Records were counted instead of written.
    Suppressed,
    /// Segments at the beginning were removed, as the operator set.
    Pruned,
    /// A checkpoint did not reach its second place, or does again.
    Checkpoint,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is about to be done. Without a later record of how it went, it was
    /// interrupted.
    Begun,
    /// It was asked for and allowed.
    Allowed,
    /// It was asked for and refused.
    Denied,
    /// It was done.
    Ok,
    /// It went wrong.
    Failed,
}

impl Kind {
    /// The kind as it is written in a record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Load => "load",
            Self::Grant => "grant",
            Self::Revoke => "revoke",
            Self::RootChange => "root_change",
            Self::KeyChange => "key_change",
            Self::Install => "install",
            Self::Remove => "remove",
            Self::LockChange => "lock_change",
            Self::Sign => "sign",
            Self::Spawn => "spawn",
            Self::Exit => "exit",
            Self::Denial => "denial",
            Self::ConfigChange => "config_change",
            Self::Sandbox => "sandbox",
            Self::TokenRefused => "token_refused",
            Self::Repaired => "repaired",
            Self::SetAside => "set_aside",
            Self::Suppressed => "suppressed",
            Self::Pruned => "pruned",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// Something that happened and is to be recorded. Texts may be anything: they
/// are cleaned and cut when they are recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// What sort of thing happened.
    pub kind: Kind,
    /// How it went.
    pub outcome: Outcome,
    /// Who did it, for instance `ada (uid 1000)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// The plugin it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// The plugin's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The key it is about, or that signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Identifies the exact content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The capability that was asked for, given or taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// What was to be used: a path, a host, a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// What was to be done with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The code of the error, `ORC-nnnn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The run it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The step it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// More, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// More, for programs; names that are nobody else's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context: BTreeMap<String, String>,
}

impl AuditEvent {
    /// An event that says nothing more yet.
    pub fn new(kind: Kind, outcome: Outcome) -> Self {
        Self {
            kind,
            outcome,
            actor: None,
            plugin: None,
            version: None,
            key: None,
            digest: None,
            capability: None,
            resource: None,
            action: None,
            rule: None,
            code: None,
            run: None,
            step: None,
            detail: None,
            context: BTreeMap::new(),
        }
    }

    /// About this plugin.
    #[must_use]
    pub fn plugin(mut self, plugin: impl Into<String>) -> Self {
        self.plugin = Some(plugin.into());
        self
    }

    /// With this explanation.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With one more thing for programs.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.context.insert(name.to_owned(), value.into());
        self
    }

    /// Bounded, harmless and without secrets.
    pub(super) fn cleaned(mut self, names_secret: NamesSecret) -> Self {
        let words = [
            &mut self.actor,
            &mut self.plugin,
            &mut self.version,
            &mut self.key,
            &mut self.digest,
            &mut self.action,
            &mut self.rule,
            &mut self.code,
            &mut self.run,
            &mut self.step,
        ];
        for word in words.into_iter().flatten() {
            *word = clean(word, WORD_BYTES_MAX, names_secret);
        }
        let texts = [&mut self.capability, &mut self.resource, &mut self.detail];
        for text in texts.into_iter().flatten() {
            *text = clean(text, TEXT_BYTES_MAX, names_secret);
        }
        let context = std::mem::take(&mut self.context).into_iter();
        self.context = context
            .take(CONTEXT_MAX)
            .map(|(name, value)| {
                let value = match names_secret(&name) {
                    true => "[redacted]".to_owned(),
                    false => clean(&value, WORD_BYTES_MAX, names_secret),
                };
                (harmless_within(&name, CONTEXT_KEY_BYTES_MAX), value)
            })
            .collect();
        self
    }

    /// The record but for its number, which comes first and is not known yet.
    pub(super) fn to_tail(&self, now: Timestamp) -> Vec<u8> {
        #[derive(Serialize)]
        struct Tail<'e> {
            time: String,
            #[serde(flatten)]
            event: &'e AuditEvent,
        }
        let tail = Tail {
            time: format!("{now:.3}"),
            event: self,
        };
        // Texts and numbers can always be written.
        serde_json::to_vec(&tail).unwrap_or_default()
    }
}

/// Appends the whole line: the number, and what [`AuditEvent::to_tail`] gave.
pub(super) fn write_line(seq: u64, tail: &[u8], line: &mut Vec<u8>) {
    line.extend_from_slice(b"{\"seq\":");
    line.extend_from_slice(seq.to_string().as_bytes());
    line.push(b',');
    line.extend_from_slice(tail.get(1..).unwrap_or_default());
    line.push(b'\n');
}

/// A record as it is read back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its number, from 0, without gaps.
    pub seq: u64,
    /// When it happened: RFC 3339, UTC, milliseconds.
    pub time: String,
    /// What happened.
    #[serde(flatten)]
    pub event: AuditEvent,
}

impl AuditRecord {
    /// Reads one line.
    ///
    /// # Errors
    ///
    /// For anything that is no record.
    pub fn parse(line: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(line)
    }
}

/// As much of a record as is needed to know its place.
#[derive(Deserialize)]
pub(super) struct Head<'l> {
    pub(super) seq: u64,
    #[serde(borrow, default)]
    pub(super) kind: std::borrow::Cow<'l, str>,
}

impl<'l> Head<'l> {
    pub(super) fn parse(line: &'l [u8]) -> Result<Self, &'static str> {
        if line.len() >= LINE_BYTES_MAX {
            return Err("it is too long");
        }
        serde_json::from_slice(line).map_err(|_| "it is no record")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> bool {
        false
    }

    fn whole(seq: u64, event: &AuditEvent) -> Vec<u8> {
        let mut line = Vec::new();
        let now = Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        write_line(seq, &event.to_tail(now), &mut line);
        line
    }

    /// The names that a record of an operation and of a violation has.
    #[test]
    fn a_record_is_one_line_with_names_that_never_change() {
        let mut event = AuditEvent::new(Kind::Denial, Outcome::Denied)
            .plugin("greeter")
            .detail("capability file:read=/etc not allowed")
            .with("phase", "greet");
        event.capability = Some("file:read=/etc".to_owned());
        event.resource = Some("/etc/shadow".to_owned());
        event.action = Some("read".to_owned());
        event.code = Some("ORC-2150".to_owned());
        let expected = concat!(
            r#"{"seq":7,"time":"2023-11-14T22:13:20.123Z","kind":"denial","outcome":"denied","#,
            r#""plugin":"greeter","capability":"file:read=/etc","resource":"/etc/shadow","#,
            r#""action":"read","code":"ORC-2150","#,
            r#""detail":"capability file:read=/etc not allowed","context":{"phase":"greet"}}"#,
            "\n"
        );
        let line = whole(7, &event);
        assert_eq!(String::from_utf8(line.clone()).unwrap(), expected);
        let read = AuditRecord::parse(&line).unwrap();
        assert_eq!((read.seq, read.event), (7, event));
        assert_eq!(Head::parse(&line).unwrap().kind, "denial");
    }

    #[test]
    fn kinds_are_written_as_they_are_called() {
        for kind in [
            Kind::RootChange,
            Kind::TokenRefused,
            Kind::Sandbox,
            Kind::SetAside,
            Kind::Pruned,
        ] {
            let written = serde_json::to_string(&kind).unwrap();
            assert_eq!(written, format!("\"{}\"", kind.as_str()));
        }
    }

    #[test]
    fn the_largest_record_fits_on_a_line() {
        let long = "\"\\\u{1b}".repeat(100_000);
        let mut event = AuditEvent::new(Kind::Denial, Outcome::Denied)
            .plugin(&long)
            .detail(&long);
        for field in [
            &mut event.actor,
            &mut event.version,
            &mut event.key,
            &mut event.digest,
            &mut event.capability,
            &mut event.resource,
            &mut event.action,
            &mut event.rule,
            &mut event.code,
            &mut event.run,
            &mut event.step,
        ] {
            *field = Some(long.clone());
        }
        for number in 0..100 {
            event = event.with(&format!("{number}{long}"), &long);
        }
        let line = whole(u64::MAX, &event.cleaned(none));
        assert!(line.len() < LINE_BYTES_MAX, "{}", line.len());
        assert!(Head::parse(&line[..line.len() - 1]).is_ok());
        assert!(!line[..line.len() - 1].contains(&b'\n'));
    }
}
