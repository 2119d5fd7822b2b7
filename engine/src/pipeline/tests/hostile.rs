//! Pipelines that mean harm.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// Refused, and soon.
fn refused(text: &str) -> Vec<Fault> {
    let text = text.to_owned();
    let (done, answer) = std::sync::mpsc::channel();
    // The stack of a test's thread, and of a tokio worker, is 2 MiB.
    std::thread::Builder::new()
        .stack_size(2 * 1024 * 1024)
        .spawn(move || done.send(Pipeline::parse(&text, "p").map(|_| ()).unwrap_err().faults))
        .unwrap();
    answer.recv_timeout(Duration::from_secs(30)).unwrap()
}

fn with_input(input: &str) -> String {
    format!("version: 1\nname: p\nsteps:\n- id: a\n  plugin: x\n  phase: y\n  input: {input}\n")
}

#[test]
fn deep_nesting_is_refused() {
    for input in [
        "[".repeat(100_000),
        format!("{}{}", "[".repeat(60), "]".repeat(60)),
        format!("{}1{}", "{a: ".repeat(60), "}".repeat(60)),
    ] {
        refused(&with_input(&input));
    }
    let block: String = (0..200)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    refused(&block);
}

#[test]
fn alias_bombs_are_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..9 {
        let below = format!("*a{}, ", level - 1).repeat(9);
        bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
    }
    assert_eq!(refused(&bomb)[0].rule, Rule::Syntax);
    refused("a: &a [*a]\n");
    refused("<<: {version: 1}\nname: p\n");
}

#[test]
fn a_large_file_is_refused_before_it_is_read() {
    let text = with_input(&"x".repeat(FILE_SIZE_MAX));
    assert_eq!(refused(&text)[0].rule, Rule::TooLarge);
}

#[test]
fn too_many_steps_are_refused_and_as_many_as_may_be_are_not() {
    let text = |count: usize| {
        let mut text = "version: 1\nname: p\nsteps:\n".to_owned();
        for step in 0..count {
            let needs = step.checked_sub(1).map(|before| format!("s{before}"));
            let needs = needs.unwrap_or_default();
            text.push_str(&format!(
                "- {{ id: s{step}, plugin: x, phase: y, needs: [{needs}] }}\n"
            ));
        }
        text
    };
    let pipeline = Pipeline::parse(&text(STEPS_MAX), "p").unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(pipeline.steps().len(), STEPS_MAX);
    assert_eq!(pipeline.dependencies(STEPS_MAX - 1), [STEPS_MAX - 2]);
    assert_eq!(refused(&text(STEPS_MAX + 1))[0].rule, Rule::OutOfBounds);
}

#[test]
fn huge_expressions_are_refused() {
    let long = with_input(&format!("${{{{ '{}' }}}}", "x".repeat(EXPRESSION_MAX)));
    assert_eq!(refused(&long)[0].rule, Rule::ExpressionTooLong);
    let deep = with_input(&format!("\"${{{{ {} }}}}\"", "(".repeat(4_000)));
    assert_eq!(refused(&deep)[0].rule, Rule::ExpressionTooLong);
}

#[test]
fn an_expression_that_does_too_much_ends() {
    let expression =
        "range(100000) | map('string') | map('length') | sum + range(100000) | list | length";
    let busy = format!("[{}]", [expression; 6].join(", "));
    let pipeline = Pipeline::parse(&with_input(&format!("\"${{{{ {busy} }}}}\"")), "p").unwrap();
    let started = std::time::SystemTime::now();
    let _ = pipeline.steps()[0].evaluate_input(&scope());
    assert!(started.elapsed().unwrap() < Duration::from_secs(30));
}

#[test]
fn a_payload_too_large_to_look_into_can_be_handed_on() {
    let large = Payload::from_json_bytes(vec![b' '; DECODED_BYTES_MAX + 1]);
    let scope = settled(large.clone(), &[]);
    let input = |input: &str| {
        let pipeline = Pipeline::parse(&with_input(input), "p").unwrap();
        pipeline.steps()[0].evaluate_input(&scope)
    };
    assert_eq!(input("${{ input }}").unwrap(), large);
    let error = input("${{ input.x }}").unwrap_err();
    assert!(
        error.to_string().contains("too many to look into"),
        "{error}"
    );
}

#[test]
fn names_from_the_file_cannot_steer_a_terminal() {
    let errors = Pipeline::parse(
        "\"\\e[2J\": 1\nversion: 1\nname: \"a\\e[2J\"\nsteps: []\n",
        "p",
    )
    .unwrap_err();
    assert!(!errors.to_string().contains('\u{1b}'), "{errors:?}");
    let errors = Pipeline::parse("a: \u{1b}[2J\n", "p").unwrap_err();
    let source = miette::Diagnostic::source_code(&errors).unwrap();
    let shown = source.read_span(&(0, 5).into(), 0, 0).unwrap();
    assert!(!shown.data().contains(&0x1b));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_refused_or_read_without_a_panic(text in "(version: 1|name: p|steps:|\n|- |id: a|  |[{]|[}]|\\$|input|\\[|\\]|\"|'|: |&a|\\*a|\\PC){0,40}") {
        let _ = Pipeline::parse(&text, "p");
    }

    /// A valid pipeline with a few bytes changed.
    #[test]
    fn a_damaged_pipeline_is_refused_or_read_without_a_panic(at in 0..RELEASE_NOTES.len(), with in "\\PC{0,3}") {
        let mut text = RELEASE_NOTES.to_owned();
        text.replace_range(at..=at, &with);
        if let Ok(pipeline) = Pipeline::parse(&text, "p") {
            let again = Pipeline::from_definition(&pipeline.definition()).unwrap();
            prop_assert_eq!(again.steps().len(), pipeline.steps().len());
        }
    }
}
