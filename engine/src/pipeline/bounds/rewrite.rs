//! Puts the bounded operators in the place of the engine's own.
//!
//! The template engine has hooks for filters and functions and none for `~`,
//! `+`, `*`, slices, literals and blocks. So what was parsed is written anew:
//! with each of them goes a filter of `operators` or a test of `compare`.
//! Everything else stays as it is.

use minijinja::{
    Value,
    machinery::{Span, ast::*},
};

use super::{compare, operators};

fn spanned<T>(node: T, span: Span) -> Spanned<T> {
    Spanned::new(node, span)
}

/// `<expression> | <name>(<args>)`
fn filter<'a>(name: &'static str, expr: Expr<'a>, args: Vec<CallArg<'a>>, span: Span) -> Expr<'a> {
    let expr = Some(expr);
    Expr::Filter(spanned(Filter { name, expr, args }, span))
}

fn made(expr: Expr<'_>) -> Expr<'_> {
    let span = expr.span();
    filter(operators::MADE, expr, Vec::new(), span)
}

pub(super) fn statements<'a>(statements: &[Stmt<'a>]) -> Vec<Stmt<'a>> {
    statements.iter().map(statement).collect()
}

pub(super) fn statement<'a>(statement: &Stmt<'a>) -> Stmt<'a> {
    match statement {
        Stmt::Template(node) => {
            let children = statements(&node.children);
            Stmt::Template(spanned(Template { children }, node.span()))
        }
        Stmt::EmitExpr(node) => {
            let expr = expression(&node.expr);
            Stmt::EmitExpr(spanned(EmitExpr { expr }, node.span()))
        }
        // Only expressions pass the formatter, which counts what is written.
        Stmt::EmitRaw(node) => {
            let value = Value::from_safe_string(node.raw.to_owned());
            let expr = Expr::Const(spanned(Const { value }, node.span()));
            Stmt::EmitExpr(spanned(EmitExpr { expr }, node.span()))
        }
        Stmt::ForLoop(node) => for_loop(node),
        Stmt::IfCond(node) => {
            let rewritten = IfCond {
                expr: expression(&node.expr),
                true_body: statements(&node.true_body),
                false_body: statements(&node.false_body),
            };
            Stmt::IfCond(spanned(rewritten, node.span()))
        }
        Stmt::WithBlock(node) => {
            let assignments = node.assignments.iter();
            let rewritten = WithBlock {
                assignments: assignments
                    .map(|(name, expr)| assigned(name, expr))
                    .collect(),
                body: statements(&node.body),
            };
            Stmt::WithBlock(spanned(rewritten, node.span()))
        }
        Stmt::Set(node) => {
            let (target, expr) = assigned(&node.target, &node.expr);
            Stmt::Set(spanned(Set { target, expr }, node.span()))
        }
        Stmt::SetBlock(node) => {
            let rewritten = SetBlock {
                target: target(&node.target),
                filter: node.filter.as_ref().map(expression),
                body: statements(&node.body),
            };
            Stmt::SetBlock(spanned(rewritten, node.span()))
        }
        Stmt::AutoEscape(node) => {
            let rewritten = AutoEscape {
                enabled: expression(&node.enabled),
                body: statements(&node.body),
            };
            Stmt::AutoEscape(spanned(rewritten, node.span()))
        }
        Stmt::FilterBlock(node) => {
            let rewritten = FilterBlock {
                filter: expression(&node.filter),
                body: statements(&node.body),
            };
            Stmt::FilterBlock(spanned(rewritten, node.span()))
        }
        Stmt::Do(node) => done(node),
    }
}

fn for_loop<'a>(node: &Spanned<ForLoop<'a>>) -> Stmt<'a> {
    let iter = expression(&node.iter);
    let span = iter.span();
    let rewritten = ForLoop {
        target: target(&node.target),
        iter: match node.filter_expr {
            Some(_) => filter(operators::PICKED, iter, Vec::new(), span),
            None => iter,
        },
        filter_expr: node.filter_expr.as_ref().map(expression),
        recursive: node.recursive,
        body: statements(&node.body),
        else_body: statements(&node.else_body),
    };
    Stmt::ForLoop(spanned(rewritten, node.span()))
}

/// The engine leaves what `do` gives on its stack, one more each time. As a
/// variable it is dropped.
fn done<'a>(node: &Spanned<Do<'a>>) -> Stmt<'a> {
    const RESULT: &str = "operator:done";
    let span = node.span();
    let rewritten = Set {
        target: Expr::Var(spanned(Var { id: RESULT }, span)),
        expr: call(&node.call),
    };
    Stmt::Set(spanned(rewritten, span))
}

/// What is assigned to, and what is.
fn assigned<'a>(to: &Expr<'a>, expr: &Expr<'a>) -> (Expr<'a>, Expr<'a>) {
    let expr = expression(expr);
    let span = expr.span();
    let expr = match to {
        Expr::Var(_) => expr,
        Expr::List(_) => {
            let few = filter(operators::SPREAD, expr, Vec::new(), span);
            filter(operators::PUT, few, Vec::new(), span)
        }
        _ => filter(operators::PUT, expr, Vec::new(), span),
    };
    (target(to), expr)
}

fn target<'a>(expr: &Expr<'a>) -> Expr<'a> {
    match expr {
        Expr::List(node) => {
            let items = node.items.iter().map(target).collect();
            Expr::List(spanned(List { items }, node.span()))
        }
        other => expression(other),
    }
}

fn expressions<'a>(items: &[Expr<'a>]) -> Vec<Expr<'a>> {
    items.iter().map(expression).collect()
}

pub(super) fn expression<'a>(expr: &Expr<'a>) -> Expr<'a> {
    match expr {
        Expr::Var(node) => Expr::Var(spanned(Var { id: node.id }, node.span())),
        Expr::Const(node) => {
            let value = node.value.clone();
            Expr::Const(spanned(Const { value }, node.span()))
        }
        Expr::Slice(node) => slice(node),
        Expr::UnaryOp(node) => {
            let is_not = matches!(node.op, UnaryOpKind::Not);
            let op = if is_not {
                UnaryOpKind::Not
            } else {
                UnaryOpKind::Neg
            };
            let expr = expression(&node.expr);
            Expr::UnaryOp(spanned(UnaryOp { op, expr }, node.span()))
        }
        Expr::BinOp(node) => binary(node),
        Expr::Compare(node) => chain(node),
        Expr::IfExpr(node) => {
            let rewritten = IfExpr {
                test_expr: expression(&node.test_expr),
                true_expr: expression(&node.true_expr),
                false_expr: node.false_expr.as_ref().map(expression),
            };
            Expr::IfExpr(spanned(rewritten, node.span()))
        }
        Expr::Filter(node) => {
            let rewritten = Filter {
                name: node.name,
                expr: node.expr.as_ref().map(expression),
                args: arguments(&node.args),
            };
            Expr::Filter(spanned(rewritten, node.span()))
        }
        Expr::Test(node) => {
            let rewritten = Test {
                name: node.name,
                expr: expression(&node.expr),
                args: arguments(&node.args),
            };
            Expr::Test(spanned(rewritten, node.span()))
        }
        Expr::GetAttr(node) => {
            let expr = expression(&node.expr);
            let name = node.name;
            Expr::GetAttr(spanned(GetAttr { expr, name }, node.span()))
        }
        Expr::GetItem(node) => {
            let rewritten = GetItem {
                expr: looked_up(&node.expr, &node.subscript_expr),
                subscript_expr: expression(&node.subscript_expr),
            };
            Expr::GetItem(spanned(rewritten, node.span()))
        }
        Expr::Call(node) => call(node),
        Expr::List(_) | Expr::Tuple(_) | Expr::Map(_) => literal(expr),
    }
}

/// What an item is looked up in. A key and a small index are cheap in
/// everything, and without a filter between them messages can name the place.
fn looked_up<'a>(expr: &Expr<'a>, key: &Expr<'a>) -> Expr<'a> {
    const SMALL: usize = 1_000;
    let expr = expression(expr);
    let span = expr.span();
    match key {
        Expr::Const(key) if key.value.as_str().is_some() => expr,
        Expr::Const(key) if key.value.as_usize().is_some_and(|at| at < SMALL) => expr,
        _ => filter(operators::LOOKED_UP, expr, Vec::new(), span),
    }
}

fn slice<'a>(node: &Spanned<Slice<'a>>) -> Expr<'a> {
    let bound = |expr: &Option<Expr<'a>>| {
        let none = || Expr::Const(spanned(Const { value: ().into() }, node.span()));
        CallArg::Pos(expr.as_ref().map_or_else(none, expression))
    };
    let bounds = vec![bound(&node.start), bound(&node.stop), bound(&node.step)];
    filter(
        operators::SLICE,
        expression(&node.expr),
        bounds,
        node.span(),
    )
}

fn call<'a>(node: &Spanned<Call<'a>>) -> Expr<'a> {
    let mut args = arguments(&node.args);
    // `loop.changed(…)` compares, and the other methods do nothing much.
    if let Expr::GetAttr(_) = node.expr {
        let compared = |arg| match arg {
            CallArg::Pos(expr) => {
                let span = expr.span();
                CallArg::Pos(filter(operators::COMPARED, expr, Vec::new(), span))
            }
            other => other,
        };
        args = args.into_iter().map(compared).collect();
    }
    let expr = expression(&node.expr);
    Expr::Call(spanned(Call { expr, args }, node.span()))
}

fn arguments<'a>(args: &[CallArg<'a>]) -> Vec<CallArg<'a>> {
    let spread = |expr: &Expr<'a>| {
        let expr = expression(expr);
        let span = expr.span();
        filter(operators::SPREAD, expr, Vec::new(), span)
    };
    args.iter()
        .map(|arg| match arg {
            CallArg::Pos(expr) => CallArg::Pos(expression(expr)),
            CallArg::Kwarg(name, expr) => CallArg::Kwarg(name, expression(expr)),
            CallArg::PosSplat(expr) => CallArg::PosSplat(spread(expr)),
            CallArg::KwargSplat(expr) => CallArg::KwargSplat(spread(expr)),
        })
        .collect()
}

fn literal<'a>(expr: &Expr<'a>) -> Expr<'a> {
    let rewritten = match expr {
        Expr::List(node) => {
            let items = expressions(&node.items);
            Expr::List(spanned(List { items }, node.span()))
        }
        Expr::Tuple(node) => {
            let items = expressions(&node.items);
            Expr::Tuple(spanned(Tuple { items }, node.span()))
        }
        Expr::Map(node) => {
            let rewritten = Map {
                keys: expressions(&node.keys),
                values: expressions(&node.values),
            };
            Expr::Map(spanned(rewritten, node.span()))
        }
        other => expression(other),
    };
    // A constant is there once, however often it is used.
    match rewritten.as_const() {
        Some(_) if !matches!(rewritten, Expr::Tuple(_)) => rewritten,
        _ => made(rewritten),
    }
}

fn binary<'a>(node: &Spanned<BinOp<'a>>) -> Expr<'a> {
    let span = node.span();
    let (left, right) = (expression(&node.left), expression(&node.right));
    let compare = |name, left, right| {
        let args = vec![CallArg::Pos(right)];
        let expr = left;
        Expr::Test(spanned(Test { name, expr, args }, span))
    };
    let operate = |op, left, right| Expr::BinOp(spanned(BinOp { op, left, right }, span));
    let text = |expr: Expr<'a>| {
        let span = expr.span();
        match expr {
            Expr::Const(_) => expr,
            _ => filter(operators::TEXT, expr, Vec::new(), span),
        }
    };
    match node.op {
        BinOpKind::Eq => compare(compare::EQ, left, right),
        BinOpKind::Ne => compare(compare::NE, left, right),
        BinOpKind::Lt => compare(compare::LT, left, right),
        BinOpKind::Lte => compare(compare::LE, left, right),
        BinOpKind::Gt => compare(compare::GT, left, right),
        BinOpKind::Gte => compare(compare::GE, left, right),
        BinOpKind::In => compare(compare::IN, left, right),
        BinOpKind::Mul => {
            let args = vec![CallArg::Pos(right)];
            filter(operators::TIMES, left, args, span)
        }
        BinOpKind::Add => made(operate(BinOpKind::Add, left, right)),
        BinOpKind::Concat => made(operate(BinOpKind::Concat, text(left), text(right))),
        // Of numbers, and of what is there already.
        op @ (BinOpKind::ScAnd
        | BinOpKind::ScOr
        | BinOpKind::Sub
        | BinOpKind::Div
        | BinOpKind::FloorDiv
        | BinOpKind::Rem
        | BinOpKind::Pow) => operate(op, left, right),
    }
}

/// `a < b < c`, where `b` is worked out once.
fn chain<'a>(node: &Spanned<Compare<'a>>) -> Expr<'a> {
    let operand = |expr: &Expr<'a>| {
        let expr = expression(expr);
        let span = expr.span();
        filter(operators::COMPARED, expr, Vec::new(), span)
    };
    let operations = node.ops.iter().map(|operation| CompareOp {
        op: operation.op,
        expr: operand(&operation.expr),
    });
    let rewritten = Compare {
        expr: operand(&node.expr),
        ops: operations.collect(),
    };
    Expr::Compare(spanned(rewritten, node.span()))
}
