//! The smallest plugin.

use serde_json::json;

use crate::process::{file, run};

const SCRIPT: &str = "shell/hello/hello.sh";

#[test]
fn it_greets_whatever_it_is_given() {
    let cases = [
        ("\"world\"\n", json!({ "hello": "world" })),
        (
            "{\n \"a\\\\b\": \"c\\nd\"\n}",
            json!({ "hello": { "a\\b": "c\nd" } }),
        ),
        ("", json!({ "hello": null })),
    ];
    for (input, expected) in cases {
        let greeted = run(file(SCRIPT), &["execute", "greet"], &[], input.as_bytes());
        assert_eq!(greeted.json(), expected, "{input}");
    }
    assert_eq!(run(file(SCRIPT), &["validate"], &[], b"").code, Some(0));
    assert_eq!(
        run(file(SCRIPT), &["execute", "other"], &[], b"").code,
        Some(2)
    );
}

#[test]
fn it_is_the_smallest() {
    let lines = std::fs::read_to_string(file(SCRIPT)).unwrap();
    assert!(lines.lines().count() <= 15);
}
