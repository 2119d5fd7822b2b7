//! Opening files of which somebody else may have made something else.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
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
