//! Rules of the embedding program.

use std::sync::Arc;

use orchestrator_contract::{DenialRule, Event, PluginId};
use orchestrator_engine::{Operation, SecurityValidator, Veto};

use crate::support::{Rig, output, run};

struct Rules;

impl SecurityValidator for Rules {
    fn validate_operation(&self, plugin: &PluginId, operation: Operation<'_>) -> Result<(), Veto> {
        match operation {
            Operation::Call(call) if call.input.bytes.windows(6).any(|it| it == b"secret") => {
                Err(format!("{plugin} gets no secrets").into())
            }
            _ => Ok(()),
        }
    }
}

#[tokio::test]
async fn a_call_that_the_embedding_program_denies_is_not_made() {
    let rig = Rig::new();
    let engine = rig.builder(|_| ()).validator(Arc::new(Rules));
    let engine = engine.start().await.unwrap();
    let body = |text: &str| {
        format!(
            "steps:\n  - id: a\n    plugin: counted\n    phase: count\n    input: {text}\n\
             outputs:\n  it: {{ from: \"${{{{ steps.a.output }}}}\" }}\n"
        )
    };
    let denied = run(&engine, &body("a secret")).await;
    let error = denied.steps[0].error.as_ref().expect("it failed");
    assert!(
        error.to_string().contains("counted gets no secrets"),
        "{error}"
    );
    assert_eq!(rig.counted(), 0);
    let allowed = run(&engine, &body("a word")).await;
    assert_eq!(output(&allowed, "it"), "\"a word\"");
    assert_eq!(rig.counted(), 1);
    let is_veto = |event: &Event| {
        matches!(
            event,
            Event::CapabilityDenied {
                rule: DenialRule::Vetoed,
                ..
            }
        )
    };
    assert_eq!(rig.told.count(is_veto), 1);
}
