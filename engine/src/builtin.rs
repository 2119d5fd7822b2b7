//! Plugins that every engine has.

mod template;

use std::sync::Arc;

use orchestrator_contract::{CallError, PhaseCall, PhaseReply};
use orchestrator_manifest::{Format, Manifest, ManifestError};
use orchestrator_plugin_runtime::{BoxFuture, Builtin, CallContext, Plugin};
use tokio::task::spawn_blocking;

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
        // A template may use all of its fuel, which takes longer than other
        // tasks of a runtime thread should wait.
        Box::pin(async move {
            let rendered = spawn_blocking(move || template::render(&call.input)).await;
            match rendered {
                Ok(result) => result.map(PhaseReply::new),
                Err(ended) => Err(CallError::Panic {
                    message: ended.to_string(),
                }),
            }
        })
    }
}
