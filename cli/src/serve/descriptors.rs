//! How many connections there is room for among the process's descriptors.

use std::num::NonZeroUsize;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets the process have as many descriptors as `wanted` connections need, as
/// far as it may; returns for how many connections there is room.
///
/// The other half is for the journal, for plugins and for what comes. Plugins
/// do not inherit the limit.
pub(super) fn make_room(wanted: NonZeroUsize) -> NonZeroUsize {
    let limit = getrlimit(Resource::Nofile);
    let needed = u64::try_from(wanted.get())
        .unwrap_or(u64::MAX)
        .saturating_mul(2);
    let has = limit.current.unwrap_or(u64::MAX);
    let may_have = needed.min(limit.maximum.unwrap_or(u64::MAX));
    if may_have > has {
        let raised = Rlimit {
            current: Some(may_have),
            ..limit
        };
        // Refused only where something else than the limit itself forbids it.
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of descriptors was not raised");
        }
    }
    let has = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = usize::try_from(has / 2).unwrap_or(usize::MAX);
    let connections = wanted.min(NonZeroUsize::new(room).unwrap_or(NonZeroUsize::MIN));
    if connections < wanted {
        tracing::warn!(
            descriptors = has,
            connections,
            "fewer connections than `server.connections_max`: the process may not have enough descriptors"
        );
    }
    connections
}
