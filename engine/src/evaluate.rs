//! Evaluates expressions where nobody has to wait for it.
//!
//! Most take microseconds and are evaluated where they stand. What turns out to
//! be more is begun again on a thread that may block.

use std::{
    future::pending,
    panic::resume_unwind,
    sync::{Arc, LazyLock},
    thread::available_parallelism,
};

use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::pipeline::{EvalError, Output, Pipeline, Scope, bounds::light};

/// As many at a time as there are processors: each may hold 128 MiB.
static HEAVY: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    let most = available_parallelism().map_or(1, usize::from);
    Arc::new(Semaphore::new(most))
});

/// Does work that may take seconds. Dropped midway, the work goes on to its end
/// and counts for as long.
pub(crate) async fn heavy<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    // Never closed, so there always is one.
    let place = Arc::clone(&HEAVY).acquire_owned().await;
    let done = spawn_blocking(move || {
        let result = work();
        drop(place);
        result
    });
    match done.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        // The runtime goes away, and with it whoever waits here.
        Err(_) => pending().await,
    }
}

/// Evaluates what a run hands out.
///
/// # Errors
///
/// The first output that cannot be evaluated.
pub(crate) async fn outputs(pipeline: &Pipeline, scope: &Scope) -> Result<Vec<Output>, EvalError> {
    if let Some(outputs) = light(|| pipeline.evaluate_outputs(scope)) {
        return outputs;
    }
    let (pipeline, scope) = (pipeline.clone(), scope.clone());
    heavy(move || pipeline.evaluate_outputs(&scope)).await
}
