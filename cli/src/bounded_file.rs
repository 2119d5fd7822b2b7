//! Files that are handed over: read within a bound, as somebody else may have made
//! them large, and written whole or not at all.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use orchestrator_signing::replace_file;

use crate::{error::CliError, failure::Result};

/// Reads a file of at most this many bytes and one more, which whoever looks at
/// them finds too many.
pub(crate) fn read(file: &Path, max: usize) -> Result<Vec<u8>> {
    let read = || {
        // Opening a pipe would wait for somebody to write to it.
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a file"));
        }
        let mut bytes = Vec::new();
        let limit = max as u64 + 1;
        File::open(file)?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| CliError::file("read", file, error).into())
}

/// Puts a file that anybody may read in place of the one that is there.
pub(crate) fn write(file: &Path, bytes: &[u8]) -> Result {
    Ok(replace_file(file, bytes, 0o644).map_err(|error| CliError::file("write", file, error))?)
}
