//! A program that embeds the engine: one builtin phase, one pipeline, events.

use orchestrator_engine::{
    Builtin, CallContext, Engine, EventItem, RunRequest,
    contract::{CallError, Payload, PhaseCall},
    pipeline::Pipeline,
};
use serde::{Deserialize, Serialize};
use tokio_stream::StreamExt;

#[derive(Deserialize, Serialize)]
struct Text {
    text: String,
}

async fn convert(call: PhaseCall, _: CallContext) -> Result<Payload, CallError> {
    let invalid = |error: serde_json::Error| CallError::invalid_input(error.to_string());
    let Text { text } = call.input.decode().map_err(invalid)?;
    Payload::json(&Text {
        text: text.to_uppercase(),
    })
    .map_err(invalid)
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let home = std::env::temp_dir().join(format!("orchestrator-embed-{}", std::process::id()));
    let engine = Engine::builder()
        .home(&home)?
        .builtin(Builtin::phase("upper", "1.0.0", "convert", convert)?)
        .start()
        .await?;
    let mut events = engine.events();

    let pipeline = Pipeline::parse(include_str!("pipeline.yaml"), "pipeline.yaml")?;
    let sentence = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "hello".to_owned());
    let input = serde_json::json!({ "sentence": sentence });
    let report = engine.run(RunRequest::new(pipeline).input(input)).await?;

    engine.drain(std::time::Duration::from_secs(5)).await?;
    drop(engine);
    while let Some(EventItem::Event(event)) = events.next().await {
        println!("{}", serde_json::to_string(&event)?);
    }
    let shout = report.primary_output().ok_or("the run has no output")?;
    println!("{}", String::from_utf8_lossy(&shout.payload.bytes));
    std::fs::remove_dir_all(home)?;
    Ok(())
}
