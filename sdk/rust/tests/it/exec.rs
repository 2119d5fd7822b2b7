//! By hand and as kind `exec`.

use std::process::Output;

use serde_json::{Value, json};

use crate::programs::run;

fn tour(phase: &str, input: &str, variables: &[(&str, &str)]) -> Output {
    run("tour", &["execute", phase], variables, input.as_bytes())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_plugin_of_the_documentation_works_by_hand() {
    let output = run("shout", &["execute", "shout"], &[], b"\"hello\"\n");
    assert_eq!(text(&output.stdout), "\"HELLO\"");
    assert_eq!(text(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn the_plugin_of_the_documentation_is_short() {
    let source = include_str!("../../examples/shout.rs");
    assert!(source.lines().count() < 30);
}

#[test]
fn without_arguments_it_says_what_it_is() {
    let output = run("shout", &[], &[], b"");
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(
        said.starts_with("shout 1.0.0, a plugin for Orchestrator\n"),
        "{said}"
    );
    assert!(said.contains("shout execute <phase>"), "{said}");
    assert!(output.stdout.is_empty());

    let asked = run("shout", &["help"], &[], b"");
    assert_eq!(asked.status.code(), Some(0));
    assert_eq!(text(&asked.stdout), said);

    let wrong = run("shout", &["execute"], &[], b"");
    assert_eq!(wrong.status.code(), Some(2));
}

#[test]
fn it_introduces_itself_also_behind_the_manifests_arguments() {
    for arguments in [&["info"][..], &["--quiet", "info"]] {
        let output = run("shout", arguments, &[], b"");
        let info: Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected = json!({ "id": "shout", "version": "1.0.0", "phases": ["shout"] });
        assert_eq!(info, expected);
        assert!(output.status.success());
    }
}

#[test]
fn the_configuration_is_checked() {
    let good = [("ORCHESTRATOR_CONFIG", r#"{"greeting":"hi"}"#)];
    assert!(run("tour", &["validate"], &good, b"").status.success());
    assert!(run("tour", &["validate"], &[], b"").status.success());
    let bad = [("ORCHESTRATOR_CONFIG", r#"{"greetings":"hi"}"#)];
    let output = run("tour", &["validate"], &bad, b"");
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(
        said.starts_with("configuration: unknown field `greetings`"),
        "{said}"
    );
}

#[test]
fn what_the_host_says_reaches_the_call() {
    let variables = [
        ("ORCHESTRATOR_CONFIG", r#"{"greeting":"hi"}"#),
        (
            "ORCHESTRATOR_GRANTS",
            "process:spawn=/usr/bin/git\nsystem:info",
        ),
        ("ORCHESTRATOR_STEP", "collect"),
        ("ORCHESTRATOR_ATTEMPT", "2"),
        ("ORCHESTRATOR_IDEMPOTENCY_KEY", "k"),
        ("ORCHESTRATOR_TIMEOUT_MS", "60000"),
    ];
    let output = tour("greet", "", &variables);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = json!({
        "greeting": "hi",
        "step": "collect",
        "attempt": 2,
        "key": "k",
        "grants": ["process:spawn=/usr/bin/git", "system:info"],
        "has_deadline": true,
    });
    assert_eq!(answer, expected);
}

#[test]
fn each_failure_has_its_exit_code_and_says_why() {
    let cases = [
        ("fail", "transient", 75, "busy\n"),
        ("fail", "permission", 77, "`network:access` is missing\n"),
        ("fail", "invalid_input", 65, "not that\n"),
        ("fail", "permanent", 1, "never\n"),
        ("count", "", 1, "kind `exec`"),
        ("panic", "", 101, "phase panic panics"),
        (
            "absent",
            "",
            65,
            "`tour` has no phase `absent`; its phases: echo, greet",
        ),
    ];
    for (phase, input, code, message) in cases {
        let output = tour(phase, input, &[]);
        assert_eq!(output.status.code(), Some(code), "{phase} {input}");
        let said = text(&output.stderr);
        assert!(said.contains(message), "{said}");
        assert!(output.stdout.is_empty());
    }
    let output = run("shout", &["execute", "shout"], &[], b"{");
    assert_eq!(output.status.code(), Some(65));
}

#[test]
fn what_a_plugin_prints_is_no_part_of_its_output() {
    let output = tour("print", "", &[]);
    assert_eq!(text(&output.stdout), "\"answer\"");
    assert_eq!(text(&output.stderr), "printed by the plugin\n");
}

#[test]
fn progress_and_log_lines_carry_their_level() {
    let output = tour("report", "", &[]);
    let said = text(&output.stderr);
    assert_eq!(said, "DEBUG 50% half way\nINFO a line\nINFO and another\n");
}

/// What a host reads there is JSON; as a node, the same plugin says what it is.
#[test]
fn text_is_written_as_a_json_text_and_json_of_any_name_as_it_is() {
    let long = "a \"line\" and ünïcode\n".repeat(100_000);
    for (content_type, input, output) in [
        ("text/plain; charset=utf-8", &*long, json!(long).to_string()),
        ("text/csv", "", json!("").to_string()),
        (
            "application/problem+json",
            "{ \"a\":1.0 }",
            "{ \"a\":1.0 }".to_owned(),
        ),
    ] {
        let variables = [("ORCHESTRATOR_CONTENT_TYPE", content_type)];
        let seen = tour("echo", input, &variables);
        assert!(
            text(&seen.stdout) == output,
            "{content_type} is written otherwise"
        );
        assert!(seen.status.success());
    }
}

#[test]
fn an_output_that_cannot_be_json_is_refused_by_its_name() {
    for (content_type, shown) in [
        ("application/octet-stream", "application/octet-stream"),
        ("text/plain", "text/plain that is not UTF-8"),
    ] {
        let variables = [("ORCHESTRATOR_CONTENT_TYPE", content_type)];
        let output = run("tour", &["execute", "echo"], &variables, b"\xff");
        assert_eq!(output.status.code(), Some(1));
        let said = text(&output.stderr);
        assert!(
            said.starts_with(&format!(
                "kind `exec` answers with JSON or text, not with {shown}"
            )),
            "{said}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_deadline_ends_a_call_that_ignores_it_and_one_that_does_not() {
    let variables = [("ORCHESTRATOR_TIMEOUT_MS", "50")];
    let ignored = tour("ignore", "", &variables);
    assert_eq!(ignored.status.code(), Some(75));
    assert!(text(&ignored.stderr).contains("time that the host gives"));
    let obeyed = tour("wait", "", &variables);
    assert_eq!(obeyed.status.code(), Some(1));
    assert_eq!(text(&obeyed.stderr), "tidied up\n");
}
