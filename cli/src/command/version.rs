//! `orchestrator version`

use serde_json::json;

use crate::{context::Context, failure::Result};

pub(crate) fn execute(context: &Context) -> Result {
    let version = env!("CARGO_PKG_VERSION");
    let value = json!({ "name": "orchestrator", "version": version });
    context
        .out
        .show(&value, |_| format!("orchestrator {version}"))
}
