//! The list of a process's children that the kernel keeps.

use std::os::fd::OwnedFd;

use rustix::{io::pread, process::Pid};

/// Hands every child on `list`, an open `/proc/…/children`, to `each`, zombies too.
/// Returns whether they could be listed. Also runs in the keeper, so it allocates
/// nothing.
pub(super) fn each_child(list: &OwnedFd, mut each: impl FnMut(Pid)) -> bool {
    let mut piece = [0_u8; 4096];
    let (mut at, mut number) = (0_u64, 0_i32);
    loop {
        let count = match pread(list, &mut piece, at) {
            Ok(0) => return true,
            Ok(count) => count,
            Err(_) => return false,
        };
        at = at.saturating_add(count as u64);
        for byte in piece.iter().take(count) {
            match byte {
                b'0'..=b'9' => {
                    number = number
                        .saturating_mul(10)
                        .saturating_add(i32::from(byte - b'0'));
                }
                _ => Pid::from_raw(std::mem::take(&mut number)).map_or((), &mut each),
            }
        }
    }
}
