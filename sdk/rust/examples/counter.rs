//! A plugin that keeps its count over a reload.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use orchestrator_sdk::{Context, Error, Info, Input, Plugin, Reply, serve};

#[derive(Default)]
struct Counter(AtomicU64);

impl Plugin for Counter {
    fn info(&self) -> Info {
        Info::new("counter", "1.0.0", ["count"]).keeps_state()
    }

    async fn call(&self, _: &str, _: Input, _: &Context) -> Result<Reply, Error> {
        Reply::json(&(self.0.fetch_add(1, Ordering::Relaxed) + 1))
    }

    async fn get_state(&self) -> Result<Vec<u8>, Error> {
        Ok(self.0.load(Ordering::Relaxed).to_string().into_bytes())
    }

    async fn restore_state(&self, state: &[u8], _from_version: &str) -> Result<(), Error> {
        // What an older version wrote may need another reader than this one.
        let count = serde_json::from_slice(state).map_err(Error::permanent)?;
        self.0.store(count, Ordering::Relaxed);
        Ok(())
    }
}

fn main() -> ExitCode {
    serve(Counter::default())
}
