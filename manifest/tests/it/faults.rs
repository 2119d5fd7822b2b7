//! All faults at once, each with its place.

use miette::Diagnostic as _;
use orchestrator_manifest::{Format, Manifest};
use serde_json::json;

const YAML: &str = "\
name: my plugin
version: \"1.0\"
entry_point: ../x
capabilites: [file:read]
phases:
  - name: a
    timeout: 10
";

const JSON: &str = r#"{
  "name": "my plugin",
  "version": "1.0",
  "entry_point": "../x",
  "capabilites": ["file:read"],
  "phases": [
    {"name": "a", "timeout": 10}
  ]
}"#;

const TOML: &str = "\
name = \"my plugin\"
version = \"1.0\"
entry_point = \"../x\"
capabilites = [\"file:read\"]
[[phases]]
name = \"a\"
timeout = 10
";

/// Rule, pointer and line of every fault.
fn faults(text: &str, format: Format) -> Vec<(String, String, Option<u32>)> {
    let error = Manifest::parse(text.as_bytes(), format, "plugin.x").unwrap_err();
    assert_eq!(error.faults.len(), error.related().unwrap().count());
    error
        .faults
        .iter()
        .map(|fault| {
            assert_eq!(fault.file, "plugin.x");
            assert!(!fault.help.is_empty(), "{fault}");
            (fault.code.to_owned(), fault.pointer.clone(), fault.line)
        })
        .collect()
}

#[test]
fn six_faults_yield_six_messages_with_places() {
    for (text, format, lines) in [
        (YAML, Format::Yaml, [1, 2, 3, 4, 7]),
        (JSON, Format::Json, [2, 3, 4, 5, 7]),
        (TOML, Format::Toml, [1, 2, 3, 4, 7]),
    ] {
        let mut found = faults(text, format);
        let missing = found
            .iter()
            .position(|(_, pointer, _)| pointer == "/description");
        let (code, _, _) = found.remove(missing.unwrap());
        assert_eq!(code, "ORC-1011");
        let expected = [
            ("ORC-1013", "/name"),
            ("ORC-1014", "/version"),
            ("ORC-1019", "/entry_point"),
            ("ORC-1010", "/capabilites"),
            ("ORC-1012", "/phases/0/timeout"),
        ];
        let expected: Vec<_> = expected
            .into_iter()
            .zip(lines)
            .map(|((code, pointer), line)| (code.to_owned(), pointer.to_owned(), Some(line)))
            .collect();
        assert_eq!(found, expected, "{format:?}");
    }
}

#[test]
fn the_message_names_file_line_and_nearest_key() {
    let error = Manifest::parse(YAML.as_bytes(), Format::Yaml, "dir/plugin.yaml").unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("dir/plugin.yaml:1:1: /description: required"),
        "{text}"
    );
    assert!(text.ends_with("(and 5 more)"), "{text}");
    let unknown = error
        .faults
        .iter()
        .find(|fault| fault.code == "ORC-1010")
        .unwrap();
    assert_eq!(
        unknown.to_string(),
        "dir/plugin.yaml:4:1: /capabilites: unknown key `capabilites`"
    );
    assert_eq!(unknown.help, "did you mean `capabilities`?");
}

#[test]
fn a_syntax_error_has_a_line_in_every_format() {
    for (text, format) in [
        ("name: a\nversion: [1\n", Format::Yaml),
        ("{\n  \"name\": \"a\"\n  \"version\": 1\n}", Format::Json),
        ("name = \"a\"\nversion =\n", Format::Toml),
    ] {
        let found = faults(text, format);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "ORC-1005", "{format:?}: {found:?}");
        assert!(
            found[0].2.is_some_and(|line| line >= 2),
            "{format:?}: {found:?}"
        );
    }
}

#[test]
fn names_from_outside_cannot_write_to_the_terminal() {
    let document = "{\"a\\u001b[2J\": 1, \"a\\u001b[2J\": 2}";
    let twice = Manifest::parse(document.as_bytes(), Format::Json, "p\u{1b}]0;x\n.json");
    let twice = twice.unwrap_err();
    let shown = twice.to_string();
    assert!(shown.contains("`a\\u{1b}[2J` stands twice"), "{shown}");
    assert!(shown.starts_with("p\\u{1b}]0;x\\n.json:"), "{shown}");

    let document = "{\"\u{1b}[2J\u{202e}\": 1}";
    let error = Manifest::parse(document.as_bytes(), Format::Json, "p").unwrap_err();
    let source = error.source_code().unwrap();
    let shown = source.read_span(&(0..document.len()).into(), 0, 0).unwrap();
    assert_eq!(shown.data(), b"{\"?[2J???\": 1}");

    let document = json!({ "x\u{1b}[2J": 1, "config_schema": { "type": "\u{1b}[2J" } });
    let error = Manifest::from_value(&document, "p").unwrap_err();
    assert!(error.faults.len() > 1);
    for fault in &error.faults {
        assert!(
            !fault.to_string().contains('\u{1b}'),
            "{:?}",
            fault.to_string()
        );
    }
}

#[test]
fn a_hostile_document_cannot_ask_for_endless_messages() {
    let mut text = "name: a\nversion: 1.0.0\ndescription: d\nentry_point: x\n".to_owned();
    for key in 0..900 {
        text.push_str(&format!("unknown{key}: 1\n"));
    }
    let error = Manifest::parse(text.as_bytes(), Format::Yaml, "p").unwrap_err();
    assert_eq!(error.faults.len(), 100);
}
