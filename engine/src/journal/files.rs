//! Opening files of which somebody else may have made something else.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use rustix::fs::OFlags;

/// Opens a regular file. Anything else is refused instead of being waited for:
/// a named pipe would keep its opener until somebody opens its other end.
pub(super) fn open_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let no_waiting = OFlags::NONBLOCK.bits().cast_signed();
    let opened = options.custom_flags(no_waiting).open(path);
    let is_other = match &opened {
        Ok(file) => !file.metadata()?.is_file(),
        Err(_) => fs::metadata(path).is_ok_and(|found| !found.is_file()),
    };
    match is_other {
        true => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("`{}` is no regular file", path.display()),
        )),
        false => opened,
    }
}

/// How long to wait for another process that is just opening the file.
const OPEN_WAIT: Duration = Duration::from_secs(10);

/// Holds off other openers for as long as the file is open.
pub(super) fn wait_for_turn(path: &Path) -> io::Result<File> {
    let mut own = OpenOptions::new();
    let file = open_regular(own.append(true).create(true).mode(0o600), path)?;
    let step = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if waited < OPEN_WAIT => {
                #[expect(clippy::disallowed_methods, reason = "on a thread that may block")]
                std::thread::sleep(step);
                waited += step;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::fixture::make_pipe;

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        make_pipe(&pipe);
        for path in [dir.path(), &pipe] {
            let mut to_write = OpenOptions::new();
            let mut to_read = to_write.append(true).create(true).clone();
            for options in [
                &mut to_write,
                to_read.append(false).create(false).read(true),
            ] {
                let error = open_regular(options, path).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
                assert!(error.to_string().contains(path.to_str().unwrap()));
            }
        }
        let file = dir.path().join("file");
        open_regular(OpenOptions::new().write(true).create(true), &file).unwrap();
        let missing = open_regular(OpenOptions::new().read(true), &dir.path().join("none"));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
