//! The language within its bounds.

use serde_json::json;

use super::*;
use crate::pipeline::message;

fn evaluate(expression: &str) -> Result<String, String> {
    let root = json!({
        "rows": [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}, {"id": 3, "name": "a"}],
        "text": "a<b",
        "table": {"k": 1},
    });
    let Data { value: root, .. } = serde_json::from_value(root).unwrap();
    super::evaluate(&environment(10_000), expression, root)
        .map(|value| value.to_string())
        .map_err(|error| message(&error))
}

fn render(template: &str) -> Result<String, String> {
    let Data { value: root, .. } = serde_json::from_value(json!({"text": "a<b", "n": 3})).unwrap();
    let environment = environment(100_000);
    super::render(&environment, ("t", template), root, AutoEscape::None).map_err(
        |error| match error {
            NotRendered::Refused(refused) => refused.message,
            NotRendered::Failed(error) => message(&error),
        },
    )
}

#[test]
fn numbers_that_would_exhaust_memory_are_refused() {
    for expression in [
        "'a\nb' | indent(9999999999999)",
        "'a\nb' | indent(width=9999999999999)",
        "[1] | tojson(9999999999999)",
        "[1] | tojson(indent=9999999999999)",
        "[1] | batch(9999999999999, 'x') | list",
        "[1] | slice(9999999999999) | list",
        "'%9999999999999d' | format(1)",
        "'%99999999999999999999999999d' | format(1)",
        "'%.9999999999999f' | format(1)",
        "'%*d' | format(9999999999999, 1)",
        "'x' * 9999999999999",
        "[1] * 9999999999999",
        "[] * 9999999999999",
        "range(9999999999999) | list",
    ] {
        assert!(evaluate(expression).is_err(), "{expression}");
    }
    render("{% for a in range(100000) %}{% endfor %}").unwrap_err();
}

/// What the operators and filters of the language do is what they did before
/// they were bounded.
#[test]
fn operators_and_literals_work_as_ever() {
    for (expression, expected) in [
        ("1 + 2 * 3 - 4 / 2 // 1 % 5 ** 2", "5.0"),
        ("2 * 3", "6"),
        ("2 * 1.5", "3.0"),
        ("rows[0].id * 2.0", "4.0"),
        ("'ab' * 2 ~ 2 * 'c'", "ababcc"),
        ("[1, 2] * 2", "[1, 2, 1, 2]"),
        ("(1, 'b') * 2", "[1, 'b', 1, 'b']"),
        (
            "'a' + 'b' ~ 1 ~ none ~ true ~ [1, 'x']",
            "ab1NoneTrue[1, 'x']",
        ),
        ("[1] + [rows[0].id]", "[1, 2]"),
        ("rows[1:] | map(attribute='id') | list", "[1, 3]"),
        ("'hello'[-3:] ~ 'hello'[:99:2] ~ ''[::-1]", "llohlo"),
        (
            "[[][::-1], rows[::-1][0].id, (1, 2)[1:], none[:1]]",
            "[[], 3, [2], []]",
        ),
        ("'hello'[1:3] ~ 'hello'[::-1] ~ 'hello'[-1]", "elolleho"),
        ("rows[-1].name", "a"),
        (
            "{'b': 1, 'a': rows[0]}",
            "{'a': {'id': 2, 'name': 'b'}, 'b': 1}",
        ),
        ("(1,)", "(1,)"),
        ("(1, 'a') == (1, 'a') and (2,) != [rows[0].id]", "True"),
        ("(rows[0].id, 1) in [(2, 1)]", "True"),
        ("(rows[0].id, 'x')", "(2, 'x')"),
        (
            "1 == 1.0 and 'a' != 'b' and 1 < 2 <= 2 and 3 > 2 >= 2",
            "True",
        ),
        ("rows[0] == {'name': 'b', 'id': 2}", "True"),
        (
            "2 in [1, 2] and 'k' in table and 'b' in 'abc' and 5 not in [1]",
            "True",
        ),
        (
            "[1] is eq [1] and 1 is in [1] and text is startingwith 'a'",
            "True",
        ),
        (
            "rows | selectattr('name', '==', 'a') | map(attribute='id') | list",
            "[1, 3]",
        ),
        ("'x' if table.nope is defined else 'y'", "y"),
        ("dict(table, b=2)", "{'b': 2, 'k': 1}"),
    ] {
        assert_eq!(
            evaluate(expression).as_deref(),
            Ok(expected),
            "{expression}"
        );
    }
}

#[test]
fn filters_work_as_ever() {
    for (expression, expected) in [
        ("'a\nb' | indent(2)", "a\n  b"),
        ("'a\nb' | indent(width=2, first=true)", "  a\n  b"),
        ("[1] | tojson", "[1]"),
        ("{'a': 1} | tojson(indent=1)", "{\n \"a\": 1\n}"),
        ("{'a': 1} | tojson(true)", "{\n  \"a\": 1\n}"),
        ("[1, 2, 3] | batch(2, 0) | list", "[[1, 2], [3, 0]]"),
        ("[1, 2, 3] | slice(2) | list", "[[1, 2], [3]]"),
        (
            "'%05.1f%% of %s, %d20000' | format(2.25, 'x', 3)",
            "002.2% of x, 320000",
        ),
        ("'%(a)s%(a)s' | format(a='x')", "xx"),
        (
            "rows | groupby('name') | map(attribute='grouper') | list",
            "['a', 'b']",
        ),
        ("(rows | groupby('name') | first).list | length", "2"),
        (
            "rows | sort(attribute='name,id') | map(attribute='id') | list",
            "[1, 3, 2]",
        ),
        ("rows | map(attribute='name') | unique | list", "['b', 'a']"),
        ("rows | sum(attribute='id')", "6"),
        ("table | items | list", "[('k', 1)]"),
        ("{'b': 1, 'a': 2} | dictsort", "[('a', 2), ('b', 1)]"),
        ("[1, 2] | zip(['a', 'b']) | list", "[(1, 'a'), (2, 'b')]"),
        ("[1] | chain([2]) | list", "[1, 2]"),
        ("'a,b,c' | split(',') | last", "c"),
        ("'a\nb' | lines", "['a', 'b']"),
        ("range(3) | join('-')", "0-1-2"),
        ("rows | join(', ', attribute='id')", "2, 1, 3"),
        (
            "text | replace('<', '\\\\<') | upper | title | trim | length",
            "4",
        ),
        ("text | escape", "a&lt;b"),
        (
            "[3, 1] | sort | first ~ [3, 1] | max ~ ([] | default('x') | string)",
            "13[]",
        ),
        (
            "[[1, 'a']] | pprint",
            "[\n    [\n        1,\n        'a',\n    ],\n]",
        ),
        (
            "rows | rejectattr('id', 'in', [1, 2]) | map(attribute='name') | join",
            "a",
        ),
    ] {
        assert_eq!(
            evaluate(expression).as_deref(),
            Ok(expected),
            "{expression}"
        );
    }
}

#[test]
fn mistakes_are_told_as_ever() {
    for (expression, expected) in [
        ("table.nope * 2", "`table.nope` is undefined"),
        ("table.nope ~ 2", "`table.nope` is undefined"),
        ("table.nope == 2", "`table.nope` is undefined"),
        ("1 in table.nope", "`table.nope` is undefined"),
        ("table.nope[1:]", "`table.nope` is undefined"),
        ("1[:2]", "value of type number cannot be sliced"),
        ("text['a':]", "string is no whole number to slice at"),
        ("text[::0]", "cannot go on by 0"),
        ("1 in 2", "nothing can be in number"),
        ("'a' * 'b'", "multiplied with whole numbers"),
        ("table * table", "tried to use * operator"),
        ("rows[9].id", "`rows[9]` is undefined"),
        ("rows[0].nope.x", "`rows[0].nope` is undefined"),
        ("[range]", "a function cannot be put into"),
        ("['a', 'b'] | sum(start='')", "`sum` adds numbers"),
        ("{[1]: 2}", "is no key of a table"),
    ] {
        let error = evaluate(expression).expect_err(expression);
        assert!(error.contains(expected), "{expression}: {error}");
    }
}

#[test]
fn statements_work_as_ever() {
    for (template, expected) in [
        ("{% set a, b = 1, 2 %}{{ b }}{{ a }}", "21"),
        (
            "{% set ns = namespace(x=1) %}{% for i in [1, 2] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
            "4",
        ),
        (
            "{% for k, v in {'a': 1}|items %}{{ k }}{{ v }}{% else %}none{% endfor %}",
            "a1",
        ),
        (
            "{% for i in range(5) if i % 2 %}{{ loop.index }}{{ loop.last }}{{ i }},{% endfor %}",
            "1False1,2True3,",
        ),
        (
            "{% for i in [1, [2, [3]]] recursive %}{% if i is sequence %}({{ loop(i) }}){% else %}{{ i }}{% endif %}{% endfor %}",
            "1(2(3))",
        ),
        (
            "{% filter upper %}a{% filter replace('b', 'c') %}b{% endfilter %}{{ text }}{% endfilter %}",
            "ACA<B",
        ),
        ("{% set x %}a{{ n }}{% endset %}{{ x }}{{ x }}", "a3a3"),
        ("{% set x | upper %}a{% endset %}{{ x }}", "A"),
        ("{% with a = 1, b = n %}{{ a + b }}{% endwith %}", "4"),
        ("{% do dict(a=1) %}x", "x"),
        (
            "{% autoescape true %}{{ text }}{{ '<'|safe }}<{% endautoescape %}{{ text }}",
            "a&lt;b<<a<b",
        ),
        (
            "{% if n == 3 %}y{% elif n %}z{% else %}n{% endif %}{% raw %}{{ x }}{% endraw %}",
            "y{{ x }}",
        ),
        ("{{ dict(*[{'a': 1}], **{'b': 2}) }}", "{'a': 1, 'b': 2}"),
    ] {
        assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
    }
}

/// The engine divides by the number of arguments.
#[test]
fn a_panic_of_the_engine_is_an_error() {
    let error = render("{% for i in [1] %}{{ loop.cycle() }}{% endfor %}").unwrap_err();
    assert!(error.contains("itself fails"), "{error}");
}

/// A text put together line by line, and a list item by item: what is gone does
/// not count.
#[test]
fn long_results_may_be_put_together_in_small_steps() {
    let text = "{% set ns = namespace(x='', l=[]) %}{% for i in range(1500) %}{% set ns.x = ns.x ~ 'a line of some length, as lines are\n' %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.x | length }} {{ ns.l | length }}";
    assert_eq!(render(text).as_deref(), Ok("54000 1500"));
}

/// The stack of a tokio worker is 2 MiB; some of it is taken already.
fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .stack_size(3 * 512 * 1024)
        .spawn(work)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn the_deepest_values_fit_the_stack() {
    on_a_small_stack(|| {
        let nested = |open: &str, close: &str| open.repeat(125) + "1" + &close.repeat(125);
        for deep in [nested("[", "]"), nested("{\"a\":", "}")] {
            let json = format!("{{\"a\":{deep},\"b\":{deep}}}");
            let data: Data = serde_json::from_str(&json).unwrap();
            for expression in [
                "a == b",
                "a < b",
                "a | string ~ b",
                "a | pprint",
                "a | tojson(indent=1)",
                "[a, b] | sort",
                "[a, b] | unique",
                "[a, b] | max",
                "a in [1, b]",
                "dict(a=a)",
            ] {
                super::evaluate(&environment(10_000), expression, data.value.clone())
                    .unwrap_or_else(|error| panic!("{expression}: {error}"));
            }
        }
    });
}

#[test]
fn the_deepest_templates_fit_the_stack() {
    on_a_small_stack(|| {
        let unary = |open: &str, close: &str| {
            format!(
                "{}{}1{}",
                open.repeat(31),
                "-".repeat(198),
                close.repeat(31)
            )
        };
        let nested = |times: usize, start: &str, middle: &str, end: &str| {
            start.repeat(times) + middle + &end.repeat(times)
        };
        let print = |expression: &str| format!("{{{{ {expression} }}}}");
        for template in [
            nested(80, "{% if 1 %}", &print(&unary("[", "]")), "{% endif %}"),
            nested(80, "{% if 1 %}", &print(&unary("(", ")")), "{% endif %}"),
            nested(
                85,
                "{% for a in [1] %}",
                &print(&unary("{1:", "}")),
                "{% endfor %}",
            ),
            nested(140, "{% filter upper %}", "a", "{% endfilter %}"),
            nested(140, "{% set a %}", "a", "{% endset %}"),
            format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(99)),
            print(&("1".to_owned() + &"+1".repeat(95))),
            print(&("1".to_owned() + &" if 1 else 1".repeat(95))),
            print(&("'a'".to_owned() + &"~n".repeat(95))),
            print(&("'a'".to_owned() + &"[:]".repeat(95))),
            print(&("'a'".to_owned() + &"|e".repeat(95))),
        ] {
            render(&template).unwrap_or_else(|error| panic!("{template}: {error}"));
        }
    });
}
