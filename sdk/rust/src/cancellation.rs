//! Whether a call is still wanted.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use orchestrator_contract::frame::CancelMode;
use tokio::sync::Notify;

/// How long a cancelled call may go on before it is dropped.
const GRACE: Duration = Duration::from_secs(1);

// Zero is a call that is wanted.
const CANCELLED: u8 = 1;
const ABANDONED: u8 = 2;

/// Whether a call is still wanted. It only ever becomes less so.
#[derive(Debug, Default)]
pub(crate) struct Cancellation {
    stage: AtomicU8,
    changed: Notify,
}

impl Cancellation {
    pub(crate) fn cancel(&self, mode: CancelMode) {
        let stage = match mode {
            CancelMode::Cooperative => CANCELLED,
            CancelMode::Abandon => ABANDONED,
        };
        self.stage.fetch_max(stage, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.stage.load(Ordering::Acquire) >= CANCELLED
    }

    /// Resolves once the call is no longer wanted. Dropping it has no effect.
    pub(crate) async fn cancelled(&self) {
        self.reached(CANCELLED).await;
    }

    /// Resolves once the call should be dropped: at once when abandoned, after
    /// a grace time when cancelled. Dropping it has no effect.
    pub(crate) async fn expired(&self) {
        self.cancelled().await;
        tokio::select! {
            () = self.reached(ABANDONED) => {}
            () = tokio::time::sleep(GRACE) => {}
        }
    }

    async fn reached(&self, stage: u8) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Listens before it looks, so that no change falls in between.
            changed.as_mut().enable();
            if self.stage.load(Ordering::Acquire) >= stage {
                return;
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_call_has_a_grace_time_and_an_abandoned_one_has_none() {
        let call = Cancellation::default();
        let waited = timeout(Duration::from_secs(60), call.cancelled()).await;
        assert!(waited.is_err(), "nobody cancelled");

        let start = Instant::now();
        call.cancel(CancelMode::Cooperative);
        assert!(call.is_cancelled());
        call.cancelled().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
        call.expired().await;
        assert!(start.elapsed() >= GRACE);

        let start = Instant::now();
        tokio::join!(call.expired(), async { call.cancel(CancelMode::Abandon) });
        assert!(start.elapsed() < GRACE);
    }
}
