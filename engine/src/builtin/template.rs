//! Turns a template and data into text.
//!
//! The templates are minijinja's, in its strict mode: what is undefined is a
//! mistake. There are no includes, so a template sees its data and nothing
//! else.

use minijinja::{
    AutoEscape, Environment, Error, Value,
    syntax::SyntaxConfig,
    value::{ValueKind, merge_maps},
};
use orchestrator_contract::{CallError, ContentType, Payload, TEXT};
use serde::Deserialize;

use crate::pipeline::{
    bounds::{self, Data, Exhausted, NotRendered, Refused},
    message,
};

/// Largest result in bytes.
const OUTPUT_MAX: usize = 16 * 1024 * 1024;
/// Longest template in bytes.
const TEMPLATE_MAX: usize = 1024 * 1024;
/// Instructions that one template may take: about a second of work.
const FUEL: u64 = 10_000_000;
/// How a template is called in messages.
const NAME: &str = "template";

/// What `render` works on.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    template: String,
    #[serde(default)]
    data: Data,
    #[serde(default = "text")]
    content_type: ContentType,
}

fn text() -> ContentType {
    TEXT
}

/// Renders `{"template": …, "data": …, "content_type": …}`.
///
/// The fields of `data` are the template's variables, and `data` is all of it.
/// Without a `content_type` the result is plain text. HTML is escaped where
/// values are put in.
///
/// Runs on the caller's thread, for up to some seconds. Instructions, memory,
/// stack and output are bounded, so a template may come from anywhere.
///
/// # Errors
///
/// [`CallError::InvalidInput`] naming the line, for anything wrong with the
/// template or its data; [`CallError::ResourceLimit`] for more than 16 MiB of
/// output, and for a template that takes too much memory or work.
pub(crate) fn render(input: &Payload) -> Result<Payload, CallError> {
    let input: Input = input
        .decode()
        .map_err(|error| CallError::invalid_input(format!("not a template and data: {error}")))?;
    if input.template.len() > TEMPLATE_MAX {
        let message = format!("the template is longer than {TEMPLATE_MAX} bytes");
        return Err(CallError::invalid_input(message));
    }
    let content_type = input.content_type.as_str();
    if !content_type.contains('/') || !content_type.chars().all(|c| matches!(c, ' '..='~')) {
        return Err(CallError::invalid_input("`content_type` is no media type"));
    }
    let environment = environment(&input.content_type).map_err(|error| failure(&error))?;
    let escape = escape(&input.content_type);
    let source = (NAME, input.template.as_str());
    let output = bounds::render(&environment, source, context(input.data.value), escape);
    let output = output.map_err(|error| match error {
        NotRendered::Refused(Refused { line, message }) => mistake(line, &message),
        NotRendered::Failed(error) => failure(&error),
    })?;
    if output.len() > OUTPUT_MAX {
        return Err(limit("output", format!("more than {OUTPUT_MAX} bytes")));
    }
    Ok(Payload::new(input.content_type.clone(), output))
}

fn escape(content_type: &ContentType) -> AutoEscape {
    match content_type.essence() {
        "text/html" | "application/xhtml+xml" => AutoEscape::Html,
        _ => AutoEscape::None,
    }
}

fn environment(content_type: &ContentType) -> Result<Environment<'static>, Error> {
    let mut environment = bounds::environment(FUEL);
    let escape = escape(content_type);
    environment.set_auto_escape_callback(move |_| escape.clone());
    // Lines with nothing but a tag leave no trace, and the last line of a file
    // keeps its end.
    let mut syntax = SyntaxConfig::builder();
    syntax
        .trim_blocks(true)
        .lstrip_blocks(true)
        .keep_trailing_newline(true);
    environment.set_syntax(syntax.build()?);
    Ok(environment)
}

/// The variables of the template.
fn context(data: Value) -> Value {
    let whole = Value::from_pairs([("data", data.clone())]);
    match data.kind() {
        ValueKind::Map => merge_maps([data, whole]),
        _ => whole,
    }
}

fn limit(resource: &str, message: String) -> CallError {
    CallError::ResourceLimit {
        resource: resource.to_owned(),
        message,
    }
}

fn mistake(line: usize, message: &str) -> CallError {
    CallError::invalid_input(format!("line {line} of the template: {message}"))
}

fn failure(error: &Error) -> CallError {
    let line = error.line().unwrap_or(1);
    let resource = match Exhausted::behind(error) {
        None => return mistake(line, &message(error)),
        Some(Exhausted::Fuel | Exhausted::Work) => "cpu",
        Some(Exhausted::Memory | Exhausted::Text) => "memory",
        Some(Exhausted::Written) => "output",
    };
    let message = format!("line {line} of the template: {}", message(error));
    limit(resource, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render_value(input: &serde_json::Value) -> Result<Payload, CallError> {
        render(&Payload::json(input).unwrap())
    }

    fn text_of(template: &str, data: serde_json::Value) -> String {
        let input = json!({"template": template, "data": data});
        let payload = render_value(&input).unwrap_or_else(|error| panic!("{template}: {error}"));
        assert_eq!(payload.content_type, TEXT);
        String::from_utf8(payload.bytes.to_vec()).unwrap()
    }

    fn error_of(template: &str) -> CallError {
        render_value(&json!({"template": template, "data": {"a": {}}})).expect_err(template)
    }

    #[test]
    fn data_becomes_text() {
        let commits = json!({"commits": [{"title": "One"}, {"title": "Two"}], "n": u64::MAX});
        let template = "# Notes\n{% for commit in commits %}\n  {% if loop.index > 0 %}\n- {{ commit.title }}\n  {% endif %}\n{% endfor %}\n{{ n }}\n";
        assert_eq!(
            text_of(template, commits),
            "# Notes\n- One\n- Two\n18446744073709551615\n"
        );
        assert_eq!(text_of("{{ data[1] }}", json!([1, 2])), "2");
        assert_eq!(text_of("{{ data.a }}{{ a }}", json!({"a": 1})), "11");
        assert_eq!(text_of("<{{ a }}>", json!({"a": "<b>"})), "<<b>>");
    }

    #[test]
    fn html_is_escaped_and_keeps_its_type() {
        let input = json!({"template": "<p>{{ x }}</p>", "data": {"x": "<b>"}, "content_type": "text/html; charset=utf-8"});
        let payload = render_value(&input).unwrap();
        assert_eq!(payload.bytes, "<p>&lt;b&gt;</p>");
        assert_eq!(payload.content_type.as_str(), "text/html; charset=utf-8");
    }

    #[test]
    fn mistakes_tell_their_line() {
        for (template, expected) in [
            (
                "a\n{{ a.b.c }}",
                "line 2 of the template: `a.b` is undefined",
            ),
            (
                "a\n\n{{ nope }}",
                "line 3 of the template: `nope` is undefined",
            ),
            ("a\n{% for %}", "line 2 of the template: "),
            (
                "{{ a | lenght }}",
                "line 1 of the template: filter lenght is unknown",
            ),
            (
                "{% include 'x' %}",
                "line 1 of the template: unknown statement include",
            ),
            ("{% if a %}", "line 1 of the template: "),
        ] {
            let error = error_of(template);
            assert!(matches!(error, CallError::InvalidInput { .. }), "{error:?}");
            assert!(error.to_string().contains(expected), "{template}: {error}");
        }
    }

    #[test]
    fn endless_work_and_endless_output_end() {
        let endless =
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}";
        let large = "{% for a in range(100000) %}{{ 'x' * 1000 }}{% endfor %}";
        for (template, expected) in [(endless, "cpu"), (large, "output")] {
            match error_of(template) {
                CallError::ResourceLimit { resource, .. } => assert_eq!(resource, expected),
                other => panic!("{template}: {other:?}"),
            }
        }
    }

    #[test]
    fn other_inputs_are_refused() {
        for input in [
            json!({}),
            json!([]),
            json!({"template": 3}),
            json!({"template": "x", "dat": 1}),
            json!({"template": "x", "content_type": "text\n/plain"}),
            json!({"template": "x", "content_type": ""}),
            json!({"template": "x".repeat(TEMPLATE_MAX + 1)}),
        ] {
            let error = render_value(&input).unwrap_err();
            assert!(matches!(error, CallError::InvalidInput { .. }), "{error:?}");
        }
        render(&Payload::text("{{ x }}")).unwrap_err();
    }
}
