//! One document per rule: what is accepted, what is refused, and by which rule.

use orchestrator_manifest::{Format, Manifest, Rule};

/// A manifest with nothing but what is required, and `more`.
fn with(more: &str) -> String {
    let mut text = String::new();
    for (key, line) in [
        ("name", "name: my-plugin\n"),
        ("version", "version: \"1.0.0\"\n"),
        ("description", "description: d\n"),
        ("entry_point", "entry_point: run\n"),
    ] {
        let is_replaced = more.lines().any(|own| own.split(':').next() == Some(key));
        let is_builtin = more.contains("builtin") && key == "entry_point";
        if !is_replaced && !is_builtin {
            text.push_str(line);
        }
    }
    text + more + "\n"
}

fn parse(text: &str) -> Result<Manifest, Vec<(Rule, String, String)>> {
    Manifest::parse(text.as_bytes(), Format::Yaml, "plugin.yaml").map_err(|error| {
        let faults = error.faults.into_iter();
        faults
            .map(|fault| (fault.rule, fault.pointer, fault.message))
            .collect()
    })
}

#[test]
fn what_is_accepted() {
    for more in [
        "",
        "name: a.b-c",
        "version: 1.0.0-rc.1+b5",
        "id: com.example.plugin",
        "author:",
        "manifest_version: 1",
        "min_host_version: 1.2.3",
        "entry_point: ./bin/run",
        "kind: wasm",
        "kind: grpc\nargs: [\"--verbose\", \"--region\", \"us-west-2\"]",
        "type: builtin",
        "interpreter: /bin/sh",
        "dependencies: [a, b@^1.2]",
        "dependencies: {a: \">=1, <2\", b: \"*\"}",
        "role: auth",
        "role: [auth, command]",
        "role: resource\nnamespace: FakeAWS",
        "deprecated: true",
        "deprecated: use another-plugin\nchannel: stable",
        "resources: {max_memory_mb: 0, max_goroutines: 10}",
        "phases: [{name: a}]",
        "phases: [{name: a, max_retries: 3, max_attempts: 4}]",
        "phases: [{name: a, timeout: 250ms, effect: compensatable}]",
        "config_schema: {type: object}\nconfig_example: {a: 1}",
        "x-anything: [1, {a: b}]",
    ] {
        parse(&with(more)).unwrap_or_else(|faults| panic!("{more}: {faults:?}"));
    }
}

/// What is added to a good manifest, the rule it breaks and where.
const REFUSED: &[(&str, Rule, &str)] = &[
    ("name: \"\"", Rule::BadName, "/name"),
    ("name: ../x", Rule::BadName, "/name"),
    ("name: a b", Rule::BadName, "/name"),
    ("name: con", Rule::BadName, "/name"),
    ("name: 7", Rule::WrongType, "/name"),
    ("id: Com.Acme", Rule::BadName, "/id"),
    ("id: com.\u{430}cme", Rule::BadName, "/id"),
    (
        "id: a\nname: A b\ndisplay_name: other",
        Rule::Contradiction,
        "/name",
    ),
    ("version: 1.0", Rule::WrongType, "/version"),
    ("version: v1", Rule::BadVersion, "/version"),
    ("version: \"1.0\"", Rule::BadVersion, "/version"),
    ("description: \" \"", Rule::OutOfBounds, "/description"),
    ("author: \"a\\u202Eb\"", Rule::OutOfBounds, "/author"),
    (
        "manifest_version: 2",
        Rule::BadManifestVersion,
        "/manifest_version",
    ),
    ("kind: wasn", Rule::UnknownWord, "/kind"),
    (
        "kind: exec\ntransport: exec",
        Rule::Contradiction,
        "/transport",
    ),
    (
        "kind: exec\ntype: builtin\nentry_point: run",
        Rule::Contradiction,
        "/type",
    ),
    ("kind: wasm\nbinary: true", Rule::Contradiction, "/binary"),
    ("type: internal", Rule::UnknownWord, "/type"),
    ("entry_point: ../../bin/sh", Rule::BadPath, "/entry_point"),
    ("entry_point: /bin/sh", Rule::BadPath, "/entry_point"),
    ("entry_point: a\\b", Rule::BadPath, "/entry_point"),
    ("main: a", Rule::Contradiction, "/main"),
    ("interpreter: python3", Rule::BadPath, "/interpreter"),
    (
        "kind: wasm\ninterpreter: /bin/sh",
        Rule::Misplaced,
        "/interpreter",
    ),
    ("kind: dylib\nargs: [a]", Rule::Misplaced, "/args"),
    ("args: [\"a\\u0000b\"]", Rule::OutOfBounds, "/args/0"),
    (
        "dependencies: {Other: \"*\"}",
        Rule::BadName,
        "/dependencies/Other",
    ),
    (
        "dependencies: {other: one}",
        Rule::BadRange,
        "/dependencies/other",
    ),
    (
        "dependencies: [a, a@^1]",
        Rule::Contradiction,
        "/dependencies/1",
    ),
    (
        "capabilities: [file:exec]",
        Rule::BadCapability,
        "/capabilities/0",
    ),
    (
        "capabilities: {file: read}",
        Rule::WrongType,
        "/capabilities",
    ),
    ("capabilites: [file:read]", Rule::UnknownKey, "/capabilites"),
    (
        "permissions: {network: {fecth: true}}",
        Rule::BadCapability,
        "/permissions/network/fecth",
    ),
    (
        "permissions: {constructor: {name: true}}",
        Rule::BadCapability,
        "/permissions/constructor/name",
    ),
    (
        "permissions: {storage: {read: 1}}",
        Rule::WrongType,
        "/permissions/storage/read",
    ),
    (
        "resources: {max_memory_mb: -1}",
        Rule::OutOfBounds,
        "/resources/max_memory_mb",
    ),
    (
        "resources: {max_memory: 1}",
        Rule::UnknownKey,
        "/resources/max_memory",
    ),
    ("phases: [{}]", Rule::Required, "/phases/0/name"),
    ("phases: [{name: -x}]", Rule::BadName, "/phases/0/name"),
    (
        "phases: [{name: a}, {name: a}]",
        Rule::Contradiction,
        "/phases/1",
    ),
    (
        "phases: [{name: a, timeout: 10}]",
        Rule::WrongType,
        "/phases/0/timeout",
    ),
    (
        "phases: [{name: a, timeout: \"10\"}]",
        Rule::BadDuration,
        "/phases/0/timeout",
    ),
    (
        "phases: [{name: a, timeout: -5m}]",
        Rule::BadDuration,
        "/phases/0/timeout",
    ),
    (
        "phases: [{name: a, timeout: 0s}]",
        Rule::BadDuration,
        "/phases/0/timeout",
    ),
    (
        "phases: [{name: a, retryable: yes}]",
        Rule::WrongType,
        "/phases/0/retryable",
    ),
    (
        "phases: [{name: a, max_retries: 3, max_attempts: 3}]",
        Rule::Contradiction,
        "/phases/0/max_attempts",
    ),
    (
        "phases: [{name: a, max_retries: 1000}]",
        Rule::OutOfBounds,
        "/phases/0/max_retries",
    ),
    (
        "phases: [{name: a, effect: idempotant}]",
        Rule::UnknownWord,
        "/phases/0/effect",
    ),
    ("prompts: {a: ../secret}", Rule::BadPath, "/prompts/a"),
    (
        "output_spec: {primary_output: /etc/passwd}",
        Rule::BadPath,
        "/output_spec/primary_output",
    ),
    ("role: resource", Rule::Misplaced, "/role"),
    ("role: domain", Rule::Misplaced, "/role"),
    ("role: []", Rule::OutOfBounds, "/role"),
    ("namespace: a/b", Rule::BadName, "/namespace"),
    (
        "env_mapping: {a.b: $HOME}",
        Rule::BadName,
        "/env_mapping/a.b",
    ),
    (
        "sensitive_fields: [a..b]",
        Rule::BadName,
        "/sensitive_fields/0",
    ),
    (
        "config_schema: {type: objekt}",
        Rule::BadSchema,
        "/config_schema",
    ),
    (
        "config_schema: {$ref: \"http://127.0.0.1:1/x\"}",
        Rule::BadSchema,
        "/config_schema",
    ),
    (
        "config_schema: {type: object}\nconfig_example: 3",
        Rule::BadExample,
        "/config_example",
    ),
    ("trust_level: 3", Rule::UnknownKey, "/trust_level"),
    ("signature: abc", Rule::UnknownKey, "/signature"),
];

#[test]
fn what_is_refused_and_why() {
    for (more, rule, pointer) in REFUSED {
        let faults = parse(&with(more))
            .err()
            .unwrap_or_else(|| panic!("{more}: accepted"));
        let [(found, at, _)] = faults.as_slice() else {
            panic!("{more}: one fault expected, found {faults:?}")
        };
        assert_eq!(
            (*found, at.as_str()),
            (*rule, *pointer),
            "{more}: {faults:?}"
        );
    }
}

/// No retries is something else than nothing said, also when it is read again.
#[test]
fn no_retries_is_said_and_not_left_out() {
    for (phase, attempts) in [
        ("{name: a}", None),
        ("{name: a, max_retries: 0}", Some(1)),
        ("{name: a, max_attempts: 1}", Some(1)),
        ("{name: a, max_retries: 2}", Some(3)),
    ] {
        let manifest = parse(&with(&format!("phases: [{phase}]"))).unwrap();
        assert_eq!(manifest.phases[0].max_attempts(), attempts, "{phase}");
        let again = Manifest::from_value(&manifest.to_value(), "again").unwrap();
        assert_eq!(again, manifest);
    }
}

#[test]
fn a_missing_key_is_named() {
    for key in ["name", "version", "description", "entry_point"] {
        let text: String = with("")
            .lines()
            .filter(|line| !line.starts_with(key))
            .map(|line| format!("{line}\n"))
            .collect();
        let faults = parse(&text).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        let (rule, pointer, message) = &faults[0];
        assert_eq!(
            (*rule, pointer.as_str()),
            (Rule::Required, format!("/{key}").as_str())
        );
        assert_eq!(*message, "required");
    }
}

#[test]
fn what_is_no_manifest_at_all_is_refused() {
    for text in [
        "",
        "[]",
        "3",
        "text",
        "{",
        "a: b: c",
        "\u{0}",
        "--- {}\n--- {}\n",
    ] {
        for format in [Format::Yaml, Format::Json, Format::Toml] {
            let result = Manifest::parse(text.as_bytes(), format, "plugin");
            assert!(result.is_err(), "{text:?} as {format:?}");
        }
    }
    let not_text = Manifest::parse(&[0xff, 0xfe, 0x00], Format::Json, "plugin").unwrap_err();
    assert_eq!(not_text.faults[0].rule, Rule::Syntax);
}
