//! The filters and functions of the language, each with an end to what
//! it makes and to what it does.
//!
//! The template engine counts instructions, and a filter is one instruction
//! however much it does.

use minijinja::{
    Environment, Error, ErrorKind, State, Value, filters, functions,
    value::{Kwargs, Rest, ValueOrKwargs},
};

use super::{
    budget::{Budget, CALL_WORK, ITEM_WORK},
    growth::{self, Growth, count},
    weighed::{ENTRY_BYTES, part, weighed},
};

/// Puts bounded filters and functions in the place of the engine's own.
pub(super) fn apply(environment: &mut Environment<'_>) {
    filters_that_make(environment);
    filters_that_look(environment);
    environment.add_function("dict", dict);
    environment.add_function("namespace", namespace);
    environment.add_function("range", range);
    // It would show everything a template can see.
    environment.remove_global("debug");
}

fn filters_that_make(environment: &mut Environment<'_>) {
    use Value as V;
    let mut add = |name: &'static str, growth: Growth, filter: Value| {
        environment.add_filter(name, making(filter, growth));
    };
    add("batch", growth::parts, V::from_function(filters::batch));
    add(
        "capitalize",
        growth::cased,
        V::from_function(filters::capitalize),
    );
    add("chain", growth::items, V::from_function(filters::chain));
    let dictsort = V::from_function(filters::dictsort);
    add("dictsort", growth::pairs, dictsort);
    let escape = V::from_function(filters::escape);
    add("e", growth::escaped, escape.clone());
    add("escape", growth::escaped, escape);
    add("format", growth::format, V::from_function(filters::format));
    add("groupby", growth::pairs, V::from_function(filters::groupby));
    add("indent", growth::indent, V::from_function(filters::indent));
    add("items", growth::pairs, V::from_function(filters::items));
    add("join", growth::join, V::from_function(filters::join));
    add(
        "lines",
        growth::lines,
        pieces(V::from_function(filters::lines)),
    );
    add("list", growth::items, V::from_function(filters::list));
    add("lower", growth::cased, V::from_function(filters::lower));
    add("map", growth::items, V::from_function(filters::map));
    add("pprint", growth::pprint, V::from_function(filters::pprint));
    add("reject", growth::items, V::from_function(filters::reject));
    add(
        "rejectattr",
        growth::items,
        V::from_function(filters::rejectattr),
    );
    add(
        "replace",
        growth::replace,
        V::from_function(filters::replace),
    );
    add(
        "reverse",
        growth::reverse,
        V::from_function(filters::reverse),
    );
    add("safe", growth::text, V::from_function(filters::safe));
    add("select", growth::items, V::from_function(filters::select));
    add(
        "selectattr",
        growth::items,
        V::from_function(filters::selectattr),
    );
    add("slice", growth::parts, V::from_function(filters::slice));
    add("sort", growth::sort, V::from_function(filters::sort));
    add(
        "split",
        growth::split,
        pieces(V::from_function(filters::split)),
    );
    add("string", growth::text, V::from_function(filters::string));
    add("title", growth::cased, V::from_function(filters::title));
    add("tojson", growth::tojson, V::from_function(filters::tojson));
    add("trim", growth::text, V::from_function(filters::trim));
    add("unique", growth::unique, V::from_function(filters::unique));
    add("upper", growth::cased, V::from_function(filters::upper));
    add("zip", growth::pairs, V::from_function(filters::zip));
}

/// A filter that is refused when there is no room for what it makes, and whose
/// result is counted.
fn making(
    filter: Value,
    growth: Growth,
) -> impl Fn(&mut State<'_, '_>, Rest<ValueOrKwargs>) -> Result<Value, Error> {
    move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        Budget::of(state).work(CALL_WORK)?;
        let growth = growth(state, &args)?;
        Budget::of(state).room(growth)?;
        let made = filter.call(state, &args)?;
        weighed(Budget::of(state), made)
    }
}

/// A filter whose result is a list of texts that nobody has counted yet.
fn pieces(filter: Value) -> Value {
    Value::from_function(
        move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let pieces = filter.call(state, &args.into_values())?;
            for piece in pieces.try_iter()? {
                Budget::of(state).keep(&piece)?;
            }
            Ok::<_, Error>(pieces)
        },
    )
}

/// Filters that give a number, or something that is there already.
fn filters_that_look(environment: &mut Environment<'_>) {
    use Value as V;
    let mut add = |name: &'static str, each: usize, filter: Value| {
        environment.add_filter(name, looking(filter, each));
    };
    add("count", 0, V::from_function(filters::length));
    add("float", 0, V::from_function(filters::float));
    add("int", 0, V::from_function(filters::int));
    add("length", 0, V::from_function(filters::length));
    add("max", ITEM_WORK, V::from_function(filters::max));
    add("min", ITEM_WORK, V::from_function(filters::min));
    add("sum", ITEM_WORK, V::from_function(sum));
}

/// A filter that pays for the bytes of a text, and so much for each item or
/// character.
fn looking(
    filter: Value,
    each: usize,
) -> impl Fn(&mut State<'_, '_>, Rest<ValueOrKwargs>) -> Result<Value, Error> {
    move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
        let args = args.into_values();
        let read = args.first().map_or(0, |value| {
            let text = value.as_str().map_or(0, str::len);
            text + count(value).saturating_mul(each)
        });
        Budget::of(state).work(CALL_WORK + read)?;
        filter.call(state, &args)
    }
}

/// Adds numbers. The engine's own would also put texts and lists together,
/// and copy all that went before for each.
fn sum(
    state: &State<'_, '_>,
    values: Value,
    attribute: Option<&str>,
    start: Option<Value>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let named = kwargs.peek::<Option<Value>>("start")?;
    let start_from = start.as_ref().or(named.as_ref());
    if start_from.is_some_and(|start| !start.is_number()) {
        let message = "`sum` adds numbers; `join` and `chain` put texts and lists together";
        return Err(Error::new(ErrorKind::InvalidOperation, message));
    }
    filters::sum(state, values, attribute, start, kwargs)
}

/// A table. Lists and tables in it become ours, so that none grows unseen.
fn dict(state: &mut State<'_, '_>, from: Option<Value>, more: Kwargs) -> Result<Value, Error> {
    let entries = from
        .as_ref()
        .map_or(0, count)
        .saturating_mul(4 * ENTRY_BYTES);
    Budget::of(state).room(entries)?;
    let table = functions::dict(from, more)?;
    weighed(Budget::of(state), table)
}

/// A list of numbers, which is one and not the promise of one: what is lazy
/// is gone through again for every item that is looked up.
fn range(
    state: &mut State<'_, '_>,
    lower: isize,
    upper: Option<isize>,
    step: Option<isize>,
) -> Result<Value, Error> {
    let numbers = functions::range(lower, upper, step)?;
    weighed(Budget::of(state), numbers)
}

/// What `{% set %}` can write to. What is put in is taken as it is then, so
/// that no namespace comes to lie in itself.
fn namespace(state: &mut State<'_, '_>, defaults: Option<ValueOrKwargs>) -> Result<Value, Error> {
    let Some(defaults) = defaults else {
        return functions::namespace(None);
    };
    let defaults = part(Budget::of(state), defaults.into_value())?;
    functions::namespace(Some(defaults.into()))
}
