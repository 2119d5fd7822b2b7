//! Every fault, with the place where its author finds it.

use std::fmt::Write as _;

use super::*;

/// `code line:column "text there" message` for every fault of a pipeline.
fn faults(text: &str) -> Vec<String> {
    let errors = Pipeline::parse(text, "p.yaml").expect_err(text);
    let tell = |fault: &Fault| {
        let (line, column) = (fault.line.unwrap_or(0), fault.column.unwrap_or(0));
        let span = fault.span.unwrap_or((0, 0).into());
        let there = &text[span.offset()..span.offset() + span.len()];
        let there = there.lines().next().unwrap_or("");
        format!("{} {line}:{column} {there:?} {}", fault.code, fault.message)
    };
    errors.faults.iter().map(tell).collect()
}

/// The faults of a step with these lines beside its id, plugin and phase.
fn step(lines: &str) -> Vec<String> {
    let mut text = "version: 1\nname: p\ninput: { repo: { type: string } }\nsteps:\n- id: a\n  plugin: x\n  phase: y\n".to_owned();
    for line in lines.lines() {
        writeln!(text, "  {line}").unwrap();
    }
    faults(&text)
}

#[test]
fn every_fault_is_reported_at_once_and_in_place() {
    let text = "\
version: 2
name: Bad Name
descripton: x
input:
  repo: { type: strin, default: 3 }
  count: { type: integer, default: 1.5, required: true }
concurrency: 65
steps:
  - id: a
    plugin: Bad@^x
    phase: y
    timeout: 5
    inptu: 1
  - id: a
    plugin: x@>>1
    timeout: 10
    required: yes
  - just text
outputs:
  a/b: { from: 1 }
  b: { primary: true }
  c: { from: 1, primary: true }
";
    assert_eq!(
        faults(text),
        [
            "ORC-1114 1:10 \"2\" this format of pipelines is not known",
            "ORC-1113 2:7 \"Bad Name\" `Bad Name` is no name of a pipeline",
            "ORC-1110 3:1 \"descripton\" there is no key `descripton`",
            "ORC-1118 5:17 \"strin\" `strin` is no type",
            "ORC-1141 6:36 \"1.5\" the default does not fit the type",
            "ORC-1119 6:51 \"true\" a field with a default is never missing",
            "ORC-1117 7:14 \"65\" not a number of steps that may run together",
            "ORC-1115 10:13 \"Bad@^x\" `Bad@^x` names no plugin: a name is made of a-z and 0-9, in parts joined by single `.` or `-`",
            "ORC-1116 12:14 \"5\" this is no timeout: a number without a unit",
            "ORC-1110 13:5 \"inptu\" there is no key `inptu`",
            "ORC-1111 14:5 \"\" `phase` is missing",
            "ORC-1120 14:9 \"a\" another step is called `a` already",
            "ORC-1115 15:13 \"x@>>1\" `x@>>1` names no plugin: `>>1` is no range of versions: unexpected character '>' while parsing major version number",
            "ORC-1116 16:14 \"10\" this is no timeout: a number without a unit",
            "ORC-1112 17:15 \"yes\" text where true or false belongs",
            "ORC-1112 18:5 \"just text\" text where a table with `id`, `plugin`, `phase`, `input`, `timeout`, `policy`, `fallback`, `required`, `when`, `needs` belongs",
            "ORC-1113 20:3 \"a/b\" `a/b` is no name of an output",
            "ORC-1111 21:3 \"b\" `from` is missing",
            "ORC-1140 22:17 \"primary\" `b` is primary already",
        ]
    );
}

#[test]
fn faults_in_expressions_point_into_the_text() {
    for (lines, expected) in [
        (
            "input: ${{ input.rep }}",
            "ORC-1132 8:20 \"rep\" the pipeline declares no input `rep`",
        ),
        (
            "input: { deep: [\"a ${{ inptu }}\"] }",
            "ORC-1131 8:26 \"inptu\" there is no variable `inptu`",
        ),
        (
            "input: |\n  one\n  two ${{ input.repo }} ${{ stesp }}",
            "ORC-1131 10:31 \"stesp\" there is no variable `stesp`",
        ),
        (
            "input: 'it''s $${{ x }} ${{ input.repo | lenght }}'",
            "ORC-1131 8:44 \"lenght\" there is no filter `lenght`",
        ),
        (
            "input: ${{ steps.b.output }}",
            "ORC-1121 8:14 \"steps.b.output\" there is no step `b`",
        ),
        (
            "input: ${{ steps.a.output }}",
            "ORC-1122 8:14 \"steps.a.output\" step `a` waits for itself",
        ),
        (
            "input: ${{ input.repo input.repo }}",
            "ORC-1130 8:25 \"input\" unexpected input after expression",
        ),
        (
            "input: \"${{ input.repo\"",
            "ORC-1130 8:14 \" input.repo\" `${{` without its `}}`",
        ),
        ("input: ${{ }}", "ORC-1130 8:13 \" \" an empty expression"),
        (
            "when: input.repo",
            "ORC-1112 8:9 \"input.repo\" a condition is one expression and nothing else",
        ),
        (
            "when: x ${{ input.repo }}",
            "ORC-1112 8:9 \"x ${{ input.repo }}\" a condition is one expression and nothing else",
        ),
        (
            "when: [1]",
            "ORC-1112 8:9 \"[\" a list where `${{ expression }}` belongs",
        ),
        (
            "needs: [b, a, 3]",
            "ORC-1121 8:11 \"b\" there is no step `b`",
        ),
        (
            "needs: b",
            "ORC-1112 8:10 \"b\" text where a list of ids of steps belongs",
        ),
        (
            "policy: [1]",
            "ORC-1112 8:11 \"[\" a list where a table of overrides belongs",
        ),
        (
            "timeout: 0s",
            "ORC-1116 8:12 \"0s\" this is no timeout: no time at all",
        ),
    ] {
        let told = step(lines);
        assert!(told.contains(&expected.to_owned()), "{lines}: {told:#?}");
    }
}

#[test]
fn a_cycle_is_told_as_a_path() {
    let text = "\
version: 1
name: p
steps:
  - { id: a, plugin: x, phase: y, needs: [c] }
  - { id: b, plugin: x, phase: y, input: \"${{ steps.a.output }}\" }
  - { id: c, plugin: x, phase: y, when: \"${{ steps.b.outcome == 'success' }}\" }
";
    let expected = "ORC-1122 4:11 \"a\" steps wait for each other: a -> b -> c -> a";
    assert_eq!(faults(text), [expected]);
}

#[test]
fn text_that_is_no_yaml_tells_where_it_stops_being_one() {
    for (text, expected) in [
        ("a: {b: ${{ x }}}\n", "ORC-1103 1:9"),
        ("version: 1\nsteps:\n\t- a\n", "ORC-1103 3:2"),
        ("a: 1\nb: 2\na: 3\n", "ORC-1104 3:1 \"a\" `a` stands twice"),
        (
            "a: 36893488147419103232\n",
            "ORC-1117 1:4 \"3\" an integer of more than 64 bits",
        ),
        ("[1, 2]", "ORC-1112 1:1"),
        ("", "ORC-1112"),
    ] {
        let told = faults(text);
        assert!(told[0].starts_with(expected), "{text:?}: {told:?}");
    }
    let errors = Pipeline::parse("a: {b: ${{ x }}}\n", "p").unwrap_err();
    assert!(errors.faults[0].help.contains("between quotes"));
}

#[test]
fn json_has_places_too() {
    let text = "{\"version\": 1, \"name\": \"p\",\n \"steps\": [{\"id\": \"a\", \"plugin\": \"x\",\n \"phase\": \"\\ud83d\\ude00\", \"inptu\": {}}]}";
    assert_eq!(
        faults(text),
        ["ORC-1110 3:27 \"\\\"inptu\\\"\" there is no key `inptu`"]
    );
}

#[test]
fn a_report_shows_code_place_and_help_over_the_text() {
    let text = "version: 1\nname: p\nsteps:\n- id: a\n  plugin: x\n  phase: y\n  input: ${{ steps.collekt.output }}\n- id: collect\n  plugin: x\n  phase: y\n";
    let errors = Pipeline::parse(text, "p.yaml").unwrap_err();
    assert_eq!(
        errors.to_string(),
        "p.yaml:7:14: /steps/0/input: there is no step `collekt`"
    );
    let fault = &errors.faults[0];
    assert_eq!(fault.help, "did you mean `collect`?");
    let code = miette::Diagnostic::code(fault).unwrap().to_string();
    assert_eq!(code, "ORC-1121");
    assert_eq!(
        miette::Diagnostic::code(&errors).unwrap().to_string(),
        "ORC-1100"
    );
    let label = miette::Diagnostic::labels(fault).unwrap().next().unwrap();
    let span = (label.offset(), label.offset() + label.len());
    assert_eq!(&text[span.0..span.1], "steps.collekt.output");
    let json = serde_json::to_value(fault).unwrap();
    assert_eq!(
        (&json["code"], &json["line"]),
        (&json!("ORC-1121"), &json!(7))
    );
}

#[test]
fn an_id_with_a_hyphen_gets_the_right_advice() {
    let text = RELEASE_NOTES.replace("steps['author-stats'].", "steps.author-stats.");
    let errors = Pipeline::parse(&text, "p").unwrap_err();
    assert_eq!(errors.faults.len(), 2);
    assert_eq!(errors.faults[0].code, "ORC-1134");
    let help = &errors.faults[0].help;
    assert!(help.contains("steps['author-stats'].output"), "{help}");
}

#[test]
fn faults_beyond_a_hundred_are_counted() {
    let mut text = "version: 1\nname: p\nsteps: [{id: a, plugin: x, phase: y}]\n".to_owned();
    for extra in 0..150 {
        writeln!(text, "extra{extra}: 1").unwrap();
    }
    let errors = Pipeline::parse(&text, "p").unwrap_err();
    assert_eq!((errors.faults.len(), errors.unlisted), (100, 50));
    assert!(errors.to_string().starts_with("150 faults in p:"));
    assert!(errors.to_string().ends_with("and 50 more"));
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let code = |path: &Path| Pipeline::load(path).unwrap_err().faults[0].code;
    assert_eq!(code(&dir.path().join("absent.yaml")), "ORC-1101");
    assert_eq!(code(dir.path()), "ORC-1101");
    let path = dir.path().join("p.yaml");
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    assert_eq!(code(&path), "ORC-1101");
    std::fs::write(&path, vec![b' '; FILE_SIZE_MAX + 1]).unwrap();
    assert_eq!(code(&path), "ORC-1102");
    std::fs::write(
        &path,
        "version: 1\nname: p\nsteps: [{id: a, plugin: x, phase: y}]\n",
    )
    .unwrap();
    assert_eq!(Pipeline::load(&path).unwrap().name(), "p");
}

#[test]
fn no_two_rules_share_a_code() {
    let source = include_str!("../fault.rs");
    let codes: Vec<_> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> \"ORC-"))
        .map(|(_, code)| code)
        .collect();
    let distinct: std::collections::BTreeSet<_> = codes.iter().collect();
    assert!(
        codes.len() > 25 && distinct.len() == codes.len(),
        "{codes:?}"
    );
    assert!(codes.iter().all(|code| code.starts_with("11")));
}

#[test]
fn a_fallback_is_one_thing() {
    let told = step("fallback: { value: 1, last_good: true }");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0].contains("a step falls back to one thing"),
        "{told:?}"
    );
    assert_eq!(step("fallback: {}").len(), 1);
    assert_eq!(step("fallback: { last_good: false }").len(), 1);
    assert_eq!(step("fallback: { plugin: other }").len(), 1);
    let unknown = step("fallback: { valeu: 1 }");
    assert_eq!(unknown.len(), 1);
    assert!(
        unknown[0].contains("there is no key `valeu`"),
        "{unknown:?}"
    );
    let waits = step("fallback: { value: \"${{ steps.b.output }}\" }");
    assert!(waits[0].contains("there is no step `b`"), "{waits:?}");
}

#[test]
fn a_fallback_is_pinned_with_the_rest() {
    for fallback in [
        "{ value: [1, \"${{ input.x }}\"] }",
        "{ plugin: other@^1, phase: get }",
        "{ last_good: true }",
    ] {
        let text = format!(
            "version: 1\nname: p\nsteps:\n- {{ id: a, plugin: x, phase: y, fallback: {fallback} }}\n"
        );
        let pipeline = Pipeline::parse(&text, "p.yaml").unwrap();
        let again = Pipeline::from_definition(&pipeline.definition()).unwrap();
        assert_eq!(pipeline.definition(), again.definition());
        assert!(again.steps()[0].fallback.is_some());
    }
}
