//! What is told of a plugin.

use std::{sync::Arc, time::SystemTime};

use orchestrator_contract::{CallError, PhaseCall, PhaseReply, PluginState};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::{BoxFuture, Builtin, CallContext, Plugin, ProblemClass};
use serde_json::{Value, json};

use crate::support::{File, Home, status};

const FILES: [File<'_>; 2] = [
    File {
        path: "main.sh",
        content: "echo 1",
    },
    File {
        path: "p.txt",
        content: "ask",
    },
];

#[tokio::test]
async fn everything_that_a_manifest_says_of_the_plugin_is_told() {
    let home = Home::new();
    home.package("base", json!({ "version": "1.4.0" }), &FILES);
    let manifest = json!({
        "author": "A. Author",
        "license": "Apache-2.0",
        "dependencies": { "base": "^1.2" },
        "resources": { "max_memory_mb": 64, "max_tasks": 0 },
        "config_schema": { "type": "object", "properties": { "token": { "type": "string" } } },
        "sensitive_fields": ["token"],
        "prompts": { "run": "p.txt" },
        "phases": [{
            "name": "run", "description": "Runs.", "timeout": "90s",
            "effect": "idempotent", "max_retries": 3,
        }],
    });
    home.package("told", manifest, &FILES);
    let runtime = home.start().await;
    let seen = serde_json::to_value(status(&runtime, "told")).unwrap();
    for (pointer, expected) in [
        ("/author", json!("A. Author")),
        ("/license", json!("Apache-2.0")),
        (
            "/dependencies",
            json!([{ "id": "base", "range": "^1.2", "version": "1.4.0" }]),
        ),
        (
            "/limits",
            json!({ "memory_bytes": 64 << 20, "cpu_percent": null, "tasks": null, "files": null,
                "disk_bytes": null }),
        ),
        ("/has_config_schema", json!(true)),
        ("/sensitive_fields", json!(["token"])),
        (
            "/warnings",
            json!(["key `prompts` is not used by this build"]),
        ),
        (
            "/phases",
            json!([{
                "name": "run", "description": "Runs.", "effect": "idempotent",
                "timeout_ms": 90_000, "max_retries": 3,
            }]),
        ),
        ("/error", Value::Null),
    ] {
        assert_eq!(seen.pointer(pointer), Some(&expected), "{pointer}");
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = i64::try_from(now.unwrap().as_millis()).unwrap();
    let at = seen["history"][0]["at_ms"].as_i64().unwrap();
    assert!((now - 60_000..=now).contains(&at), "{at}");
}

#[tokio::test]
async fn a_problem_says_of_what_class_it_is() {
    let home = Home::new();
    home.package("disk", json!({ "resources": { "max_disk_mb": 5 } }), &FILES);
    home.package(
        "lonely",
        json!({ "dependencies": { "nobody": "*" } }),
        &FILES,
    );
    home.package(
        "wasm",
        json!({ "kind": "wasm", "interpreter": null }),
        &FILES,
    );
    home.unsigned_package("unsigned", json!({}), &FILES);
    let ungranted = home.unsigned_package("ungranted", json!({}), &FILES);
    home.sign(&ungranted);
    let runtime = home.start().await;
    for (id, class, text) in [
        ("disk", ProblemClass::Invalid, "invalid"),
        ("lonely", ProblemClass::NotFound, "not_found"),
        ("wasm", ProblemClass::Failed, "failed"),
        ("unsigned", ProblemClass::Trust, "trust"),
        ("ungranted", ProblemClass::Denied, "denied"),
    ] {
        let problem = status(&runtime, id).error.unwrap();
        assert_eq!(problem.class, class, "{id}");
        assert_eq!(serde_json::to_value(problem).unwrap()["class"], text);
    }
}

struct Still;

impl Plugin for Still {
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        Box::pin(async move { Ok(PhaseReply::new(call.input)) })
    }
}

/// A limit that is written and not held would mislead.
#[tokio::test]
async fn a_builtin_with_a_limit_is_refused() {
    let manifest = json!({
        "id": "still", "version": "1.0.0", "description": "d", "kind": "builtin",
        "entry_point": "still", "phases": [{ "name": "run" }],
        "resources": { "max_memory_mb": 64 },
    });
    let manifest = Manifest::from_value(&manifest, "still").unwrap();
    let home = Home::new();
    let runtime = home
        .start_with(vec![Builtin::new(manifest, Still)])
        .await
        .unwrap();
    let seen = status(&runtime, "still");
    let problem = seen.error.unwrap();
    assert_eq!(
        (seen.state, &*problem.code, problem.class),
        (PluginState::Error, "ORC-3020", ProblemClass::Invalid)
    );
    assert_eq!(
        problem.message,
        "applying resource limits: `max_memory_mb` = 64 cannot be enforced for builtins"
    );
}
