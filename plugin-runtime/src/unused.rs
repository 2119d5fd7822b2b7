//! Manifest keys that this build reads, checks and then does nothing with.

use orchestrator_manifest::Manifest;

/// A sentence for every such key of `manifest`. Authors would wonder otherwise why
/// what they wrote has no effect.
pub(crate) fn unused_keys(manifest: &Manifest) -> Vec<String> {
    let phases = || manifest.phases.iter();
    let given = [
        ("prompts", !manifest.prompts.is_empty()),
        ("env_mapping", !manifest.env_mapping.is_empty()),
        ("output_spec", manifest.output_spec.is_some()),
        // Written out or not, the defaults are what this build does.
        ("phases.order", phases().any(|phase| phase.order != 0)),
        ("phases.required", phases().any(|phase| !phase.required)),
    ];
    let given = given.iter().filter(|(_, is_given)| *is_given);
    given
        .map(|(key, _)| format!("key `{key}` is not used by this build"))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn unused(over: &Value) -> Vec<String> {
        let mut manifest = json!({
            "id": "p", "version": "1.0.0", "description": "d", "kind": "exec",
            "entry_point": "p", "phases": [{ "name": "x", "order": 0, "required": true }],
        });
        for (key, value) in over.as_object().unwrap() {
            manifest[key] = value.clone();
        }
        unused_keys(&Manifest::from_value(&manifest, "p").unwrap())
    }

    #[test]
    fn every_key_without_effect_is_named_and_no_other() {
        assert!(unused(&json!({ "sensitive_fields": ["token"] })).is_empty());
        let all = unused(&json!({
            "prompts": { "x": "x.txt" },
            "env_mapping": { "token": "TOKEN" },
            "output_spec": { "primary_output": "out.md" },
            "phases": [{ "name": "x", "order": 2, "required": false }],
        }));
        let keys = [
            "prompts",
            "env_mapping",
            "output_spec",
            "phases.order",
            "phases.required",
        ];
        let expected = keys.map(|key| format!("key `{key}` is not used by this build"));
        assert_eq!(all, expected);
    }
}
