//! Finding out whether the storage has recovered, when nobody else writes.

use rusqlite::params;

use super::{Cost, Job};
use crate::journal::{append::Batch, error::AppendError};

/// Less room than this is as good as none.
pub(super) const ROOM_BYTES: usize = 1 << 20;

/// Writes and removes what a run would write. Leaves nothing behind.
pub(super) struct Probe;

impl Job for Probe {
    fn cost(&self) -> Cost {
        Cost::default()
    }

    fn apply(&mut self, batch: &mut Batch<'_>) -> rusqlite::Result<()> {
        let name = [0_u8; 32];
        let insert = "INSERT INTO definitions (sha256, body, put) VALUES (?1, zeroblob(?2), 0)";
        let delete = "DELETE FROM definitions WHERE sha256 = ?1";
        batch.tx.execute(insert, params![name, ROOM_BYTES as i64])?;
        batch.tx.execute(delete, [name]).map(drop)
    }

    fn settle(self: Box<Self>, _: Result<(), &AppendError>) {}
}
