//! Which system calls a confined process may make.
//!
//! The policy is data ([`calls`]): for every known number a [`bpf::Decision`], by an
//! allow list. What is on no list is refused; what the list does not know yet does not
//! exist (`ENOSYS`), so that programs fall back to what they used before it came.

mod bpf;
mod calls;
#[cfg(test)]
mod tests;

use std::sync::{Mutex, PoisonError};

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
    /// What could have been refused by another layer is told.
    pub(super) observed: bool,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// The number of the image's descriptor.
    pub(super) image: u32,
    pub(super) token: u64,
    /// Whether files in memory may be made. They count as no process's data.
    pub(super) memory_files: bool,
}

/// The filters of many starts with the same rules. One is made once, since that takes
/// longer than all else that a start prepares; the others differ in their token.
#[derive(Debug)]
pub(super) struct Filters {
    pub(super) rules: Rules,
    last: Mutex<Option<Filter>>,
}

impl Filters {
    pub(super) fn new(rules: Rules) -> Self {
        let last = Mutex::new(None);
        Self { rules, last }
    }

    /// The filter that keeps a process to the rules from its `start` on.
    pub(super) fn of(&self, start: Start) -> Vec<sock_filter> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = last.take_if(|filter| filter.is_for(start));
        let filter = fits.unwrap_or_else(|| Filter::new(self.rules, start));
        let program = filter.with(start.token);
        *last = Some(filter);
        program
    }
}

/// A filter for starts that differ in their token.
#[derive(Debug)]
struct Filter {
    start: Start,
    program: Vec<sock_filter>,
    /// Where the halves of the token are compared, if they are.
    token: [Option<usize>; 2],
}

impl Filter {
    fn new(rules: Rules, start: Start) -> Self {
        /// Nothing else is compared with its halves.
        const TOKEN: u64 = 0xD1B5_4A32_97E6_0C8F;
        let start = Start {
            token: TOKEN,
            ..start
        };
        let program = bpf::program(&calls::decisions(rules, start));
        let place = |half: u32| program.iter().position(|step| step.k == half);
        Self {
            start,
            token: halves(TOKEN).map(place),
            program,
        }
    }

    fn is_for(&self, start: Start) -> bool {
        let Start { token, .. } = self.start;
        self.start == Start { token, ..start }
    }

    fn with(&self, token: u64) -> Vec<sock_filter> {
        let mut program = self.program.clone();
        for (place, half) in self.token.into_iter().zip(halves(token)) {
            if let Some(step) = place.and_then(|place| program.get_mut(place)) {
                step.k = half;
            }
        }
        program
    }
}

/// Low and high.
fn halves(token: u64) -> [u32; 2] {
    [token as u32, (token >> 32) as u32]
}
