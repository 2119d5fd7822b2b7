//! Keeps a call from copying the whole stack time and again.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use tower::{Layer, Service, util::Oneshot};

/// Puts everything below it behind one pointer.
///
/// A layer copies what it wraps for each call, so that a call owns its way
/// down; a stack of nine would copy its lowest layer nine times a call. Above
/// a seam, a copy is one pointer; what lies below is copied once, when a call
/// gets there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeamLayer;

impl<S> Layer<S> for SeamLayer {
    type Service = Seam<S>;

    fn layer(&self, inner: S) -> Seam<S> {
        Seam(Arc::new(inner))
    }
}

/// See [`SeamLayer`].
#[derive(Debug)]
pub(crate) struct Seam<S>(Arc<S>);

impl<S> Clone for Seam<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S, Req> Service<Req> for Seam<S>
where
    S: Service<Req> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Oneshot<S, Req>;

    /// Always ready; the service below is awaited by the call itself.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Oneshot<S, Req> {
        Oneshot::new(S::clone(&self.0), request)
    }
}
