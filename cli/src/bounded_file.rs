//! Files that somebody else may have made large.

use std::{fs::File, io::Read as _, path::Path};

use crate::{error::CliError, failure::Result};

/// Reads a file of at most this many bytes and one more, which whoever looks at
/// them finds too many.
pub(crate) fn read(file: &Path, max: usize) -> Result<Vec<u8>> {
    let opened = File::open(file).map_err(|error| CliError::file("read", file, error))?;
    let mut bytes = Vec::new();
    opened
        .take(max as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CliError::file("read", file, error))?;
    Ok(bytes)
}
