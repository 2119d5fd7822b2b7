//! The last bytes that a process wrote.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

/// The last `max` bytes that a process wrote, stdout and stderr as they came.
/// Attached to a crash, so that the reason is seen where the failure is seen.
#[derive(Debug)]
pub(crate) struct Tail {
    bytes: Mutex<VecDeque<u8>>,
    max: usize,
}

impl Tail {
    pub(crate) fn new(max: u64) -> Self {
        Self {
            bytes: Mutex::new(VecDeque::new()),
            max: usize::try_from(max).unwrap_or(usize::MAX),
        }
    }

    pub(crate) fn push(&self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.max)..];
        let mut kept = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let surplus = (kept.len() + bytes.len()).saturating_sub(self.max);
        kept.drain(..surplus);
        kept.extend(bytes);
    }

    /// The bytes as text that is safe to show; line breaks are kept.
    pub(crate) fn text(&self) -> String {
        let bytes: Vec<u8> = {
            let kept = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            kept.iter().copied().collect()
        };
        let lines: Vec<_> = bytes
            .trim_ascii_end()
            .split(|byte| *byte == b'\n')
            .map(|line| super::escape(line.strip_suffix(b"\r").unwrap_or(line), line.len()))
            .collect();
        lines.join("\n")
    }

    /// The last `count` lines as text.
    pub(crate) fn last_lines(&self, count: usize) -> String {
        let text = self.text();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_is_kept() {
        let tail = Tail::new(8);
        tail.push(b"0123456789");
        assert_eq!(tail.text(), "23456789");
        tail.push(b"\nab\n");
        assert_eq!(tail.text(), "6789\nab");
        assert_eq!(tail.last_lines(1), "ab");
    }
}
