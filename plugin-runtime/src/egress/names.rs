//! Names are looked up by the host, once for each connection.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
    sync::Arc,
};

use tokio::{sync::Semaphore, task::spawn_blocking};

use super::refusal::Refusal;

/// Where names are looked up.
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of `name`, the best first. May block for seconds.
    ///
    /// # Errors
    ///
    /// When the name has none, or nobody can tell.
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The resolver of the host's C library, with its files and settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let found = (name, 0).to_socket_addrs()?;
        Ok(found.map(|address| address.ip()).collect())
    }
}

/// A bounded number of look-ups at once.
#[derive(Clone)]
pub(super) struct Names {
    resolver: Arc<dyn Resolver>,
    free: Arc<Semaphore>,
}

impl Names {
    pub(super) fn new(resolver: Arc<dyn Resolver>, lookups_max: u32) -> Self {
        let free = usize::try_from(lookups_max).unwrap_or(usize::MAX);
        Self {
            resolver,
            free: Arc::new(Semaphore::new(free.clamp(1, Semaphore::MAX_PERMITS))),
        }
    }

    /// Looks `name` up. Waits while too many others are looked up. Dropping this does not
    /// end the look-up, which counts as one until it has ended.
    pub(super) async fn look_up(&self, name: String) -> Result<Vec<IpAddr>, Refusal> {
        let permit = Arc::clone(&self.free).acquire_owned().await;
        let permit = permit.map_err(|_| Refusal::Busy)?;
        let resolver = Arc::clone(&self.resolver);
        let looked_up = spawn_blocking(move || {
            let found = resolver.resolve(&name);
            drop(permit);
            found
        });
        match looked_up.await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            _ => Err(Refusal::UnknownName),
        }
    }
}
