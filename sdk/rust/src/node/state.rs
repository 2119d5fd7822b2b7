//! What one process of a plugin hands on to the next, when it is reloaded.

use std::sync::Arc;

use bytes::BytesMut;
use orchestrator_contract::{ContentType, Payload, PhaseReply, frame::RestoreState};

use super::{Link, NodeError, calls::Calls};
use crate::{Error, Plugin, serve::Served, unwind};

/// A state on its way to this process.
pub(super) struct Restoring {
    header: RestoreState,
    state: BytesMut,
}

impl Restoring {
    pub(super) fn new(header: RestoreState, beginning: &[u8]) -> Self {
        let state = BytesMut::from(beginning);
        Self { header, state }
    }

    pub(super) fn is_of(&self, call: u64) -> bool {
        self.header.call == call
    }

    pub(super) fn add(&mut self, piece: &[u8]) {
        self.state.extend_from_slice(piece);
    }

    pub(super) fn is_whole(&self) -> Result<bool, NodeError> {
        let RestoreState { call, length, .. } = self.header;
        match self.state.len() as u64 {
            arrived if arrived > length => Err(NodeError::LongInput { call, length }),
            arrived => Ok(arrived == length),
        }
    }
}

/// Answers what a later process needs.
pub(super) fn give<P: Plugin>(
    served: &Arc<Served<P>>,
    link: &Arc<Link>,
    calls: &Arc<Calls>,
    call: u64,
) {
    let work = {
        let served = Arc::clone(served);
        async move { unwind::catch(served.plugin.get_state()).await.flatten() }
    };
    answer(link, calls, call, work);
}

/// Goes on with what an earlier process had.
pub(super) fn restore<P: Plugin>(
    served: &Arc<Served<P>>,
    link: &Arc<Link>,
    calls: &Arc<Calls>,
    restoring: Restoring,
) {
    let Restoring { header, state } = restoring;
    let work = {
        let served = Arc::clone(served);
        let version = header.from_version;
        async move {
            let restored = served.plugin.restore_state(&state, &version);
            unwind::catch(restored).await.flatten()?;
            Ok(Vec::new())
        }
    };
    answer(link, calls, header.call, work);
}

fn answer(
    link: &Arc<Link>,
    calls: &Arc<Calls>,
    call: u64,
    work: impl Future<Output = Result<Vec<u8>, Error>> + Send + 'static,
) {
    // As long as it is open, a drain waits for it.
    let taken_back = calls.start_state(call);
    let (link, calls) = (Arc::clone(link), Arc::clone(calls));
    tokio::spawn(async move {
        let state = tokio::select! {
            state = work => state,
            _ = taken_back => Err(Error::cancelled("the host no longer wants the answer")),
        };
        let bytes = ContentType::new("application/octet-stream");
        let reply = state.map(|state| PhaseReply::new(Payload::new(bytes, state)));
        link.reply(call, reply, false).await;
        calls.end_state(call);
    });
}
