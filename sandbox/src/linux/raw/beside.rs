#![expect(
    unsafe_code,
    reason = "a process that shares the memory of the one that makes it has no safe wrapper"
)]
//! Making a process that shares the host's memory until it executes an image or ends.
//!
//! Nothing is copied (`CLONE_VM`), so the cost does not grow with the host's size, and who
//! makes it waits until then (`CLONE_VFORK`).

use std::{
    arch::asm,
    cell::Cell,
    ffi::{c_int, c_long, c_void},
    os::fd::RawFd,
    ptr,
};

use rustix::{io::Errno, process::Pid};

use super::{Stack, check};

const FLAGS: c_int = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID;

/// What the new process is to do.
struct Errand<'work, W> {
    work: &'work W,
    run: fn(&W) -> c_int,
}

extern "C" fn enter<W>(errand: *mut c_void) -> c_int {
    // SAFETY: whoever makes the process passes on a pointer to an errand, which outlives
    // this call: `CLONE_VFORK` keeps the maker waiting, and without the keeper's answer the
    // host never drops what it works with or on.
    let errand = unsafe { &*errand.cast::<Errand<'_, W>>() };
    (errand.run)(errand.work)
}

/// Keeper, child: makes a process that does `work` by `run`, with `flags` of `clone` beside
/// those of its memory; returns when it has executed an image or ended. `begun` is its id as
/// soon as there is one, also for who finds that the caller was killed meanwhile.
pub(in crate::linux) fn beside<W>(
    stack: &mut Stack,
    work: &W,
    run: fn(&W) -> c_int,
    flags: c_int,
    begun: &Cell<c_int>,
) -> Result<Pid, Errno> {
    let errand = Errand { work, run };
    // SAFETY: the stack is mapped, aligned and used by nobody else (`&mut`), and
    // signals are blocked in the keeper, as in the thread that made it (`Stack::new`), and in
    // what it makes; `enter` gets the errand that it expects. What is run only makes system
    // calls and writes `Cell`s of the work, so other threads of the host notice nothing. The
    // kernel writes one number to `begun` before the process runs.
    let pid = unsafe {
        libc::clone(
            enter::<W>,
            stack.top(),
            FLAGS | libc::SIGCHLD | flags,
            (&raw const errand).cast_mut().cast::<c_void>(),
            begun.as_ptr(),
        )
    };
    check(c_long::from(pid))?;
    Pid::from_raw(pid).ok_or(Errno::SRCH)
}

/// The kernel's `struct clone_args`.
#[repr(C, align(8))]
struct Arguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Keeper, child: the same, and the process is in the control group of the second version
/// whose directory is `group` from its beginning. To enter one later makes the kernel wait
/// for every other process that begins or ends: some ten milliseconds on an idle machine.
///
/// # Errors
///
/// Where `clone3` is not to be had, and where the group is one of the first version, too.
pub(in crate::linux) fn beside_in<W>(
    group: RawFd,
    stack: &mut Stack,
    work: &W,
    run: fn(&W) -> c_int,
    flags: c_int,
    begun: &Cell<c_int>,
) -> Result<Pid, Errno> {
    /// Beyond the numbers that `clone` takes.
    const INTO_CGROUP: u64 = 1 << 33;
    let errand = Errand { work, run };
    let top = stack.top();
    let arguments = Arguments {
        flags: u64::from((FLAGS | flags).cast_unsigned()) | INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: begun.as_ptr().expose_provenance() as u64,
        // A child of the caller's parent ends as the caller does, and must not say how.
        exit_signal: match flags & libc::CLONE_PARENT {
            0 => u64::from(libc::SIGCHLD.cast_unsigned()),
            _ => 0,
        },
        stack: stack.base.expose_provenance() as u64,
        stack_size: (top.addr() - stack.base.addr()) as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: u64::from(group.unsigned_abs()),
    };
    let result: isize;
    // SAFETY: as in `beside`. The kernel reads one live structure of the size that is told.
    // The new process begins behind the first call with the registers of its maker but for
    // its own stack, whose top is aligned as a call expects it, calls `enter` and ends with
    // what that returns; it never gets to the end of the block.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r8",
            "call r9",
            "mov edi, eax",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "2:",
            exit = const libc::SYS_exit,
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") ptr::from_ref(&arguments),
            in("rsi") size_of::<Arguments>(),
            in("r8") ptr::from_ref(&errand),
            in("r9") enter::<W> as extern "C" fn(*mut c_void) -> c_int,
            out("rcx") _,
            out("r11") _,
        );
    }
    match i32::try_from(result) {
        Ok(failed @ ..0) => Err(Errno::from_raw_os_error(-failed)),
        Ok(pid) => Pid::from_raw(pid).ok_or(Errno::SRCH),
        Err(_) => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use rustix::{
        fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat},
        mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen},
        process::{WaitId, WaitIdOptions, geteuid, waitid},
    };

    use super::*;

    /// What the process read of itself.
    struct Said(Cell<[u8; 512]>);

    fn say(said: &Said) -> c_int {
        let mut text = [0; 512];
        let read = openat(CWD, c"/proc/self/cgroup", OFlags::RDONLY, Mode::empty())
            .and_then(|file| rustix::io::read(file, &mut text));
        said.0.set(text);
        read.map_or(1, |_| 7)
    }

    /// Who makes a sibling.
    struct Elder<'all> {
        group: RawFd,
        stack: Cell<Option<&'all mut Stack>>,
        said: &'all Said,
        begun: Cell<c_int>,
    }

    fn make_sibling(elder: &Elder<'_>) -> c_int {
        let Some(stack) = elder.stack.take() else {
            return 1;
        };
        let flags = libc::CLONE_PARENT;
        let made = beside_in(elder.group, stack, elder.said, say, flags, &elder.begun);
        made.map_or(1, |_| 0)
    }

    #[test]
    fn a_process_is_in_its_group_from_its_beginning() {
        if !geteuid().is_root() {
            return;
        }
        // Mounted nowhere.
        let hierarchy = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC).expect("it is known");
        fsconfig_create(&hierarchy).expect("it is there");
        let none = MountAttrFlags::empty();
        let root = fsmount(&hierarchy, FsMountFlags::FSMOUNT_CLOEXEC, none).expect("root may");
        let name = format!("orchestrator-test-{}", std::process::id());
        mkdirat(&root, &name, Mode::RWXU).expect("root may");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let group = openat(&root, &name, flags, Mode::empty()).expect("it was made");

        let mut stack = Stack::new().expect("memory");
        let said = Said(Cell::new([0; 512]));
        let pid = beside_in(group.as_raw_fd(), &mut stack, &said, say, 0, &Cell::new(0))
            .expect("it is made");
        let ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).expect("it is ours");
        assert_eq!(ended.and_then(|ended| ended.exit_status()), Some(7));
        let text = said.0.get();
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains(&format!("0::/{name}\n")), "{text}");

        let mut second = Stack::new().expect("memory");
        let elder = Elder {
            group: group.as_raw_fd(),
            stack: Cell::new(Some(&mut second)),
            said: &Said(Cell::new([0; 512])),
            begun: Cell::new(0),
        };
        let pid = beside(&mut stack, &elder, make_sibling, 0, &Cell::new(0)).expect("it is made");
        let ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).expect("it is ours");
        assert_eq!(ended.and_then(|ended| ended.exit_status()), Some(0));
        let sibling = Pid::from_raw(elder.begun.get()).expect("it was made");
        let ended = waitid(WaitId::Pid(sibling), WaitIdOptions::EXITED).expect("it is ours too");
        assert_eq!(ended.and_then(|ended| ended.exit_status()), Some(7));
        let text = elder.said.0.get();
        assert!(String::from_utf8_lossy(&text).contains(&name));

        for nothing in [-1, hierarchy.as_raw_fd()] {
            let refused = beside_in(nothing, &mut stack, &said, say, 0, &Cell::new(0));
            assert_eq!(refused, Err(Errno::BADF));
        }
        let pid = beside(&mut stack, &said, say, 0, &Cell::new(0)).expect("it is made");
        let ended = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED).expect("it is ours");
        assert_eq!(ended.and_then(|ended| ended.exit_status()), Some(7));
        let text = said.0.get();
        assert!(!String::from_utf8_lossy(&text).contains(&name));
        unlinkat(&root, &name, AtFlags::REMOVEDIR).expect("it is empty");
    }
}
