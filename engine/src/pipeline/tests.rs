//! A pipeline from its file to the outputs of a run.

mod faults;
mod hostile;

use bytes::Bytes;
use orchestrator_contract::{ContentType, JSON, Payload, RunId, SessionId, StepId, StepOutcome};
use serde_json::json;

use super::*;

/// The pipeline that the documentation shows.
pub(super) const RELEASE_NOTES: &str = r#"# yaml-language-server: $schema=pipeline.schema.json
version: 1
name: release-notes
description: From the history of a repository to release notes.
input:
  repo: { type: string, default: ".", description: "Where the repository is." }
  since: { type: string, required: false }
concurrency: 4
steps:
  - id: render
    plugin: template
    phase: render
    input:
      template: |
        # ${{ input.repo }}
        {% for commit in commits %}- {{ commit.title }} $${{ x }}
        {% endfor %}
      data:
        commits: ${{ steps.classify.output.commits }}
        authors: ${{ steps['author-stats'].output }}
  - id: collect
    plugin: git-history
    phase: collect
    input: { repo: "${{ input.repo }}" }
    timeout: 2m
    policy: { retry: { max_attempts: 5 } }
  - id: classify
    plugin: commit-classifier@^0.1
    phase: classify
    input: ${{ steps.collect.output }}
  - id: author-stats
    plugin: author-stats
    phase: count
    input: ${{ steps.collect.output.commits | map(attribute="author") | list }}
    required: false
    when: ${{ steps.collect.output.commits | length > 0 }}
    needs: [classify]
outputs:
  RELEASE_NOTES.md: { from: "${{ steps.render.output }}", primary: true, description: "The notes." }
  stats.json: { from: "${{ steps['author-stats'].output }}" }
  summary.txt: { from: "${{ steps.collect.output.commits | length }} commits" }
"#;

fn release_notes() -> Pipeline {
    Pipeline::parse(RELEASE_NOTES, "release-notes.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

pub(super) fn settled(input: Payload, steps: &[(&str, StepOutcome, Payload)]) -> Scope {
    let run = RunId::from_parts(1, 1);
    let session = SessionId::from_parts(1, 2);
    let mut scope = Scope::new(run, "p", session, input);
    for (step, outcome, output) in steps {
        scope.settle(&StepId::new(*step), *outcome, Some(output.clone()));
    }
    scope
}

/// What the tests of expressions see.
pub(super) fn scope() -> Scope {
    let json_text =
        |text: &'static str| Payload::from_json_bytes(Bytes::from_static(text.as_bytes()));
    settled(
        json_text(r#"{"count": 3, "name": "core", "list": [1, 2]}"#),
        &[
            ("collect", StepOutcome::Success, json_text("{}")),
            (
                "exact",
                StepOutcome::Success,
                json_text("[ 1.10, 36893488147419103232 ]"),
            ),
            (
                "text",
                StepOutcome::Success,
                Payload::text("plain \"text\""),
            ),
            (
                "image",
                StepOutcome::Success,
                Payload::new(ContentType::new("image/png"), "\u{1}"),
            ),
            ("broken", StepOutcome::Success, json_text("{")),
            ("skipped", StepOutcome::Skipped, json_text("1")),
        ],
    )
    .result_bytes_max(1_000)
}

fn commits() -> Payload {
    let commits =
        json!({"commits": [{"author": "Ann", "title": "One"}, {"author": "Bo", "title": "Two"}]});
    Payload::json(&commits).unwrap()
}

#[test]
fn steps_come_in_an_order_in_which_they_can_run() {
    let pipeline = release_notes();
    let ids: Vec<_> = pipeline
        .steps()
        .iter()
        .map(|step| step.id.as_str())
        .collect();
    assert_eq!(ids, ["collect", "classify", "author-stats", "render"]);
    let dependencies: Vec<_> = (0..4).map(|index| pipeline.dependencies(index)).collect();
    assert_eq!(dependencies, [&[] as &[usize], &[0], &[0, 1], &[1, 2]]);
    let dependents: Vec<_> = (0..4).map(|index| pipeline.dependents(index)).collect();
    assert_eq!(dependents, [&[1_usize, 2] as &[usize], &[2, 3], &[3], &[]]);
    let (index, stats) = pipeline.step("author-stats").unwrap();
    assert!(!stats.required && stats.is_conditional() && index == 2);
    let (_, collect) = pipeline.step("collect").unwrap();
    assert_eq!(collect.timeout, Some(std::time::Duration::from_secs(120)));
    assert_eq!(collect.policy, json!({"retry": {"max_attempts": 5}}));
    assert_eq!(
        pipeline.step("classify").unwrap().1.releases.to_string(),
        "^0.1"
    );
    assert_eq!(pipeline.concurrency().map(NonZeroUsize::get), Some(4));
}

#[test]
fn a_payload_that_is_handed_on_whole_is_the_same_bytes() {
    let pipeline = release_notes();
    let odd = Payload::new(ContentType::new("application/x-odd"), vec![0_u8, 255, 7]);
    let scope = settled(
        Payload::null(),
        &[("collect", StepOutcome::Success, odd.clone())],
    );
    let handed = pipeline
        .step("classify")
        .unwrap()
        .1
        .evaluate_input(&scope)
        .unwrap();
    assert_eq!(handed, odd);
    assert_eq!(handed.bytes.as_ptr(), odd.bytes.as_ptr());
}

#[test]
fn inputs_conditions_and_outputs_are_evaluated() {
    let pipeline = release_notes();
    let input = pipeline.validate_input(&json!({"repo": "/src"})).unwrap();
    assert_eq!(input, json!({"repo": "/src", "since": null}));
    let notes = Payload::new(ContentType::new("text/markdown"), "# notes\n");
    let mut scope = settled(
        Payload::json(&input).unwrap(),
        &[
            ("collect", StepOutcome::Success, commits()),
            ("classify", StepOutcome::Success, commits()),
        ],
    );
    let step = |id| pipeline.step(id).unwrap().1;
    let value =
        |id, scope: &Scope| -> Value { step(id).evaluate_input(scope).unwrap().decode().unwrap() };
    assert_eq!(value("collect", &scope), json!({"repo": "/src"}));
    assert!(step("author-stats").evaluate_when(&scope).unwrap());
    assert_eq!(value("author-stats", &scope), json!(["Ann", "Bo"]));

    scope.settle(&StepId::new("author-stats"), StepOutcome::Failed, None);
    let render = value("render", &scope);
    assert_eq!(
        render["template"],
        "# /src\n{% for commit in commits %}- {{ commit.title }} ${{ x }}\n{% endfor %}\n"
    );
    assert_eq!(render["data"]["authors"], Value::Null);
    assert_eq!(render["data"]["commits"][1]["title"], "Two");

    scope.settle(
        &StepId::new("render"),
        StepOutcome::Success,
        Some(notes.clone()),
    );
    let outputs = pipeline.evaluate_outputs(&scope).unwrap();
    let told: Vec<_> = outputs
        .iter()
        .map(|output| {
            (
                output.name.as_str(),
                output.primary,
                output.payload.content_type.as_str(),
            )
        })
        .collect();
    // The failed step has no output, so there is no file of it.
    assert_eq!(
        told,
        [
            ("RELEASE_NOTES.md", true, "text/markdown"),
            ("summary.txt", false, "text/plain; charset=utf-8"),
        ]
    );
    assert_eq!(outputs[0].payload.bytes.as_ptr(), notes.bytes.as_ptr());
    assert_eq!(outputs[1].payload.bytes, "2 commits");
}

#[test]
fn a_condition_must_be_true_or_false() {
    let text = |when: &str| {
        format!("version: 1\nname: p\nsteps: [{{id: a, plugin: x, phase: y, when: {when}}}]\n")
    };
    let when = |when: &str| {
        let pipeline = Pipeline::parse(&text(when), "p").unwrap_or_else(|e| panic!("{e}"));
        pipeline.steps()[0].evaluate_when(&scope())
    };
    assert_eq!(when("\"${{ input.count > 2 }}\""), Ok(true));
    assert_eq!(when("false"), Ok(false));
    assert_eq!(when("\"${{ input.list and true }}\""), Ok(true));
    let error = when("\"${{ input.list }}\"").unwrap_err();
    assert!(matches!(error, EvalError::NotBoolean { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "step `a`: /when: `input.list` gave sequence, not true or false"
    );
    let call: orchestrator_contract::CallError = error.into();
    assert_eq!(call.kind().as_str(), "invalid_input");
}

#[test]
fn a_definition_reads_back_as_the_same_pipeline_byte_for_byte() {
    let pipeline = release_notes();
    let definition = pipeline.definition();
    let again = Pipeline::from_definition(&definition).unwrap();
    assert_eq!(again.definition(), definition);
    assert_eq!(again.definition_sha256(), pipeline.definition_sha256());
    assert_eq!(pipeline.definition_sha256().len(), 64);
    // Written out anew, not copied.
    let text = std::str::from_utf8(&definition).unwrap();
    let from_json = Pipeline::parse(text, "p.json").unwrap();
    assert_eq!(from_json.definition(), definition);
    let ids = |pipeline: &Pipeline| -> Vec<String> {
        pipeline
            .steps()
            .iter()
            .map(|step| step.id.to_string())
            .collect()
    };
    assert_eq!(ids(&again), ids(&pipeline));
    Pipeline::from_definition(b"{").unwrap_err();
    Pipeline::from_definition(b"{}").unwrap_err();
}

#[test]
fn comments_and_spelling_do_not_change_the_definition() {
    let a = "version: 1\nname: p\nsteps:\n- {id: a, plugin: x, phase: y, timeout: 120s}\n";
    let b = "{\"name\": \"p\", \"steps\": [{\"phase\": \"y\", \"timeout\": \"2m\", \"plugin\": \"x@*\", \"id\": \"a\", \"required\": true}], \"version\": 1}";
    let digest = |text| {
        let pipeline = Pipeline::parse(text, "p").unwrap_or_else(|errors| panic!("{errors}"));
        pipeline.definition_sha256().to_owned()
    };
    assert_eq!(digest(a), digest(b));
}

#[test]
fn the_schema_takes_what_the_reader_takes() {
    let schema = json_schema();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let value = |text: &str| located::Located::parse(text, "p").unwrap().root().to_json();
    let whole = value(RELEASE_NOTES);
    let errors: Vec<_> = validator
        .iter_errors(&whole)
        .map(|error| error.to_string())
        .collect();
    assert_eq!(errors, [] as [String; 0]);
    assert!(validator.is_valid(&serde_json::from_slice(&release_notes().definition()).unwrap()));
    let minimal = "version: 1\nname: p\nsteps: [{id: a, plugin: x, phase: y}]\n";
    assert!(validator.is_valid(&value(minimal)));
    for (from, to) in [
        ("version: 1", "version: 2"),
        ("name: p", "name: P"),
        ("id: a", "id: A"),
        ("phase: y", "phase: y, wehn: true"),
        ("plugin: x, ", ""),
        ("phase: y", "phase: y, when: 3"),
    ] {
        assert!(
            !validator.is_valid(&value(&minimal.replace(from, to))),
            "{to}"
        );
        assert!(
            Pipeline::parse(&minimal.replace(from, to), "p").is_err(),
            "{to}"
        );
    }
}

#[test]
fn the_only_output_is_the_primary_one() {
    let text =
        "version: 1\nname: p\nsteps: [{id: a, plugin: x, phase: y}]\noutputs: {n: {from: [1]}}\n";
    let pipeline = Pipeline::parse(text, "p").unwrap();
    let outputs = pipeline.evaluate_outputs(&scope()).unwrap();
    assert!(outputs[0].primary);
    assert_eq!(outputs[0].payload, Payload::new(JSON, "[1]"));
    assert_eq!(pipeline.output_names().collect::<Vec<_>>(), ["n"]);
}

#[test]
fn a_pipeline_without_declared_input_takes_any() {
    let text =
        "version: 1\nname: p\nsteps: [{id: a, plugin: x, phase: y, input: \"${{ input }}\"}]\n";
    let pipeline = Pipeline::parse(text, "p").unwrap();
    assert_eq!(pipeline.validate_input(&json!([1])).unwrap(), json!([1]));
    assert!(pipeline.input_fields().is_none());
    let none = text.replace("name: p", "name: p\ninput: {}");
    let pipeline = Pipeline::parse(&none, "p").unwrap();
    pipeline.validate_input(&json!({"a": 1})).unwrap_err();
    pipeline.validate_input(&json!({})).unwrap();
}
