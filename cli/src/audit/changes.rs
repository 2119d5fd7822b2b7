//! What is recorded of commands: what they are about to change, how that went,
//! and what was refused.

use std::{ffi::OsString, path::Path, sync::Arc};

use miette::Diagnostic as _;
use orchestrator_signing::{
    Package, PublicKey, ReleaseSummary, Verified,
    audit::{AuditError, AuditEvent, Outcome},
    claimed,
};

use super::{
    Audit,
    commands::{self, Recorded},
    lock, set_aside,
};
use crate::{context::Context, exit::Exit, failure::Result, whoami::whoami};

/// Does what a command does. Where it changes something, that is durably recorded
/// before, so that a command that is killed leaves it too, and how it went before
/// the command ends. Nothing is changed that cannot be recorded.
pub(crate) fn around(
    context: &Context,
    arguments: &[OsString],
    act: impl FnOnce() -> Result,
) -> Result {
    let result = match commands::recorded(arguments) {
        Some(Recorded::Change { event, takes_away }) => opened(context, takes_away)
            .and_then(|audit| recorded(&audit, by_whoever_runs_this(event), act)),
        Some(Recorded::Refusal(event)) => {
            let result = act();
            if is_refusal(&result) {
                record_refusal(context, by_whoever_runs_this(event), &result);
            }
            result
        }
        None => act(),
    };
    context.close_audit();
    result
}

fn by_whoever_runs_this(mut event: AuditEvent) -> AuditEvent {
    event.actor = Some(whoami());
    event
}

/// The log. One that is damaged keeps nobody from taking away what others may do;
/// it is set aside for that, and said aloud.
fn opened(context: &Context, takes_away: bool) -> Result<Arc<Audit>> {
    context.audit().or_else(|failure| {
        if !takes_away {
            return Err(failure);
        }
        match set_aside(context) {
            Ok(Some((aside, why))) => {
                tell_set_aside(context, &aside, &why);
                context.audit()
            }
            Ok(None) => context.audit(),
            Err(_) => Err(failure),
        }
    })
}

fn tell_set_aside(context: &Context, aside: &Path, why: &AuditError) {
    let code = why.code().map(|code| code.to_string()).unwrap_or_default();
    context.out.warn(&format!(
        "{code}: {why}; the damaged audit log is kept in `{}`, and a new one begins",
        aside.display()
    ));
}

/// Records the change, makes it, and records how it went.
fn recorded(audit: &Audit, event: AuditEvent, act: impl FnOnce() -> Result) -> Result {
    let mut begun = event.clone();
    begun.outcome = Outcome::Begun;
    let event = match audit.record(begun)? {
        Some(seq) => event.with("begun", seq.to_string()),
        None => event,
    };
    let result = act();
    audit.record(completed(event, audit, &result)).and(result)
}

/// Records a change, makes it, and records how it went, as the commands do.
pub(crate) async fn change(
    audit: &Arc<Audit>,
    event: AuditEvent,
    act: impl Future<Output = Result>,
) -> Result {
    let mut begun = event.clone();
    begun.outcome = Outcome::Begun;
    let event = match durably(audit, begun).await? {
        Some(seq) => event.with("begun", seq.to_string()),
        None => event,
    };
    let result = act.await;
    durably(audit, completed(event, audit, &result))
        .await
        .and(result)
}

/// Records without holding up others.
async fn durably(audit: &Arc<Audit>, event: AuditEvent) -> Result<Option<u64>> {
    let audit = Arc::clone(audit);
    let recorded = tokio::task::spawn_blocking(move || audit.record(event)).await;
    recorded.map_err(std::io::Error::other)?
}

fn is_refusal(result: &Result) -> bool {
    let is_it = |exit| matches!(exit, Exit::Trust | Exit::Denied);
    result.as_ref().is_err_and(|failure| is_it(failure.exit))
}

/// A command that changes nothing fails with what was refused, recorded or not.
fn record_refusal(context: &Context, event: AuditEvent, result: &Result) {
    let recorded = context
        .audit()
        .and_then(|audit| audit.record(completed(event, &audit, result)));
    if let Err(failure) = recorded {
        let why = failure.report().map(ToString::to_string);
        let why = why.unwrap_or_default();
        context.out.warn(&format!("this is not recorded: {why}"));
    }
}

fn completed(mut event: AuditEvent, audit: &Audit, result: &Result) -> AuditEvent {
    if let Some(about) = lock(&audit.about).take() {
        event = about.put_into(event);
    }
    if let Err(failure) = result
        && failure.exit != Exit::Ok
    {
        event.outcome = Outcome::Failed;
        let report = failure.report();
        event.code = report
            .and_then(|report| report.code())
            .map(|code| code.to_string());
        event.detail = report.map(ToString::to_string);
    }
    event
}

/// What the command is about, which its arguments only name.
#[derive(Debug, Default)]
pub(crate) struct About {
    plugin: Option<String>,
    version: Option<String>,
    pub(super) key: Option<String>,
    pub(super) digest: Option<String>,
    pub(super) detail: Option<String>,
    more: Vec<(&'static str, String)>,
    /// Whether that is no more than what a package says of itself.
    is_claimed: bool,
}

impl About {
    /// A package that was verified.
    pub(crate) fn package(package: &Verified<Package>) -> Self {
        let manifest = package.manifest();
        Self {
            plugin: Some(manifest.id.to_string()),
            version: Some(manifest.version.to_string()),
            key: Some(package.publisher().to_string()),
            digest: package.statement_digest().map(|digest| digest.to_string()),
            ..Self::default()
        }
    }

    /// A package that may not be verified, by what it says itself.
    pub(crate) fn claimed(dir: &Path) -> Self {
        let Some(claimed) = claimed(dir) else {
            return Self::default();
        };
        let keys: Vec<_> = claimed.keys.iter().map(ToString::to_string).collect();
        Self {
            plugin: Some(claimed.name),
            version: Some(claimed.version),
            key: (!keys.is_empty()).then(|| keys.join(" ")),
            digest: claimed.digest.map(|digest| digest.to_string()),
            is_claimed: true,
            ..Self::default()
        }
    }

    /// A release that was signed with a key.
    pub(crate) fn signed(release: &ReleaseSummary, key: &PublicKey) -> Self {
        Self {
            plugin: Some(release.name.clone()),
            version: Some(release.version.clone()),
            key: Some(key.id().to_string()),
            digest: Some(release.digest.to_string()),
            ..Self::default()
        }
    }

    /// Keys, which the command line may have named by their files.
    pub(crate) fn keys<'k>(keys: impl IntoIterator<Item = &'k PublicKey>) -> Self {
        let (mut ids, mut names) = (Vec::new(), Vec::new());
        for key in keys {
            ids.push(key.id().to_string());
            names.push(key.name());
        }
        Self {
            key: Some(ids.join(" ")),
            more: vec![("key_names", names.join(" "))],
            ..Self::default()
        }
    }

    /// With one more thing for programs, where it is known.
    pub(super) fn add(&mut self, name: &'static str, value: Option<String>) {
        self.more.extend(value.map(|value| (name, value)));
    }

    /// What has this digest.
    pub(crate) fn digest(digest: impl ToString) -> Self {
        Self {
            digest: Some(digest.to_string()),
            ..Self::default()
        }
    }

    fn put_into(self, mut event: AuditEvent) -> AuditEvent {
        for (field, known) in [
            (&mut event.plugin, self.plugin),
            (&mut event.version, self.version),
            (&mut event.key, self.key),
            (&mut event.digest, self.digest),
            (&mut event.detail, self.detail),
        ] {
            if known.is_some() {
                *field = known;
            }
        }
        for (name, value) in self.more {
            event = event.with(name, value);
        }
        match self.is_claimed {
            true => event.with("claimed", "true"),
            false => event,
        }
    }
}

/// Says what the command turned out to be about; the last word counts.
pub(crate) fn about(context: &Context, about: About) {
    *lock(&context.audit_log().about) = Some(about);
}
