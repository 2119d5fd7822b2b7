//! What a plugin may give back, whatever its kind.

use orchestrator_contract::{ErrorKind, Reconciled};
use serde_json::json;

use crate::{
    node_plugin::install,
    support::{Home, call, handle, output, rule, status},
};

/// Outputs that say they are JSON and that some reader would not take.
const NOT_JSON: [(&[u8], &str); 6] = [
    (b"{\"a\":1", "line 1 column 6"),
    (b"[1,\n\"\xff\"]", "line 2 column 2"),
    (b"\"\\ud800\"", "unexpected end of hex escape"),
    (b"1e999", "number out of range"),
    (b"1 2", "trailing characters"),
    (
        &[b'['; 100_000],
        "nested more than 120 levels deep at line 1",
    ),
];

#[tokio::test]
async fn an_output_of_a_node_plugin_that_says_it_is_json_is() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    for of in ["application/json", "application/x+json; charset=utf-8"] {
        for (bytes, why) in NOT_JSON.into_iter().chain([(&b""[..], "EOF")]) {
            let error = call(&plugin, "typed", json!([of, bytes]))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidOutput, "{error}");
            assert!(error.to_string().contains(why), "{why}: {error}");
        }
    }
    let reply = call(&plugin, "typed", json!(["text/plain", b"{\"a\""])).await;
    assert_eq!(reply.unwrap().output.bytes, "{\"a\"");
    let long = format!("[{}1]", "1e9, ".repeat(100_000));
    let reply = call(
        &plugin,
        "typed",
        json!(["application/json", long.as_bytes()]),
    )
    .await;
    assert_eq!(reply.unwrap().output.bytes, long);
    assert_eq!(status(&runtime, &id).restarts, 0);
}

#[tokio::test]
async fn a_reconciled_output_is_looked_through_too() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let told = plugin.reconcile(&"echo".into(), "done-with-garbage").await;
    assert_eq!(told, Reconciled::Unknown);
}

#[tokio::test]
async fn an_output_of_an_exec_plugin_is_json() {
    let home = Home::new();
    let id = home.id("exec");
    // The input is the script that writes the output.
    home.shell(&id, &["run"], "run) eval \"$(cat)\";;");
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    for (bytes, why) in NOT_JSON {
        let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
        let mut input = crate::support::phase_call(&id, "run", json!(null));
        input.input.bytes = format!("printf '{octal}'").into();
        let error = tower::Service::call(&mut plugin.clone(), input).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOutput, "{error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
}

/// A media type goes into headers and environments, so nothing else may stand there.
#[tokio::test]
async fn a_content_type_is_a_media_type() {
    let home = Home::new();
    let id = home.id("node");
    install(&home, &id, "good", json!({}));
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let long = format!("text/{}", "x".repeat(10_000));
    for of in [
        "text/plain\r\nSet-Cookie: a=b",
        "text/\u{1b}[31mred",
        "text/pl\0in",
        "text/plain; charset",
        "nothing",
        "",
        &long,
    ] {
        let error = call(&plugin, "typed", json!([of, b"1"])).await.unwrap_err();
        assert_eq!(rule(&error), "content_type");
        let shown = error.to_string();
        assert!(
            shown.len() < 600 && !shown.contains(['\r', '\u{1b}', '\0']),
            "{shown}"
        );
    }
    let of = "text/plain; charset=\"utf-8\"";
    let reply = call(&plugin, "typed", json!([of, b"1"])).await.unwrap();
    assert_eq!(reply.output.content_type.as_str(), of);
    assert_eq!(output(&plugin, "echo", json!(1)).await, json!(1));
}
