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
    let mut calls = vec![load(NUMBER)];
    calls.extend(search(&ranges));
    let mut program = vec![load(ARCHITECTURE)];
    program.extend(branch(BPF_JEQ, X86_64, calls, vec![give(Action::Kill)]));
    program
}

/// With the number loaded: finds the range it is in.
fn search(ranges: &[(u32, &Decision)]) -> Vec<sock_filter> {
    match ranges {
        [] => vec![give(Action::Kill)],
        [(_, decision)] => decide(decision),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let middle = high.first().map_or(u32::MAX, |(first, _)| *first);
            branch(BPF_JGE, middle, search(high), search(low))
        }
    }
}

fn decide(decision: &Decision) -> Vec<sock_filter> {
    match decision {
        Decision::Return(action) => vec![give(*action)],
        Decision::If {
            word,
            mask,
            value,
            then,
            otherwise,
        } => {
            let mut code = vec![load(word.offset())];
            if *mask != u32::MAX {
                code.push(statement(BPF_ALU | BPF_AND | BPF_K, *mask));
            }
            code.extend(branch(BPF_JEQ, *value, decide(then), decide(otherwise)));
            code
        }
    }
}

/// Compares what is loaded with `value` and goes on with one of two pieces, each of
/// which ends in a return.
fn branch(
    comparison: u32,
    value: u32,
    yes: Vec<sock_filter>,
    no: Vec<sock_filter>,
) -> Vec<sock_filter> {
    let mut jump = statement(BPF_JMP | comparison | BPF_K, value);
    let mut code = Vec::with_capacity(2 + yes.len() + no.len());
    match u8::try_from(yes.len()) {
        Ok(over) => {
            jump.jf = over;
            code.push(jump);
        }
        Err(_) => {
            debug_assert!(yes.len() > JUMP_MAX, "a byte was too small");
            jump.jt = 1;
            // A filter has 4,096 instructions at most.
            let over = u32::try_from(yes.len()).unwrap_or(u32::MAX);
            code.extend([jump, statement(BPF_JMP | BPF_JA, over)]);
        }
    }
    code.extend(yes);
    code.extend(no);
    code
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
