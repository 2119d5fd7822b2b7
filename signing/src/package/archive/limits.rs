//! How large a package an archive may hold.

use orchestrator_manifest::{PATH_DEPTH_MAX, PATH_MAX};

use crate::package::{BYTES_MAX, ENTRIES_MAX};

/// How many times its size an archive may unpack to. Programs and texts stay
/// below 20; what a bomb is made of reaches 1,000.
pub const RATIO_MAX: u64 = 200;
/// Bytes that may come out whatever went in.
const RATIO_FREE: u64 = 1024 * 1024;

/// Bounds of an archive. The defaults are those of a package in a folder; a
/// value above its default has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Files and folders.
    pub entries: usize,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of one file.
    pub file_bytes: u64,
    /// Folders above a file.
    pub depth: usize,
    /// Bytes of one path.
    pub path_bytes: usize,
    /// Bytes that come out for each that goes in, but for the first MiB.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: ENTRIES_MAX,
            bytes: BYTES_MAX,
            file_bytes: BYTES_MAX,
            depth: PATH_DEPTH_MAX,
            path_bytes: PATH_MAX,
            ratio: RATIO_MAX,
        }
    }
}

impl Limits {
    /// None above its default.
    pub fn lowered(self) -> Self {
        let most = Self::default();
        Self {
            entries: self.entries.min(most.entries),
            bytes: self.bytes.min(most.bytes),
            file_bytes: self.file_bytes.min(most.file_bytes),
            depth: self.depth.min(most.depth),
            path_bytes: self.path_bytes.min(most.path_bytes),
            ratio: self.ratio.min(most.ratio),
        }
    }

    /// How large an archive can be that keeps to them: what cannot be
    /// compressed grows a little, and every entry has a header.
    pub fn archive_bytes(&self) -> u64 {
        const HEAD_MAX: u64 = 3 * 1024;
        let heads = (self.entries as u64 + 1) * HEAD_MAX;
        self.bytes + self.bytes / 1_000 + heads
    }

    /// Whether `unpacked` bytes may come out of `packed`.
    pub(super) fn allows_ratio(&self, packed: u64, unpacked: u64) -> bool {
        unpacked <= RATIO_FREE.saturating_add(packed.saturating_mul(self.ratio))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_go_down_alone() {
        let low = Limits {
            entries: 3,
            bytes: u64::MAX,
            ratio: u64::MAX,
            ..Limits::default()
        };
        let lowered = low.lowered();
        assert_eq!((lowered.entries, lowered.bytes), (3, BYTES_MAX));
        assert_eq!(lowered.ratio, RATIO_MAX);
        assert!(lowered.allows_ratio(0, RATIO_FREE));
        assert!(!lowered.allows_ratio(0, RATIO_FREE + 1));
        assert!(lowered.allows_ratio(1, RATIO_FREE + RATIO_MAX));
    }
}
