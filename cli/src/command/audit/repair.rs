//! `orchestrator audit repair`

use miette::Diagnostic as _;
use serde_json::json;

use crate::{audit, context::Context, failure::Result};

/// Sets a damaged log aside.
pub(super) fn execute(context: &Context) -> Result {
    let found = audit::set_aside(context)?;
    let value = match &found {
        Some((aside, why)) => json!({
            "set_aside": aside,
            "code": why.code().map(|code| code.to_string()),
            "reason": why.to_string(),
        }),
        None => json!({ "set_aside": null }),
    };
    context.out.show(&value, |_| match &found {
        Some((aside, why)) => format!(
            "{why}\nkept in {}; a new log begins, with a key of its own",
            aside.display()
        ),
        None => "the log can be written; nothing was set aside".to_owned(),
    })
}
