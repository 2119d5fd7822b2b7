//! What an observed process does.

use std::{net::SocketAddr, path::PathBuf};

/// Something that an observed process is about to do, and that a grant decides about. What
/// every confined process may do is not told. Paths are absolute, without `..`, and
/// otherwise as the process spelled them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Observed {
    /// It looks at something that is there, without opening it.
    Looked(PathBuf),
    /// It opens something that is there for reading.
    Read(PathBuf),
    /// It changes something that is there.
    Written(PathBuf),
    /// It makes, removes or renames something in this directory.
    Changed(PathBuf),
    /// It makes this, which is not there yet.
    Made(PathBuf),
    /// It executes this program, or one that this script names.
    Executed(PathBuf),
    /// It executes a program that has no path.
    ExecutedMemory,
    /// It connects to this, or sends to it, itself.
    Connected(SocketAddr),
    /// It looks at the machine's memory, load or processors.
    SystemInformation,
    /// What it does could not be read.
    Unseen,
}
