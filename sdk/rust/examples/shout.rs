//! Answers a text in capitals.

use std::process::ExitCode;

use orchestrator_sdk::{Context, Error, Info, Input, Plugin, Reply, serve};

struct Shout;

impl Plugin for Shout {
    fn info(&self) -> Info {
        Info::new("shout", "1.0.0", ["shout"])
    }

    async fn call(&self, _phase: &str, input: Input, _: &Context) -> Result<Reply, Error> {
        let text: String = input.json()?;
        Reply::json(&text.to_uppercase())
    }
}

fn main() -> ExitCode {
    serve(Shout)
}
