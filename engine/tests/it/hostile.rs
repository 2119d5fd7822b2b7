//! Expressions and templates that mean to exhaust their host.
//!
//! Each runs in a process that may not grow by more than [`GROWTH_MAX`]. An
//! allocation beyond that aborts a process, so a child that comes back with an
//! error was never near it.

use orchestrator_engine::pipeline::{Pipeline, RESULT_BYTES_MAX};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::json;

use crate::support::{Rig, run};

/// By how much the address space of a host may grow while it evaluates.
const GROWTH_MAX: u64 = 12 * RESULT_BYTES_MAX as u64;
/// What a child evaluates: an expression, a template, or an expression that
/// gives a template its data.
const EXPRESSION: &str = "HOSTILE_EXPRESSION";
const TEMPLATE: &str = "HOSTILE_TEMPLATE";
const DATA: &str = "HOSTILE_DATA";

/// Runs one step in a process of its own and gives what the process said.
#[expect(
    clippy::disallowed_types,
    reason = "the child is this program, and nothing is left of it"
)]
fn in_a_child(kind: &str, text: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    let shown = shown(text);
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["hostile::child", "--exact", "--ignored", "--nocapture"])
        .env_remove(EXPRESSION)
        .env_remove(TEMPLATE)
        .env_remove(DATA)
        .env(kind, file.path())
        // Each arena of the allocator reserves address space that nobody uses.
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&child.stderr);
    assert!(
        child.status.success(),
        "{shown}: {}\n{stderr}",
        child.status
    );
    let said = said.lines().find(|line| line.starts_with("said: "));
    said.unwrap_or_else(|| panic!("{shown}: {stderr}"))
        .to_owned()
}

fn refused(kind: &str, texts: impl IntoIterator<Item: AsRef<str>>) {
    let mut wrong = Vec::new();
    for text in texts {
        let said = in_a_child(kind, text.as_ref());
        let limits = ["more than", "too many", "too much", "recursion limit"];
        let is_limit = limits.iter().any(|limit| said.contains(limit));
        if !said.starts_with("said: refused") || !is_limit {
            wrong.push(format!("{}: {said}", shown(text.as_ref())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

/// The body of the child.
#[tokio::test]
#[ignore = "started by the others"]
async fn child() {
    let given = |kind| {
        let file = std::env::var(kind).ok()?;
        Some(std::fs::read_to_string(file).unwrap())
    };
    let input = if let Some(expression) = given(EXPRESSION) {
        json!({ "value": format!("${{{{ {expression} }}}}") })
    } else if let Some(template) = given(TEMPLATE) {
        json!({ "template": template, "data": { "a": "aaaaaaaa" } })
    } else if let Some(expression) = given(DATA) {
        json!({ "template": "{{ data | length }}", "data": format!("${{{{ {expression} }}}}") })
    } else {
        return;
    };
    let (plugin, phase) = match input.get("template") {
        Some(_) => ("template", "render"),
        None => ("echo", "say"),
    };
    let rig = Rig::new();
    let engine = rig.start().await;
    // A first run takes what every run takes.
    run(
        &engine,
        &body("template", "render", &json!({ "template": "warm" })),
    )
    .await;
    limit_growth();
    let step = body(plugin, phase, &input);
    if let Err(errors) = Pipeline::parse(&format!("version: 1\nname: test\n{step}"), "p") {
        println!("said: refused {}", errors.faults[0].message);
        return;
    }
    let report = run(&engine, &step).await;
    match &report.steps[0].error {
        Some(error) => println!("said: refused {error}"),
        None => println!("said: {:?}", report.steps[0].outcome),
    }
}

fn body(plugin: &str, phase: &str, input: &serde_json::Value) -> String {
    format!("steps:\n  - {{ id: a, plugin: {plugin}, phase: {phase}, input: {input} }}\n")
}

fn limit_growth() {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').next().unwrap().parse().unwrap();
    let limit = pages * rustix::param::page_size() as u64 + GROWTH_MAX;
    let limit = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    setrlimit(Resource::As, limit).unwrap();
}

#[test]
fn expressions_that_multiply_texts_are_refused() {
    let expressions = [
        "('a'*1000000)|replace('a','a'*1000)",
        "('a'*9000000)|replace('', 'b'*9000000)",
        "range(9999)|join('a'*100000)",
        "range(9999)|map('replace','9','a'*1000000)|list",
        "range(99999)|map('string')|map('replace','','a'*9999)|list",
        "['a'*9999999, 'b'*9999999]|join('c'*9999999)",
        "('%(a)s'*9000)|format(a='a'*9000000)",
        "('%%'*3000000)|format(1)",
        "'a'*99999999",
        "['a'*99999999, 'a'*99999999, 'a'*99999999, 'a'*99999999, 'a'*99999999]",
        "('a'*90000000)~('a'*90000000)~('a'*90000000)~('a'*90000000)",
        "('a'*15000000)~('a'*15000000)",
        "('a'*9000000)|list",
        "('a'*9000000)|split('a')",
        "('a b'*5000000)|split",
        "('\n'*9000000)|lines",
        "('\n'*9000000)|indent(1000, true, true)",
        "('<'*12000000)|escape",
        "('\"'*15000000)|tojson|tojson|tojson",
        "('\u{1}'*5000000)|pprint",
        "('ΐ'*8000000)|upper",
        "range(99999)|select('in', 'a'*15000000)|list",
    ];
    refused(EXPRESSION, expressions);
}

#[test]
fn expressions_that_multiply_lists_are_refused() {
    let expressions = [
        "[[range(9999)|list]*9999,1]|string",
        "[[[['a'*9999]*999]*999]*999]|tojson(indent=1000)",
        "[[[['a'*9999]*9999]*9999]*9999]|pprint",
        "[[[[[[[['a']*99]*99]*99]*99]*99]*99]*99]*99",
        "[[[[[[['a']*9]*9]*99]*99]*9]*9]*9 == [[[[[[['a']*9]*9]*99]*99]*9]*9]*9",
        "[['a'*15000000]*9, ['a'*15000000]*9]|string",
        "range(99999)|list*99999",
        "(1, 2)*49999999",
        "([range(99999)]*99)|map('list')|list",
        "(range(99999)|list*20)|zip(range(99999)|list*20, range(99999)|list*20)|list",
        "range(90000)|map('string')|batch(1)|map('batch', 100000, 'x')|list",
        "range(90000)|batch(1)|map('slice', 100000, 'x')|list",
        "range(99999)|batch(1)|map('tojson', 1000)|join('a'*1000)",
        "{'a': 'a'*15000000, 'b': 'a'*15000000}|items|list|string",
    ];
    refused(EXPRESSION, expressions);
}

/// What one instruction makes is made again and again.
#[test]
fn templates_that_multiply_texts_are_refused() {
    let steps = [
        "ns.a ~ ns.a",
        "ns.a + ns.a",
        "ns.a * 8",
        "ns.a | replace('a', 'a'*9)",
        "ns.a | replace('', ns.a) | upper",
        "(ns.a ~ '\"') | tojson",
        "(ns.a ~ '\\n') | pprint",
        "((ns.a ~ '\n') * 9) | indent(999, true)",
        "'%s%s' | format(ns.a, ns.a)",
        "[ns.a, ns.a] | join",
        "[ns.a ~ ns.a] | string",
        "(ns.a ~ ns.a) | list | join",
    ];
    refused(TEMPLATE, steps.map(|step| looped("'aaaaaaaa'", step)));
    let unrolled = "{% set a = a ~ a %}".repeat(40);
    refused(TEMPLATE, [format!("{unrolled}{{{{ a }}}}")]);
}

#[test]
fn templates_that_multiply_lists_are_refused() {
    let steps = [
        "[ns.a, ns.a]",
        "(ns.a, ns.a)",
        "{'a': ns.a, 'b': ns.a}",
        "[ns.a] * 9",
        "ns.a + ns.a",
        "ns.a | chain(ns.a)",
        "(ns.a | list + ns.a | list) | sort",
        "ns.a | zip(ns.a) | list + ns.a",
        "dict(a=ns.a, b=ns.a)",
        "namespace(a=ns.a, b=ns.a)",
        "[[ns.a], [ns.a]] | map('first') | list + [ns.a]",
    ];
    refused(TEMPLATE, steps.map(|step| looped("[1, 2]", step)));
    let spread = "*l, ".repeat(999);
    refused(
        TEMPLATE,
        [format!(
            "{{% set l = range(99999) %}}{{{{ dict({spread}) }}}}"
        )],
    );
}

#[test]
fn blocks_and_loops_that_multiply_are_refused() {
    let blocks = "{% filter upper %}".repeat(30);
    let ends = "{% endfilter %}".repeat(30);
    let raw = "raw".repeat(9_999);
    let templates = [
        format!("{blocks}{{{{ 'a'*9000000 }}}}{ends}"),
        format!(
            "{{% filter upper %}}{{% for i in range(99999) %}}{raw}{{% endfor %}}{{% endfilter %}}"
        ),
    ];
    refused(TEMPLATE, templates);
    let templates = [
        "{% filter replace('a','a'*1000) %}{{ 'a'*1000000 }}{% endfilter %}",
        "{% set x %}{% for i in range(99999) %}{{ 'a'*9000 }}{% endfor %}{% endset %}{{ x }}",
        "{% for i in range(99999) %}{{ 'a'*9000 }}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = ns.l + ['a'*99999 ~ i] %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + [('a'*9000000 ~ ',' ~ i)|split(',')|first] %}{% endfor %}",
        "{% set ns = namespace(l={}) %}{% for i in range(99999) %}{% set ns.l = dict(ns.l, **{'k' ~ i: 'a'*99999 ~ i}) %}{% endfor %}",
        "{% for x in [1] recursive %}{{ 'a'*9999 }}{{ loop([x, x]) }}{% endfor %}",
        "{% set a, b = range(99999)|list %}",
        "{% for x in range(99999)|list*99 if x %}{% endfor %}",
        "{% autoescape 'json' %}{% for i in range(99999) %}{{ '<'*9999 }}{% endfor %}{% endautoescape %}",
        "{% autoescape 'html' %}{{ '<'*15000000 }}{{ ['<'*9000000] }}{% endautoescape %}",
        "{% set x = 'a'*15000000 %}{% for i in range(99999) %}{% if x == x ~ '' %}{% endif %}{% endfor %}",
        "{% set x = 'a'*15000000 %}{% for i in range(99999) %}{{ x|length }}{{ 'b' in x }}{% endfor %}",
        "{% set x = 'a'*15000000 %}{% for i in range(99999) %}{{ x[-1] }}{% endfor %}",
        "{% set x = ['a'*9999]*9999 %}{% set y = ['a'*9999]*9999 %}{% for i in range(99999) %}{{ 1 if x < y < x }}{% endfor %}",
    ];
    refused(TEMPLATE, templates);
}

/// What is deep takes stack wherever it is gone through, dropped included.
#[test]
fn deep_values_are_refused() {
    let steps = [
        "[ns.a]",
        "(ns.a,)",
        "{'a': ns.a}",
        "dict(a=ns.a)",
        "namespace(a=ns.a)",
        "[ns]",
        "ns",
        "[ns.a] | chain([1]) | list",
        "[ns.a] | batch(1)",
        "[ns.a] | zip([1]) | list",
        "{'a': ns.a} | items | list",
    ];
    refused(TEMPLATE, steps.map(|step| looped("[1, 2]", step)));
}

#[test]
fn deep_templates_are_refused() {
    let templates = [
        ("{{ ", "-", "1 }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ ", "(", ""),
        ("{{ ", "[", ""),
        ("{{ 1", "+1", " }}"),
        ("{{ a", "~a", " }}"),
        ("{{ a", ".a", " }}"),
        ("{{ a", "[0]", " }}"),
        ("{{ a", "|e", " }}"),
        ("{{ a", " is not a", " }}"),
        ("{{ 1", " if 1 else 1", " }}"),
        ("{% if a %}", "{% elif a %}", "{% endif %}"),
        ("", "{% if a %}", ""),
        ("", "{% if a %}{% elif a %}", ""),
        ("", "{% for a in a %}", ""),
        ("", "{% filter upper %}", ""),
        ("{% set ", "(", "a"),
    ];
    refused(
        TEMPLATE,
        templates.map(|(start, repeated, end)| format!("{start}{}{end}", repeated.repeat(30_000))),
    );
}

/// What need not be refused does no harm either.
#[test]
fn the_host_lives_whatever_the_template() {
    let steps = [
        "ns.a[0:]",
        "ns.a | reverse",
        "ns.a | list",
        "loop",
        "range(3)",
    ];
    for step in steps {
        in_a_child(TEMPLATE, &looped("[1, 2]", step));
    }
    for template in [
        "{% for i in range(9) %}{{ loop.cycle() }}{% endfor %}",
        "{% set ns = namespace() %}{% for i in range(9) %}{{ loop.changed(ns) }}{% set ns.l = loop %}{% endfor %}{{ ns }}",
        "{% for i in range(99999) %}{% do dict(a=i) %}{% endfor %}",
    ] {
        in_a_child(TEMPLATE, template);
    }
}

/// The densest data that an expression can hand to a template.
#[test]
fn data_made_to_fill_memory_is_refused() {
    refused(DATA, ["[{'a':1}]*1900000", "[[]]*2500000"]);
}

/// A template that works on its own result many times.
fn looped(first: &str, step: &str) -> String {
    let start = format!("{{% set ns = namespace(a={first}) %}}");
    let step = format!("{{% set ns.a = {step} %}}");
    format!("{start}{{% for i in range(99999) %}}{step}{{% endfor %}}{{{{ ns.a }}}}")
}
