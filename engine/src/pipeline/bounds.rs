//! Expressions and templates that cannot exhaust their host.
//!
//! The language is minijinja's. It counts instructions; what one instruction
//! takes is counted here. Values are [`weighed`] when they are made, and each
//! evaluation has a [`budget`]: for what its values take, for what it goes
//! through and for what it writes. [`rewrite`] puts that into what was parsed,
//! before it is compiled.
//!
//! This needs the machinery of minijinja, which may change with any version;
//! that is why its version is pinned.

mod budget;
mod compare;
mod data;
mod filters;
mod growth;
mod light;
mod operators;
mod rewrite;
mod slice;
mod tags;
mod weighed;

use std::panic::{AssertUnwindSafe, catch_unwind};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value,
    escape_formatter,
    machinery::{CodeGenerator, eval, make_string_output, parse, parse_expr},
};

use self::budget::Budget;
pub(crate) use self::{
    budget::Exhausted,
    data::{DATA_BYTES_MAX, Data},
    light::{light, may_decode},
    tags::Refused,
};

/// The language, strict about what is undefined, told to keep the places of
/// mistakes, and with an end to every evaluation.
pub(crate) fn environment(fuel: u64) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(fuel));
    environment.set_debug(true);
    environment.set_formatter(write);
    filters::apply(&mut environment);
    compare::apply(&mut environment);
    operators::apply(&mut environment);
    environment
}

/// Writes a value into a result or a block.
fn write(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let len = growth::text_len(Budget::of(state), value)?;
    let bytes = match state.auto_escape() {
        AutoEscape::None => len,
        _ if value.is_safe() => len,
        AutoEscape::Html => value.as_str().map_or(len * growth::ESCAPED, |text| {
            let escaped = text.bytes().filter(|byte| b"<>&\"'/".contains(byte));
            len + escaped.count() * growth::ESCAPED
        }),
        _ => len * growth::ESCAPED,
    };
    Budget::of(state).write(bytes)?;
    escape_formatter(out, state, value)
}

/// Whether an expression can be read.
///
/// # Errors
///
/// Where it cannot, and why.
pub(crate) fn check(expression: &str) -> Result<(), Error> {
    parse_expr(expression).map(drop)
}

/// Evaluates an expression. The result may be undefined, or hold what is.
///
/// # Errors
///
/// Whatever the expression fails with; [`Exhausted::behind`] tells when that
/// is for want of something.
pub(crate) fn evaluate(
    environment: &Environment<'_>,
    expression: &str,
    root: Value,
) -> Result<Value, Error> {
    let rewritten = rewrite::expression(&parse_expr(expression)?);
    let mut code = CodeGenerator::new("<expression>", expression);
    code.compile_expr(&rewritten);
    let (instructions, blocks) = code.finish();
    let mut nothing = String::new();
    let mut out = make_string_output(&mut nothing);
    let none = AutoEscape::None;
    unwinding(|| {
        let (value, _) = eval(environment, &instructions, root, &blocks, &mut out, none)?;
        Ok(value.unwrap_or_default())
    })
}

/// Turns a panic of the engine, which is a mistake of its own, into an error.
fn unwinding<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let message = "the template language itself fails at this; write it another way";
        Err(Error::new(ErrorKind::InvalidOperation, message))
    })
}

/// Why a template gave nothing.
#[derive(Debug)]
pub(crate) enum NotRendered {
    /// It was not even parsed.
    Refused(Refused),
    /// It cannot be parsed, or failed.
    Failed(Error),
}

impl From<Error> for NotRendered {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Renders a template, which is called `name` in messages.
///
/// # Errors
///
/// As [`evaluate`], and what is nested too deep.
pub(crate) fn render(
    environment: &Environment<'_>,
    (name, source): (&str, &str),
    root: Value,
    escape: AutoEscape,
) -> Result<String, NotRendered> {
    let syntax = environment.syntax();
    tags::check(source, syntax).map_err(NotRendered::Refused)?;
    let rewritten = rewrite::statement(&parse(source, name, syntax.clone())?);
    let mut code = CodeGenerator::new(name, source);
    code.compile_stmt(&rewritten);
    drop(rewritten);
    let (instructions, blocks) = code.finish();
    let mut rendered = String::new();
    let mut out = make_string_output(&mut rendered);
    unwinding(|| eval(environment, &instructions, root, &blocks, &mut out, escape).map(drop))?;
    Ok(rendered)
}

#[cfg(test)]
mod tests;
