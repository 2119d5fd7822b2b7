//! A home that begins anew, although it had a trust root. Whoever removes the folder
//! takes the revocations with it; the audit log still knows that there was one.

use orchestrator_signing::audit::{AuditReader, AuditRecord, Kind, Outcome};

use crate::{audit, context::Context, failure::Result};

/// Says what a first root does not know, where it is not the first of this home.
pub(super) fn tell_forgotten(context: &Context) -> Result {
    let log = audit::dir(&context.home()?, &context.config()?.audit);
    // Without a log, nobody knows.
    let Ok(mut reader) = AuditReader::open(&log, 0) else {
        return Ok(());
    };
    let mut last = None;
    while let Ok(Some(record)) = reader.next_record() {
        last = root_of(&record).or(last);
    }
    if let Some(version) = last {
        context.out.warn(&format!(
            "this home had a trust root before, version {version}, and its folder is gone: what that \
             root had revoked is trusted again where a key for it is, and no release is a step back; \
             unless you meant to begin anew, put the folder back from a copy \
             (`orchestrator audit show --kind root_change` has what was changed)"
        ));
    }
    Ok(())
}

/// The version of the root that a change has left.
fn root_of(record: &AuditRecord) -> Option<u64> {
    let event = &record.event;
    if event.kind != Kind::RootChange || event.outcome != Outcome::Ok {
        return None;
    }
    let version = event.context.get("root_after")?.parse().ok()?;
    (version > 0).then_some(version)
}
