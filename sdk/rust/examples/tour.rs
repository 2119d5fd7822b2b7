//! Every feature of the SDK, a phase each.

use std::{process::ExitCode, time::Duration};

use orchestrator_sdk::{
    Context, Error, Info, Input, LogLevel, Payload, PhaseReply, Plugin, Reconciled, Reply, Setup,
    serve,
};
use serde::Deserialize;

struct Tour;

/// What the operator may set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    greeting: String,
}

impl Default for Config {
    fn default() -> Self {
        let greeting = "hello".to_owned();
        Self { greeting }
    }
}

impl Plugin for Tour {
    fn info(&self) -> Info {
        let phases = [
            "echo", "greet", "report", "count", "wait", "ignore", "print", "fail", "panic",
        ];
        Info::new("tour", "1.0.0", phases).concurrent_calls(4)
    }

    fn validate(&self, setup: &Setup) -> Result<(), Error> {
        setup.config::<Config>().map(|_| ())
    }

    async fn call(&self, phase: &str, input: Input, context: &Context) -> Result<Reply, Error> {
        match phase {
            "echo" => Ok(Reply::new(input.into_payload()).with_metadata("copied", "yes")),
            "greet" => greet(context),
            "report" => report(context),
            "count" => count(context).await,
            "wait" => {
                context.cancelled().await;
                Err(Error::permanent("tidied up"))
            }
            "ignore" => std::future::pending().await,
            "print" => print(),
            "fail" => Err(fail(input.text()?)),
            _ => panic!("phase {phase} panics"),
        }
    }

    async fn reconcile(&self, phase: &str, idempotency_key: &str, _: &Setup) -> Reconciled {
        match (phase, idempotency_key) {
            ("count", "done") => Reconciled::Done(PhaseReply::new(Payload::text("7"))),
            ("count", "not-done") => Reconciled::NotDone,
            ("panic", _) => panic!("no answer"),
            _ => Reconciled::Unknown,
        }
    }
}

/// Configuration and the facts of a call.
fn greet(context: &Context) -> Result<Reply, Error> {
    let config: Config = context.config()?;
    Reply::json(&serde_json::json!({
        "greeting": config.greeting,
        "step": context.step().as_str(),
        "attempt": context.attempt(),
        "key": context.idempotency_key(),
        "grants": context.grants(),
        "has_deadline": context.remaining().is_some(),
    }))
}

/// Progress and log lines.
fn report(context: &Context) -> Result<Reply, Error> {
    context.progress(50, "half way");
    context.log(LogLevel::Info, "a line\nand another");
    Reply::json(&())
}

/// Shared values.
async fn count(context: &Context) -> Result<Reply, Error> {
    let session = context.session();
    let count = session.get::<u64>("count").await?.unwrap_or_default() + 1;
    session.set("count", &count).await?;
    Reply::json(&count)
}

/// stdout belongs to the plugin.
#[expect(clippy::print_stdout, reason = "shows that it does no harm")]
fn print() -> Result<Reply, Error> {
    println!("printed by the plugin");
    Reply::json(&"answer")
}

/// The kinds of failure.
fn fail(kind: &str) -> Error {
    match kind {
        "transient" => Error::transient_after(Duration::from_millis(1_500), "busy"),
        "permission" => Error::permission("`network:access` is missing"),
        "invalid_input" => Error::invalid_input("not that"),
        _ => Error::permanent("never"),
    }
}

fn main() -> ExitCode {
    serve(Tour)
}
