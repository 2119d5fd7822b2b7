//! Those who wait for a token, first come, first served.
//!
//! The line has an alarm, set for the first one's turn (`alarm.rs`). When it
//! goes off, everybody is served whose token is there, whether or not its task
//! is polled; so a call is looked at when it joins and when it has its token,
//! a token is asked for once for each call that gets one, and a call whose task
//! is not polled keeps nobody behind it waiting.

use std::{collections::BTreeMap, mem, task::Waker};

use tokio::runtime::{Handle, Id};

use super::{alarm::Alarm, gcra::Bucket};

/// A place in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// The line. Times are in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Line {
    waiting: BTreeMap<Ticket, Waiting>,
    next_ticket: u64,
    alarm: Alarm,
}

#[derive(Debug)]
struct Waiting {
    waker: Waker,
    runtime: Id,
    /// When its token is there at the earliest, if nobody ahead leaves.
    turn: u64,
    /// When it leaves.
    until: u64,
}

/// How one in the line stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has its token, and is no longer in the line.
    Served,
    /// It waits on, and will be woken.
    Waits,
    /// Its token would come too late, only then; it is no longer in the line.
    TooLate(u64),
}

impl Line {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the token would be there for somebody who joins at `now`.
    pub(super) fn turn_of_newcomer(&self, bucket: &Bucket, now: u64) -> u64 {
        turn(bucket, self.waiting.len(), now)
    }

    /// The task that is woken by `waker`, on `runtime`, joins the line.
    pub(super) fn join(&mut self, turn: u64, until: u64, waker: Waker, runtime: Handle) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let waiting = Waiting {
            waker,
            runtime: runtime.id(),
            turn,
            until,
        };
        self.waiting.insert(ticket, waiting);
        self.alarm.join(runtime);
        ticket
    }

    /// Gives the tokens that are there to the first in the line. Whom to wake
    /// once no lock is held.
    pub(super) fn serve(&mut self, bucket: &Bucket, now: u64) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(first) = self.waiting.first_entry() {
            if bucket.next_at() > now || bucket.take(now).is_err() {
                break;
            }
            let first = first.remove();
            self.alarm.leave(first.runtime);
            woken.push(first.waker);
        }
        // Newcomers were faster, just before the line began.
        if let Some(mut first) = self.waiting.first_entry() {
            let (turn, first) = (bucket.next_at(), first.get_mut());
            if first.turn <= first.until && turn > first.until {
                woken.push(first.waker.clone());
            }
            first.turn = turn;
        }
        woken
    }

    /// When the first one's turn comes, after [`Self::serve`].
    pub(super) fn next_turn(&self) -> Option<u64> {
        let (_, first) = self.waiting.first_key_value()?;
        Some(first.turn)
    }

    /// Has `waker` woken at the next turn.
    pub(super) fn set_alarm(&mut self, now: u64, waker: &Waker) {
        if let Some(turn) = self.next_turn() {
            self.alarm.set(turn, now, waker);
        }
    }

    /// How the one with `ticket` stands, after [`Self::serve`]. If it waits
    /// on, `waker` will be woken; what is put there instead is to be dropped
    /// once no lock is held, for that may run any code.
    pub(super) fn standing(&mut self, ticket: Ticket, now: u64, waker: &mut Waker) -> Standing {
        let Some(waiting) = self.waiting.get_mut(&ticket) else {
            return Standing::Served;
        };
        mem::swap(&mut waiting.waker, waker);
        let turn = waiting.turn.max(now);
        if turn <= waiting.until && now < waiting.until {
            return Standing::Waits;
        }
        self.leave(ticket);
        Standing::TooLate(turn)
    }

    /// Leaves the line, unless it was served. Its waker is to be dropped once
    /// no lock is held.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        let waiting = self.waiting.remove(&ticket)?;
        self.alarm.leave(waiting.runtime);
        Some(waiting.waker)
    }

    /// Tells everybody that tokens come at other times now; or, if there is no
    /// bucket any more, serves them all.
    pub(super) fn bucket_changed(&mut self, bucket: Option<&Bucket>, now: u64) -> Vec<Waker> {
        let Some(bucket) = bucket else {
            let all = mem::take(&mut self.waiting);
            self.alarm = Alarm::default();
            return all.into_values().map(|waiting| waiting.waker).collect();
        };
        for (ahead, waiting) in self.waiting.values_mut().enumerate() {
            waiting.turn = turn(bucket, ahead, now);
        }
        let wakers = self.waiting.values().map(|waiting| waiting.waker.clone());
        wakers.collect()
    }
}

/// When the token is there for somebody with `ahead` others before.
fn turn(bucket: &Bucket, ahead: usize, now: u64) -> u64 {
    let ahead = bucket.interval().saturating_mul(ahead as u64);
    bucket.next_at().max(now).saturating_add(ahead)
}
