//! The engine as a [`tower::Service`], for whoever wants to put layers of
//! their own around whole runs.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tower::Service;

use super::Engine;
use crate::{error::EngineError, report::RunReport, request::RunRequest};

impl Service<RunRequest> for Engine {
    type Response = RunReport;
    type Error = EngineError;
    type Future = Pin<Box<dyn Future<Output = Result<RunReport, EngineError>> + Send>>;

    /// Always ready: a run is refused when it is submitted, where the refusal
    /// can say why.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), EngineError>> {
        Poll::Ready(Ok(()))
    }

    /// [`Engine::run`]: dropping the future does not end the run.
    fn call(&mut self, request: RunRequest) -> Self::Future {
        let engine = self.clone();
        Box::pin(async move { engine.run(request).await })
    }
}
