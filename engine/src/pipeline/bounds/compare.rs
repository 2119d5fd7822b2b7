//! Comparisons, as tests (`is eq`) and as operators (`==`).
//!
//! One comparison may go through everything that its operands hold, so each
//! pays for what it looks at.

use minijinja::{
    Environment, Error, ErrorKind, State, Value, tests,
    value::{Rest, StringInput},
};

use super::{
    budget::{Budget, CALL_WORK},
    growth::{count, text_len},
    weighed::weight,
};

/// The operators, as `rewrite` calls them. Nobody can write these names.
pub(super) const EQ: &str = "operator==";
pub(super) const NE: &str = "operator!=";
pub(super) const LT: &str = "operator<";
pub(super) const LE: &str = "operator<=";
pub(super) const GT: &str = "operator>";
pub(super) const GE: &str = "operator>=";
pub(super) const IN: &str = "operator:in";

/// What a comparison looks at, in bytes.
type Cost = fn(&mut Budget, &Value, &Value) -> Result<usize, Error>;

/// Puts bounded comparisons in the place of the engine's own.
pub(super) fn apply(environment: &mut Environment<'_>) {
    use Value as V;
    let mut add = |names: &[&'static str], cost: Cost, test: Value| {
        for name in names {
            environment.add_test(*name, comparing(test.clone(), cost));
        }
    };
    let eq = V::from_function(tests::is_eq);
    let ne = V::from_function(tests::is_ne);
    let lt = V::from_function(tests::is_lt);
    let le = V::from_function(tests::is_le);
    let gt = V::from_function(tests::is_gt);
    let ge = V::from_function(tests::is_ge);
    add(&["eq", "equalto", "=="], lighter, eq.clone());
    add(&["ne", "!="], lighter, ne.clone());
    add(&["lt", "lessthan", "<"], lighter, lt.clone());
    add(&["le", "<="], lighter, le.clone());
    add(&["gt", "greaterthan", ">"], lighter, gt.clone());
    add(&["ge", ">="], lighter, ge.clone());
    add(&["in"], search, V::from_function(tests::is_in));
    add(
        &["endingwith"],
        texts,
        V::from_function(tests::is_endingwith),
    );
    add(&["lower"], texts, V::from_function(tests::is_lower));
    add(
        &["startingwith"],
        texts,
        V::from_function(tests::is_startingwith),
    );
    add(&["upper"], texts, V::from_function(tests::is_upper));
    for (name, test) in [(EQ, eq), (NE, ne), (LT, lt), (LE, le), (GT, gt), (GE, ge)] {
        environment.add_test(name, operator(comparing(test, lighter)));
    }
    let search = comparing(V::from_function(tests::is_in), search);
    environment.add_test(IN, operator(containing(search)));
}

/// A test that pays for what it looks at.
fn comparing(
    test: Value,
    cost: Cost,
) -> impl Fn(&mut State<'_, '_>, Rest<Value>) -> Result<Value, Error> {
    move |state: &mut State<'_, '_>, args: Rest<Value>| {
        let (value, other) = operands(&args);
        let cost = cost(Budget::of(state), value, other)?;
        Budget::of(state).work(CALL_WORK.saturating_add(cost))?;
        test.call(state, &args)
    }
}

/// What compares is undefined is false as a test, and a mistake as an operator.
fn operator(
    test: impl Fn(&mut State<'_, '_>, Rest<Value>) -> Result<Value, Error>,
) -> impl Fn(&mut State<'_, '_>, Rest<Value>) -> Result<Value, Error> {
    move |state: &mut State<'_, '_>, args: Rest<Value>| {
        for operand in args.iter().filter(|operand| operand.is_undefined()) {
            StringInput::new(state, operand)?;
        }
        test(state, args)
    }
}

/// What can hold nothing is a mistake on the right of `in`.
fn containing(
    test: impl Fn(&mut State<'_, '_>, Rest<Value>) -> Result<Value, Error>,
) -> impl Fn(&mut State<'_, '_>, Rest<Value>) -> Result<Value, Error> {
    move |state: &mut State<'_, '_>, args: Rest<Value>| {
        let (_, container) = operands(&args);
        if container.as_str().is_none() && container.as_object().is_none() {
            let message = format!("nothing can be in {}", container.kind());
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        test(state, args)
    }
}

fn operands(args: &[Value]) -> (&Value, &Value) {
    let operand = |position| args.get(position).unwrap_or(&Value::UNDEFINED);
    (operand(0), operand(1))
}

/// Two values differ at the latest where the lighter one ends.
fn lighter(_: &mut Budget, one: &Value, other: &Value) -> Result<usize, Error> {
    /// How much slower than text a list is compared.
    const SLOWER: usize = 4;
    let cost = weight(one).min(weight(other));
    Ok(match one.as_object() {
        Some(_) => cost.saturating_mul(SLOWER),
        None => cost,
    })
}

fn texts(budget: &mut Budget, one: &Value, other: &Value) -> Result<usize, Error> {
    Ok(text_len(budget, one)? + text_len(budget, other)?)
}

/// A text is read, a list compared item by item, and a table knows.
fn search(budget: &mut Budget, needle: &Value, container: &Value) -> Result<usize, Error> {
    if container.as_str().is_some() {
        return texts(budget, needle, container);
    }
    if container.kind() == minijinja::value::ValueKind::Map {
        return Ok(weight(needle));
    }
    let each = count(container).saturating_mul(weight(needle));
    Ok(each.min(weight(container).max(count(container))))
}
