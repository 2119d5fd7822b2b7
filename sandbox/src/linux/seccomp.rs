//! Which system calls a confined process may make.
//!
//! The policy is data ([`calls`]): for every known number a [`bpf::Decision`], by an
//! allow list. What is on no list is refused; what the list does not know yet does not
//! exist (`ENOSYS`), so that programs fall back to what they used before it came.

mod bpf;
mod calls;
#[cfg(test)]
mod tests;

use libc::sock_filter;

use crate::Network;

/// What of a [`Grants`](crate::Grants) system calls depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) execution: Execution,
    /// Which internet sockets there are.
    pub(super) network: Network,
    /// The metadata of files may be changed. Of which ones, is not for this layer to say.
    pub(super) writes: bool,
    pub(super) system_information: bool,
}

/// Which programs may be executed after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Execution {
    /// None, and no process may be made.
    Nothing,
    /// Those of some files, by their path: never a file in memory.
    Files,
    Anything,
}

/// The one `execveat` that starts the program. The kernel hands a filter six arguments
/// of a call and `execveat` has five, so the sixth is free to carry a number that only
/// the host knows. It goes with the old memory when the program starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// The number of the image's descriptor.
    pub(super) image: u32,
    pub(super) token: u64,
}

/// The filter that keeps a process to `rules` from its `start` on.
pub(super) fn filter(rules: Rules, start: Start) -> Vec<sock_filter> {
    bpf::program(&calls::decisions(rules, start))
}
