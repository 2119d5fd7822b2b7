//! A panic becomes an error of the call it happened in.

use std::{
    any::Any,
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
};

use crate::Error;

/// Awaits `future`; a panic in it is its error.
///
/// The plugin keeps running with whatever state the panic left behind, as a
/// web server does: an author who shares state between calls holds it so that a
/// panic cannot leave it half written (a poisoned lock says when one did).
pub(crate) async fn catch<T>(future: impl Future<Output = T>) -> Result<T, Error> {
    let mut future = pin!(future);
    poll_fn(
        |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(poll) => poll.map(Ok),
            Err(panic) => std::task::Poll::Ready(Err(Error::panic(message(&*panic)))),
        },
    )
    .await
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_keeps_its_message() {
        let plain: Result<(), Error> = catch(async { panic!("plain") }).await;
        assert_eq!(plain, Err(Error::panic("plain")));
        let late = catch(async {
            tokio::task::yield_now().await;
            let digits: Result<u8, _> = "x".parse();
            digits.expect("not a number")
        });
        let late = late.await.unwrap_err().to_string();
        assert!(late.starts_with("not a number"), "{late}");
    }
}
