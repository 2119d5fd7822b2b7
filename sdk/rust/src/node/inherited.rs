//! The socket that the host left open for this process.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{FromRawFd, IntoRawFd, RawFd},
        unix::net::UnixStream,
    },
};

/// Takes over the socket whose descriptor number is `number`.
///
/// # Errors
///
/// When `number` is none, or the descriptor is not an open socket.
pub(super) fn socket(number: &OsStr) -> io::Result<UnixStream> {
    let number = number.to_str().and_then(|text| text.parse().ok());
    let number: RawFd = number
        .filter(|number| *number > 2)
        .ok_or_else(|| io::Error::other("a number above 2 is needed"))?;
    let inherited = adopt(number)?;
    // The copy is closed when this process starts another program, the
    // original is not.
    let socket = inherited.try_clone()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[expect(
    unsafe_code,
    reason = "an inherited descriptor is only a number; no safe function turns it into an owner"
)]
fn adopt(number: RawFd) -> io::Result<UnixStream> {
    // SAFETY: the host opened this descriptor for us and says so by its number;
    // nothing else in this process knows of it, and `serve` runs once. A number
    // that is no socket is found out below and given up without closing it.
    let stream = unsafe { UnixStream::from_raw_fd(number) };
    match stream.peer_addr() {
        Ok(_) => Ok(stream),
        Err(error) => {
            let _ = stream.into_raw_fd();
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::AsRawFd};

    use super::*;

    #[test]
    fn what_is_no_socket_is_refused_and_left_open() {
        let file = File::open("/proc/self/status").unwrap();
        let number = file.as_raw_fd().to_string();
        assert!(socket(OsStr::new(&number)).is_err());
        assert!(file.metadata().is_ok(), "the file was closed");
        for nonsense in ["", "x", "-1", "0", "1", "2", "999999"] {
            assert!(socket(OsStr::new(nonsense)).is_err(), "{nonsense}");
        }
    }
}
