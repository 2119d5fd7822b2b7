//! Decisions about system calls as a program for the kernel's packet filter.
//!
//! The program is a binary search for the number of the call, since it runs at every
//! call that the kernel cannot decide beforehand.

use std::collections::BTreeMap;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W,
    sock_filter,
};

/// The number that the kernel gives to the system call interface of x86-64.
pub(super) const X86_64: u32 = 0xC000_003E;
/// Offsets in the kernel's `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
/// The furthest that a conditional jump goes.
const JUMP_MAX: usize = 255;
/// How near equal code must be to be shared: what is written next jumps to it over more.
const SHARE_MAX: usize = 200;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    /// Fails with this error number.
    Refuse(i32),
    /// Waits until the host has seen it.
    Tell,
    /// Ends the process.
    Kill,
}

impl Action {
    pub(super) fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Refuse(errno) => libc::SECCOMP_RET_ERRNO | errno.unsigned_abs(),
            Self::Tell => libc::SECCOMP_RET_USER_NOTIF,
            Self::Kill => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// Half of an argument; the kernel takes most arguments from the low half alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Low(u32),
    High(u32),
}

impl Word {
    /// Where it is in the kernel's `struct seccomp_data`.
    pub(super) fn offset(self) -> u32 {
        match self {
            Self::Low(argument) => ARGUMENTS + 8 * argument,
            Self::High(argument) => ARGUMENTS + 8 * argument + 4,
        }
    }
}

/// How a call of one number is decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Return(Action),
    /// Whether the bits `mask` of `word` are `value`.
    If {
        word: Word,
        mask: u32,
        value: u32,
        then: Box<Decision>,
        otherwise: Box<Decision>,
    },
}

/// The program that decides as `decisions` says, which hold from their number up to
/// the next and begin at 0. Every other system call interface ends the process.
pub(super) fn program(decisions: &BTreeMap<u32, Decision>) -> Vec<sock_filter> {
    let mut ranges: Vec<(u32, &Decision)> = Vec::with_capacity(decisions.len());
    for (first, decision) in decisions {
        if ranges.last().is_none_or(|(_, before)| *before != decision) {
            ranges.push((*first, decision));
        }
    }
    let mut program = Backwards::default();
    let calls = program.search(&ranges);
    let calls = program.after(load(NUMBER), calls);
    let other = program.decide(&OTHER_INTERFACE);
    let known = program.branch(BPF_JEQ, X86_64, calls, other);
    program.after(load(ARCHITECTURE), known);
    program.steps.reverse();
    program.steps
}

const OTHER_INTERFACE: Decision = Decision::Return(Action::Kill);

/// A program that is written from its end, since jumps only go forward: so two jumps to
/// equal code share it. The kernel compiles every step of it at each start.
#[derive(Default)]
struct Backwards<'decisions> {
    /// The last step first.
    steps: Vec<sock_filter>,
    /// Where a decision begins that was written last.
    written: Vec<(&'decisions Decision, usize)>,
}

impl<'decisions> Backwards<'decisions> {
    /// With the number loaded: finds the range it is in.
    fn search(&mut self, ranges: &[(u32, &'decisions Decision)]) -> usize {
        match ranges {
            [] => self.decide(&OTHER_INTERFACE),
            [(_, decision)] => self.decide(decision),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let middle = high.first().map_or(u32::MAX, |(first, _)| *first);
                let (low, high) = (self.search(low), self.search(high));
                self.branch(BPF_JGE, middle, high, low)
            }
        }
    }

    fn decide(&mut self, decision: &'decisions Decision) -> usize {
        let equal = self.written.iter_mut().find(|(it, _)| *it == decision);
        if let Some((_, place)) = equal
            && self.steps.len() - *place <= SHARE_MAX
        {
            return *place;
        }
        let place = match decision {
            Decision::Return(action) => self.push(give(*action)),
            Decision::If {
                word,
                mask,
                value,
                then,
                otherwise,
            } => {
                let (then, otherwise) = (self.decide(then), self.decide(otherwise));
                let mut place = self.branch(BPF_JEQ, *value, then, otherwise);
                if *mask != u32::MAX {
                    let masked = statement(BPF_ALU | BPF_AND | BPF_K, *mask);
                    place = self.after(masked, place);
                }
                self.after(load(word.offset()), place)
            }
        };
        self.written.retain(|(it, _)| *it != decision);
        self.written.push((decision, place));
        place
    }

    /// Compares what is loaded with `value` and goes on at one of two places.
    fn branch(&mut self, comparison: u32, value: u32, yes: usize, no: usize) -> usize {
        // To make one near may put one step before the other.
        let [yes, no] = [yes, no].map(|place| self.near(place));
        let over = |place: usize| {
            let steps = self.steps.len() - place - 1;
            debug_assert!(steps <= JUMP_MAX, "it was made near");
            steps as u8
        };
        let jump = sock_filter {
            jt: over(yes),
            jf: over(no),
            ..statement(BPF_JMP | comparison | BPF_K, value)
        };
        self.push(jump)
    }

    /// `step`, and then what is at `place`.
    fn after(&mut self, step: sock_filter, place: usize) -> usize {
        if place + 1 != self.steps.len() {
            self.jump(place);
        }
        self.push(step)
    }

    /// A place that a conditional jump reaches and from which it goes on at `place`.
    fn near(&mut self, place: usize) -> usize {
        match self.steps.len() - place > JUMP_MAX - 2 {
            true => self.jump(place),
            false => place,
        }
    }

    fn jump(&mut self, place: usize) -> usize {
        // A filter has 4,096 instructions at most.
        let over = u32::try_from(self.steps.len() - place - 1).unwrap_or(u32::MAX);
        self.push(statement(BPF_JMP | BPF_JA, over))
    }

    fn push(&mut self, step: sock_filter) -> usize {
        self.steps.push(step);
        self.steps.len() - 1
    }
}

fn load(offset: u32) -> sock_filter {
    statement(BPF_LD | BPF_W | BPF_ABS, offset)
}

fn give(action: Action) -> sock_filter {
    statement(BPF_RET | BPF_K, action.code())
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter {
        // All codes of the instruction set fit a byte.
        code: (code & 0xff) as u16,
        jt: 0,
        jf: 0,
        k,
    }
}
