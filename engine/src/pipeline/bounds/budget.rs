//! What one evaluation may hold, do and write.
//!
//! What it holds is counted as it is: values that nobody refers to any more do
//! not count. So a long text may be put together line by line.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use minijinja::{Error, ErrorKind, State, Value};
use thiserror::Error;

use super::light::spend;
use crate::pipeline::RESULT_BYTES_MAX;

/// Longest text that an evaluation may make, in bytes.
pub(super) const TEXT_MAX: usize = RESULT_BYTES_MAX;
/// What the values that an evaluation makes may take at any time, in bytes.
const MEMORY_MAX: usize = 4 * RESULT_BYTES_MAX;
/// What an evaluation may write into its result and into blocks, in bytes.
const WRITTEN_MAX: usize = 3 * RESULT_BYTES_MAX;
/// What an evaluation may read and make in all, in bytes: seconds of work.
const WORK_MAX: usize = 1024 * 1024 * 1024;
/// What calling a filter or a test takes, in bytes that could be copied
/// meanwhile, and what an item of a list does.
pub(super) const CALL_WORK: usize = 256;
pub(super) const ITEM_WORK: usize = 64;
/// How much slower than copied a text is gone through character by character.
pub(super) const CHARS_WORK: usize = 8;
/// Texts up to this length are part of their value.
const INLINE_MAX: usize = 22;
/// What a longer text takes beside its bytes.
const TEXT_OVERHEAD: usize = 48;

/// What an evaluation had not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Exhausted {
    /// Instructions.
    #[error("it takes too many instructions")]
    Fuel,
    /// Work within instructions.
    #[error("it works through more than {WORK_MAX} bytes of values")]
    Work,
    /// Memory for all values together.
    #[error("it makes more than {MEMORY_MAX} bytes of values")]
    Memory,
    /// Memory for one text.
    #[error("it makes a text of more than {TEXT_MAX} bytes")]
    Text,
    /// Room for what is written.
    #[error("it writes more than {WRITTEN_MAX} bytes")]
    Written,
}

impl Exhausted {
    /// What there was not enough of, if that is why an evaluation failed.
    pub(crate) fn behind(error: &Error) -> Option<Self> {
        if error.kind() == ErrorKind::OutOfFuel {
            return Some(Self::Fuel);
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(exhausted) = error.downcast_ref() {
                return Some(*exhausted);
            }
            cause = error.source();
        }
        None
    }
}

impl From<Exhausted> for Error {
    fn from(exhausted: Exhausted) -> Self {
        Self::new(ErrorKind::InvalidOperation, exhausted.to_string()).with_source(exhausted)
    }
}

/// The budget of one evaluation. It lives in the evaluation's state.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// What lists and tables take, each for as long as it exists.
    held: Arc<AtomicUsize>,
    /// The texts that were made, and what they take. The template engine drops
    /// texts without a word, so those that are gone are found by looking.
    texts: Vec<Arc<str>>,
    text_bytes: usize,
    work: usize,
    written: usize,
}

/// Memory that is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    held: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.fetch_sub(self.bytes, Relaxed);
    }
}

impl Budget {
    pub(super) fn of<'s>(state: &'s mut State<'_, '_>) -> &'s mut Self {
        state.get_or_insert_extension_with(Self::default)
    }

    /// Says that work on so many bytes is about to be done.
    pub(super) fn work(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.work = self.work.saturating_add(bytes);
        match self.work <= WORK_MAX && spend(bytes) {
            true => Ok(()),
            false => Err(Exhausted::Work),
        }
    }

    /// Says that so many bytes are about to be written.
    pub(super) fn write(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.work(bytes)?;
        self.written = self.written.saturating_add(bytes);
        match self.written > WRITTEN_MAX {
            true => Err(Exhausted::Written),
            false => Ok(()),
        }
    }

    /// Whether there is room for so many bytes more, which are about to be made.
    pub(super) fn room(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.work(bytes)?;
        if self.is_within(bytes) {
            return Ok(());
        }
        self.forget_texts()?;
        match self.is_within(bytes) {
            true => Ok(()),
            false => Err(Exhausted::Memory),
        }
    }

    fn is_within(&self, bytes: usize) -> bool {
        let taken = self.held.load(Relaxed) + self.text_bytes;
        taken.saturating_add(bytes) <= MEMORY_MAX
    }

    /// Takes memory for as long as what comes back is kept.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<Held, Exhausted> {
        self.room(bytes)?;
        self.held.fetch_add(bytes, Relaxed);
        Ok(Held {
            held: Arc::clone(&self.held),
            bytes,
        })
    }

    /// Counts a text for as long as it exists.
    pub(super) fn keep(&mut self, text: &Value) -> Result<(), Exhausted> {
        let len = text.as_str().map_or(0, str::len);
        if len > TEXT_MAX {
            return Err(Exhausted::Text);
        }
        if len <= INLINE_MAX && !text.is_safe() {
            return Ok(());
        }
        // First of all, for it may be one that is counted already.
        self.text_bytes += len + TEXT_OVERHEAD;
        self.texts.extend(text.to_str());
        self.room(0)?;
        self.work(len)
    }

    /// Stops counting the texts that nobody else has, and those that are
    /// counted twice.
    fn forget_texts(&mut self) -> Result<(), Exhausted> {
        self.work(self.texts.len() * TEXT_OVERHEAD)?;
        self.texts.sort_unstable_by_key(|text| text.as_ptr());
        self.texts.dedup_by(|one, other| Arc::ptr_eq(one, other));
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        let lengths = self.texts.iter().map(|text| text.len() + TEXT_OVERHEAD);
        self.text_bytes = lengths.sum();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(len: usize) -> Value {
        Value::from("x".repeat(len))
    }

    #[test]
    fn what_is_gone_does_not_count() {
        let mut budget = Budget::default();
        for _ in 0..10 {
            budget.keep(&text(MEMORY_MAX / 8)).unwrap();
            budget.hold(MEMORY_MAX / 2).unwrap();
        }
    }

    #[test]
    fn what_is_there_counts_once() {
        let mut budget = Budget::default();
        let texts: Vec<_> = (0..4).map(|_| text(TEXT_MAX - 100)).collect();
        for text in texts.iter().chain(&texts) {
            budget.keep(text).unwrap();
        }
        assert_eq!(budget.keep(&text(TEXT_MAX - 100)), Err(Exhausted::Memory));
        assert_eq!(budget.room(1_000), Err(Exhausted::Memory));
        drop(texts);
        let held = budget.hold(MEMORY_MAX).unwrap();
        assert_eq!(budget.room(1), Err(Exhausted::Memory));
        drop(held);
        budget.room(MEMORY_MAX).unwrap();
        assert_eq!(budget.keep(&text(TEXT_MAX + 1)), Err(Exhausted::Text));
    }

    #[test]
    fn work_and_writing_come_to_an_end() {
        let mut budget = Budget::default();
        budget.write(WRITTEN_MAX).unwrap();
        assert_eq!(budget.write(1), Err(Exhausted::Written));
        let rounds = (0..1_000).take_while(|_| budget.room(MEMORY_MAX).is_ok());
        assert!(rounds.count() < 100);
        assert_eq!(budget.work(1), Err(Exhausted::Work));
    }

    #[test]
    fn the_reason_is_found_behind_other_errors() {
        let error =
            Error::new(ErrorKind::BadInclude, "outer").with_source(Error::from(Exhausted::Text));
        assert_eq!(Exhausted::behind(&error), Some(Exhausted::Text));
        assert_eq!(
            Exhausted::behind(&ErrorKind::OutOfFuel.into()),
            Some(Exhausted::Fuel)
        );
        assert_eq!(Exhausted::behind(&ErrorKind::NonKey.into()), None);
    }
}
