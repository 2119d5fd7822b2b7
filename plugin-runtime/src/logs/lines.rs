//! Cuts a stream of bytes into lines.

/// Cuts a stream of bytes into lines, however the bytes arrive. Holds at most one
/// line of `max` bytes; what a longer line has beyond that is counted and dropped.
#[derive(Debug)]
pub(super) struct Lines {
    line: Vec<u8>,
    max: usize,
    left_out: u64,
}

impl Lines {
    pub(super) fn new(max: usize) -> Self {
        Self {
            line: Vec::new(),
            max,
            left_out: 0,
        }
    }

    /// Adds bytes; `each` gets every line that they complete, without its line
    /// break, and how many bytes of it are missing.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8], u64)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (head, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            if self.line.is_empty() && head.len() <= self.max {
                each(without_return(head), 0);
            } else {
                self.keep(head);
                self.finish(&mut each);
            }
        }
        self.keep(bytes);
    }

    /// Gives out what is left when the stream has ended without a line break.
    pub(super) fn end(&mut self, mut each: impl FnMut(&[u8], u64)) {
        if !self.line.is_empty() || self.left_out > 0 {
            self.finish(&mut each);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.max - self.line.len();
        let kept = &bytes[..bytes.len().min(room)];
        self.line.extend_from_slice(kept);
        self.left_out += (bytes.len() - kept.len()) as u64;
    }

    fn finish(&mut self, each: &mut impl FnMut(&[u8], u64)) {
        each(without_return(&self.line), self.left_out);
        self.line.clear();
        self.left_out = 0;
    }
}

fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&[u8]], max: usize) -> Vec<(Vec<u8>, u64)> {
        let mut seen = Vec::new();
        let mut lines = Lines::new(max);
        for piece in pieces {
            lines.push(piece, |line, left_out| seen.push((line.to_vec(), left_out)));
        }
        lines.end(|line, left_out| seen.push((line.to_vec(), left_out)));
        seen
    }

    #[test]
    fn two_lines_in_one_write_and_one_line_in_two_writes_are_three_lines() {
        let seen = split(&[b"one\ntwo\r\nth", b"ree\n"], 100);
        let lines: Vec<_> = seen.iter().map(|(line, _)| &line[..]).collect();
        assert_eq!(lines, [&b"one"[..], b"two", b"three"]);
    }

    #[test]
    fn a_line_without_end_is_bounded_and_counted() {
        let seen = split(&[b"012345", b"6789", b"\nnext"], 4);
        assert_eq!(seen, [(b"0123".to_vec(), 6), (b"next".to_vec(), 0)]);
    }

    proptest! {
        /// However the bytes are cut, the same lines come out.
        #[test]
        fn cuts_do_not_matter(text in "[a\n\r]{0,60}", cuts in proptest::collection::vec(1usize..7, 1..20)) {
            let bytes = text.as_bytes();
            let mut pieces = Vec::new();
            let mut rest = bytes;
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (head, tail) = rest.split_at((*cut).min(rest.len()));
                pieces.push(head);
                rest = tail;
            }
            prop_assert_eq!(split(&pieces, 5), split(&[bytes], 5));
        }
    }
}
