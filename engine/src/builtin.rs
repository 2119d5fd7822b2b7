//! Plugins that every engine has.

mod template;

use std::sync::Arc;

use orchestrator_contract::{CallError, PhaseCall, PhaseReply};
use orchestrator_manifest::{Format, Manifest, ManifestError};
use orchestrator_plugin_runtime::{BoxFuture, Builtin, CallContext, Plugin};

/// `template`: phase `render` turns a template and data into text.
///
/// # Errors
///
/// Never in a build whose tests pass.
pub(crate) fn template() -> Result<Builtin, ManifestError> {
    let text = include_bytes!("builtin/template.yaml");
    let manifest = Manifest::parse(text, Format::Yaml, "template.yaml")?;
    Ok(Builtin::new(manifest, Template))
}

struct Template;

impl Plugin for Template {
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        // Rendering is bounded by fuel and output size, and takes no I/O.
        Box::pin(async move { template::render(&call.input).map(PhaseReply::new) })
    }
}
