//! Filters of the template language whose cost is a number in their arguments.
//!
//! minijinja counts instructions, and a filter is one instruction however much
//! it does: `"x" | indent(9999999999)` would end the process. These filters
//! take the place of minijinja's own and refuse such numbers.

use minijinja::{
    Environment, Error, ErrorKind, State, Value, filters,
    value::{Kwargs, Rest, StringInput, ValueOrKwargs},
};

/// Widest indentation and longest padding, in characters.
const WIDTH_MAX: usize = 1_000;
/// The most parts that a list may be cut into.
const PARTS_MAX: usize = 100_000;

/// Puts the bounded filters in place.
pub(super) fn apply(environment: &mut Environment<'_>) {
    environment.add_filter("batch", batch);
    environment.add_filter("format", format);
    environment.add_filter("indent", indent);
    environment.add_filter("slice", slice);
    environment.add_filter("tojson", tojson);
}

fn within(given: usize, limit: usize) -> Result<(), Error> {
    if given <= limit {
        return Ok(());
    }
    let message = format!("{given} is too much; at most {limit} is allowed");
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn batch(
    state: &State,
    value: Value,
    count: usize,
    fill_with: Option<Value>,
) -> Result<Value, Error> {
    within(count, PARTS_MAX)?;
    filters::batch(state, value, count, fill_with)
}

fn slice(
    state: &State,
    value: Value,
    count: usize,
    fill_with: Option<Value>,
) -> Result<Value, Error> {
    within(count, PARTS_MAX)?;
    filters::slice(state, value, count, fill_with)
}

fn indent(
    value: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let named = kwargs.peek::<Option<usize>>("width")?;
    within(width.or(named).unwrap_or(0), WIDTH_MAX)?;
    filters::indent(value, width, first, blank, kwargs)
}

fn tojson(value: &Value, indent: Option<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let named = kwargs.peek::<Option<Value>>("indent")?;
    let width = indent.as_ref().or(named.as_ref()).and_then(Value::as_usize);
    within(width.unwrap_or(0), WIDTH_MAX)?;
    filters::tojson(value, indent, kwargs)
}

fn format(state: &mut State, format: &Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    for conversion in format.as_str().unwrap_or_default().split('%').skip(1) {
        let end = conversion.find(|c: char| c.is_ascii_alphabetic());
        let flags = &conversion[..end.unwrap_or(conversion.len())];
        if flags.contains('*') {
            let message = "a width of `*` is not supported; write the number";
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        for digits in flags.split(|c: char| !c.is_ascii_digit()) {
            // Digits that are no number are too many.
            let width = match digits {
                "" => 0,
                digits => digits.parse().unwrap_or(usize::MAX),
            };
            within(width, WIDTH_MAX)?;
        }
    }
    filters::format(state, format, args)
}

#[cfg(test)]
mod tests {
    use crate::pipeline::expression::bounded_environment;

    fn render(template: &str) -> Result<String, String> {
        bounded_environment(10_000)
            .render_str(template, ())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_that_would_exhaust_memory_are_refused() {
        for template in [
            "{{ 'a\nb' | indent(9999999999999) }}",
            "{{ 'a\nb' | indent(width=9999999999999) }}",
            "{{ [1] | tojson(9999999999999) }}",
            "{{ [1] | tojson(indent=9999999999999) }}",
            "{{ [1] | batch(9999999999999, 'x') | list }}",
            "{{ [1] | slice(9999999999999) | list }}",
            "{{ '%9999999999999d' | format(1) }}",
            "{{ '%99999999999999999999999999d' | format(1) }}",
            "{{ '%.9999999999999f' | format(1) }}",
            "{{ '%*d' | format(9999999999999, 1) }}",
            "{{ 'x' * 9999999999999 }}",
            "{{ range(9999999999999) | list }}",
            "{% for a in range(100000) %}{% endfor %}",
        ] {
            assert!(render(template).is_err(), "{template}");
        }
    }

    #[test]
    fn ordinary_numbers_work_as_before() {
        for (template, expected) in [
            ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
            ("{{ 'a\nb' | indent(width=2, first=true) }}", "  a\n  b"),
            ("{{ [1] | tojson }}", "[1]"),
            ("{{ {'a': 1} | tojson(indent=1) }}", "{\n \"a\": 1\n}"),
            ("{{ {'a': 1} | tojson(true) }}", "{\n  \"a\": 1\n}"),
            ("{{ [1, 2, 3] | batch(2, 0) | list }}", "[[1, 2], [3, 0]]"),
            ("{{ [1, 2, 3] | slice(2) | list }}", "[[1, 2], [3]]"),
            (
                "{{ '%05.1f%% of %s, %d20000' | format(2.25, 'x', 3) }}",
                "002.2% of x, 320000",
            ),
        ] {
            assert_eq!(render(template).as_deref(), Ok(expected), "{template}");
        }
    }
}
