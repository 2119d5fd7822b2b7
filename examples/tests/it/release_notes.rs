//! From a repository to the notes: the plugins one after another, with the
//! pipeline's own expressions and template in between.

use minijinja::{Environment, UndefinedBehavior, value::Serde};
use serde_json::{Value, json};

use crate::{
    author_stats::count, commit_classifier::classify, git_history::collect, process::file,
    repository::Repository,
};

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment
}

/// The input of a step of the pipeline, its expressions evaluated.
fn evaluate(input: &Value, scope: &Value) -> Value {
    let expression = input
        .as_str()
        .and_then(|text| text.strip_prefix("${{")?.strip_suffix("}}"));
    match (expression, input) {
        (Some(expression), _) => {
            let environment = environment();
            let expression = environment.compile_expression(expression).unwrap();
            serde_json::to_value(expression.eval(Serde(scope)).unwrap()).unwrap()
        }
        (None, Value::Object(fields)) => fields
            .iter()
            .map(|(name, field)| (name.clone(), evaluate(field, scope)))
            .collect(),
        (None, other) => other.clone(),
    }
}

fn notes(repository: &Repository, with_stats: bool) -> String {
    let pipeline = std::fs::read_to_string(file("release-notes/pipeline.yaml")).unwrap();
    let pipeline: Value = serde_saphyr::from_str(&pipeline).unwrap();
    let input = |step: usize, scope: &Value| evaluate(&pipeline["steps"][step]["input"], scope);

    let scope = json!({ "input": { "repo": repository.path(), "since_tag": null } });
    let history = collect(&input(0, &scope)).json();
    let mut scope = json!({ "steps": { "collect": { "output": history } } });
    let classified = classify(&input(1, &scope)).json();
    let names = input(2, &scope).to_string();
    let stats = match with_stats {
        true => count(names.as_bytes()).json(),
        false => Value::Null,
    };
    scope["steps"]["classify"] = json!({ "output": classified });
    scope["steps"]["stats"] = json!({ "output": stats });
    let render = input(3, &scope);
    let template = render["template"].as_str().unwrap();
    let data = Serde(&render["data"]);
    environment().render_str(template, data).unwrap()
}

fn example() -> Repository {
    let mut repository = Repository::new();
    repository.commit("Initial commit\n");
    repository.commit("feat(cli): add `run` & <b>bold</b>\n");
    repository.git(&["tag", "v0.1.0"], b"");
    repository.author("Grace Hopper");
    repository.merge("fix: stop the leak\n", "Merge branch 'side'");
    let taken_back =
        repository.commit("perf!: go faster\n\nBREAKING CHANGE: slower disks\nneed care\n");
    repository.commit(&format!(
        "Revert \"perf!: go faster\"\n\nThis reverts commit {taken_back}.\n"
    ));
    repository
}

#[test]
fn the_notes_of_a_small_history() {
    let repository = example();
    let hashes = repository.git(
        &[
            "log",
            "--topo-order",
            "--no-merges",
            "--format=%h",
            "--abbrev=10",
        ],
        b"",
    );
    let hashes: Vec<&str> = hashes.lines().collect();
    let [revert, perf, fix, feat, initial] = hashes[..] else {
        panic!("{hashes:?}");
    };
    let expected = format!(
        "\
# Release notes of project

6 commits in `{revert}`. Tags: v0.1.0 (2023-11-14).

## Breaking changes

- go faster (`{perf}`): slower disks need care

## Features

- **cli:** add `run` &amp; &lt;b>bold&lt;/b> (`{feat}`)

## Fixes

- stop the leak (`{fix}`)

## Performance

- go faster (`{perf}`) **breaking** *(taken back later)*

## Reverts

- Revert \"perf!: go faster\" (`{revert}`)

## Other changes

- Initial commit (`{initial}`)

1 merge commit is not listed.

## Contributors

- Grace Hopper (4)
- Ada (2)
"
    );
    assert_eq!(notes(&repository, true), expected);
}

#[test]
fn the_notes_do_without_contributors() {
    let notes = notes(&example(), false);
    assert!(
        notes.ends_with("1 merge commit is not listed.\n"),
        "{notes}"
    );
}

#[test]
fn a_history_without_commits_has_notes_too() {
    let expected = "# Release notes of project\n\nNo commits yet.\n";
    assert_eq!(notes(&Repository::new(), true), expected);
}
