//! Whether somebody else could change what this host goes by.

use std::{fs::Metadata, os::unix::fs::MetadataExt as _};

/// May delete and rename in the folder only what is their own.
const STICKY: u32 = 0o1000;

/// Whether others than this user and root can write to a file or folder, or own it.
pub(crate) fn is_exposed(metadata: &Metadata) -> bool {
    metadata.mode() & 0o022 != 0 || !is_ours(metadata)
}

/// Whether others could put something of their own in place of what lies in a
/// folder. Whoever owns it can, sticky or not.
pub(crate) fn can_be_swapped_in(folder: &Metadata) -> bool {
    let is_sticky = folder.is_dir() && folder.mode() & STICKY != 0;
    !is_ours(folder) || (is_exposed(folder) && !is_sticky)
}

fn is_ours(metadata: &Metadata) -> bool {
    let owner = metadata.uid();
    owner == 0 || owner == rustix::process::geteuid().as_raw()
}
