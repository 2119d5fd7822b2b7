//! What the tests of sessions start from.

use super::*;
use crate::journal::fixture::Fixture;

pub(super) fn settings() -> SessionSettings {
    SessionSettings {
        key_bytes_max: 256,
        value_bytes_max: 65_536,
        keys_max: 1_000,
        session_bytes_max: 1 << 20,
        ttl: Duration::from_secs(24 * 60 * 60),
        sweep_interval: Duration::from_secs(60 * 60),
    }
}

pub(super) async fn sessions() -> (Fixture, Sessions) {
    let fixture = Fixture::new().await;
    let sessions = Sessions::new(&fixture.journal, settings());
    (fixture, sessions)
}

pub(super) fn session(n: u128) -> SessionId {
    SessionId::from_parts(1, n)
}
