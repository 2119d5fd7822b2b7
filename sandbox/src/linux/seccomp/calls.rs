//! Every system call of x86-64 that a confined process may make, and when.

use std::{collections::BTreeMap, ffi::c_long};

use libc::{
    AF_INET, AF_INET6, AF_UNIX, AT_EMPTY_PATH, CLONE_THREAD, ENOSYS, EPERM, IPPROTO_TCP,
    IPPROTO_UDP, SO_LINGER, SOCK_DGRAM, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET,
};

use super::{
    Execution, Rules, Start,
    bpf::{
        Action::{self, Allow, Kill, Refuse, Tell},
        Decision::{self, If, Return},
        Word::{self, High, Low},
    },
};
use crate::Network;

/// The first number that this list knows nothing of. The kernel's table ends at 470
/// in Linux 6.18.
pub(super) const FIRST_UNKNOWN: u32 = 471;
/// Numbers from here on are those of the x32 interface, or negative.
pub(super) const FIRST_X32: u32 = 0x4000_0000;

/// Memory, time, signals, threads, waiting and everything about files that needs a
/// descriptor or that landlock decides by path.
#[rustfmt::skip]
const ALWAYS: &[c_long] = &[
    libc::SYS_read, libc::SYS_write, libc::SYS_close, libc::SYS_stat,
    libc::SYS_fstat, libc::SYS_lstat, libc::SYS_poll, libc::SYS_lseek, libc::SYS_mmap,
    libc::SYS_mprotect, libc::SYS_munmap, libc::SYS_brk, libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_readv, libc::SYS_writev, libc::SYS_access, libc::SYS_pipe, libc::SYS_select,
    libc::SYS_sched_yield, libc::SYS_mremap, libc::SYS_msync, libc::SYS_mincore,
    libc::SYS_madvise, libc::SYS_dup, libc::SYS_dup2, libc::SYS_pause, libc::SYS_nanosleep,
    libc::SYS_getitimer, libc::SYS_alarm, libc::SYS_setitimer, libc::SYS_getpid,
    libc::SYS_sendfile, libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_shutdown,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt,
    libc::SYS_exit, libc::SYS_wait4, libc::SYS_kill, libc::SYS_uname,
    libc::SYS_flock, libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_truncate,
    libc::SYS_ftruncate, libc::SYS_getdents, libc::SYS_getcwd, libc::SYS_chdir,
    libc::SYS_fchdir, libc::SYS_rename, libc::SYS_mkdir, libc::SYS_rmdir,
    libc::SYS_link, libc::SYS_unlink, libc::SYS_symlink, libc::SYS_readlink, libc::SYS_umask,
    libc::SYS_gettimeofday, libc::SYS_getrlimit, libc::SYS_getrusage, libc::SYS_times,
    libc::SYS_getuid, libc::SYS_getgid, libc::SYS_geteuid, libc::SYS_getegid,
    libc::SYS_setpgid, libc::SYS_getppid, libc::SYS_getpgrp, libc::SYS_setsid,
    libc::SYS_getgroups, libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_getpgid,
    libc::SYS_getsid, libc::SYS_capget, libc::SYS_rt_sigpending, libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigqueueinfo, libc::SYS_rt_sigsuspend, libc::SYS_sigaltstack,
    libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_getpriority, libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler, libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min, libc::SYS_sched_rr_get_interval, libc::SYS_mlock,
    libc::SYS_munlock, libc::SYS_mlockall, libc::SYS_munlockall, libc::SYS_arch_prctl,
    libc::SYS_setrlimit, libc::SYS_sync, libc::SYS_gettid, libc::SYS_readahead,
    libc::SYS_getxattr, libc::SYS_lgetxattr, libc::SYS_fgetxattr, libc::SYS_listxattr,
    libc::SYS_llistxattr, libc::SYS_flistxattr, libc::SYS_tkill, libc::SYS_time,
    libc::SYS_futex, libc::SYS_sched_getaffinity, libc::SYS_epoll_create,
    libc::SYS_getdents64, libc::SYS_set_tid_address, libc::SYS_restart_syscall,
    libc::SYS_fadvise64, libc::SYS_timer_create, libc::SYS_timer_settime,
    libc::SYS_timer_gettime, libc::SYS_timer_getoverrun, libc::SYS_timer_delete,
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_clock_nanosleep,
    libc::SYS_exit_group, libc::SYS_epoll_wait, libc::SYS_epoll_ctl, libc::SYS_tgkill,
    libc::SYS_get_mempolicy, libc::SYS_waitid, libc::SYS_ioprio_get,
    libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    libc::SYS_mkdirat, libc::SYS_newfstatat, libc::SYS_unlinkat, libc::SYS_renameat,
    libc::SYS_linkat, libc::SYS_symlinkat, libc::SYS_readlinkat, libc::SYS_faccessat,
    libc::SYS_pselect6, libc::SYS_ppoll, libc::SYS_set_robust_list, libc::SYS_get_robust_list,
    libc::SYS_splice, libc::SYS_tee, libc::SYS_sync_file_range, libc::SYS_epoll_pwait,
    libc::SYS_signalfd, libc::SYS_timerfd_create, libc::SYS_eventfd, libc::SYS_fallocate,
    libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_signalfd4,
    libc::SYS_eventfd2, libc::SYS_epoll_create1, libc::SYS_dup3, libc::SYS_pipe2,
    libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_recvmmsg, libc::SYS_syncfs, libc::SYS_getcpu, libc::SYS_sched_getattr,
    libc::SYS_renameat2, libc::SYS_getrandom, libc::SYS_membarrier, libc::SYS_mlock2,
    libc::SYS_copy_file_range, libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_pkey_mprotect,
    libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_statx, libc::SYS_rseq,
    libc::SYS_pidfd_send_signal, libc::SYS_pidfd_open, libc::SYS_close_range,
    libc::SYS_faccessat2, libc::SYS_epoll_pwait2,
    libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self, libc::SYS_futex_waitv,
    451 /* cachestat */, 453 /* map_shadow_stack */, 454 /* futex_wake */,
    455 /* futex_wait */, 456 /* futex_requeue */, 462 /* mseal */, 464 /* getxattrat */,
    465 /* listxattrat */, 468 /* file_getattr */,
];

/// Owners are never changed: the process has one user.
#[rustfmt::skip]
const METADATA_WRITES: &[c_long] = &[
    libc::SYS_utime, libc::SYS_utimes, libc::SYS_utimensat, libc::SYS_futimesat,
    libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, libc::SYS_removexattr,
    libc::SYS_lremovexattr, libc::SYS_fremovexattr, 463 /* setxattrat */,
    466 /* removexattrat */, 469 /* file_setattr */,
];

const OF_SOCKETS: &[c_long] = &[
    libc::SYS_connect,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_listen,
];

/// What depends on paths and addresses, which a filter does not see, and what a grant alone
/// allows: the host looks at each of these when the process is observed.
#[rustfmt::skip]
pub(super) const OBSERVED: &[c_long] = &[
    libc::SYS_open, libc::SYS_openat, libc::SYS_openat2, libc::SYS_creat, libc::SYS_execve,
    libc::SYS_connect, libc::SYS_mkdir, libc::SYS_mkdirat, libc::SYS_rmdir, libc::SYS_unlink,
    libc::SYS_unlinkat, libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2,
    libc::SYS_link, libc::SYS_linkat, libc::SYS_symlink, libc::SYS_symlinkat,
    libc::SYS_truncate, libc::SYS_chmod, libc::SYS_fchmodat, libc::SYS_fchmodat2,
    libc::SYS_utime, libc::SYS_utimes, libc::SYS_utimensat, libc::SYS_futimesat,
    libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_removexattr, libc::SYS_lremovexattr,
    libc::SYS_chdir, libc::SYS_stat, libc::SYS_lstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_access, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlink, libc::SYS_readlinkat, libc::SYS_sysinfo,
];

/// Said not to exist, so that libraries use what they used before. `clone3` and `openat2`
/// have what is asked in memory, where a filter cannot read it.
const ABSENT: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_openat2,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

/// Told where an address is named; others go to who was connected to.
fn sending_to() -> Decision {
    let low = equals(Low(4), 0, Return(Allow), Return(Tell));
    equals(High(4), 0, low, Return(Tell))
}

/// Process 0 is the caller. The C library gives the id of a thread to some of these,
/// which fails, and nothing else comes of it.
const OF_ONESELF: &[c_long] = &[
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
];

/// Name, signals of the parent's end, dumps, timer slack, new privileges, huge pages,
/// orphans, names of mappings; nothing about credentials, filters or the memory map.
#[rustfmt::skip]
const PRCTL: &[u32] = &[
    1, 2, 3, 4, 7, 15, 16, 21, 23, 29, 30, 36, 37, 38, 39, 40, 41, 42, 52, 0x5356_4d41,
];

/// Requests that write to a terminal's input, take one over, or change flags of files.
#[rustfmt::skip]
const IOCTL_REFUSED: &[u32] = &[
    0x5412 /* TIOCSTI */, 0x541c /* TIOCLINUX */, 0x540e /* TIOCSCTTY */,
    0x541d /* TIOCCONS */, 0x5423 /* TIOCSETD */,
];
#[rustfmt::skip]
const IOCTL_METADATA: &[u32] = &[
    0x4008_6602 /* FS_IOC_SETFLAGS */, 0x401c_5820 /* FS_IOC_FSSETXATTR */,
];

/// A lease keeps others from a file, the host included; a note of what happens in a
/// directory is one of what others do.
const FCNTL_REFUSED: &[u32] = &[1024 /* F_SETLEASE */, 1026 /* F_NOTIFY */];

/// The bits of a mode with which a program runs as its file's owner: for whoever executes
/// it outside, that is the host's user.
const SETUID_SETGID: u32 = 0o6000;
const O_CREAT: u32 = 0o100;
/// Without the bit of a directory, which it comes with.
const O_TMPFILE: u32 = 0o20_000_000;

/// All bits of `clone` that make a namespace, but that of time, which `clone` has not.
const NAMESPACES: u32 = 0x7e02_0000;
const MSG_FASTOPEN: u32 = 0x2000_0000;
const MFD_NOEXEC_SEAL: u32 = 0x8;
const MFD_EXEC: u32 = 0x10;
/// The type of a socket, without its flags.
const SOCKET_TYPE: u32 = 0xf;
const REFUSED: Action = Refuse(EPERM);

/// The decision for every number, which holds up to the next number that has one.
pub(super) fn decisions(rules: Rules, start: Start) -> BTreeMap<u32, Decision> {
    let mut all: BTreeMap<u32, Decision> = (0..FIRST_UNKNOWN)
        .map(|number| (number, Return(REFUSED)))
        .collect();
    all.insert(FIRST_UNKNOWN, Return(Refuse(ENOSYS)));
    all.insert(FIRST_X32, Return(Kill));
    let mut on = |numbers: &[c_long], decision: Decision| {
        for number in numbers {
            all.insert(number.unsigned_abs() as u32, decision.clone());
        }
    };
    on(ALWAYS, Return(Allow));
    on(ABSENT, Return(Refuse(ENOSYS)));
    files(rules.writes, &mut on);
    if rules.system_information {
        on(&[libc::SYS_sysinfo], Return(Allow));
    }
    on(&[libc::SYS_setsockopt], socket_option());
    let own = |argument| equals(Low(argument), 0, Return(Allow), Return(REFUSED));
    on(OF_ONESELF, own(0));
    on(&[libc::SYS_setpriority, libc::SYS_ioprio_set], own(1));
    // 0 is what it is anyway, and all bits ask what it is.
    on(&[libc::SYS_personality], only(Low(0), &[0, u32::MAX]));
    on(&[libc::SYS_prctl], only(Low(0), PRCTL));
    on(&[libc::SYS_ioctl], ioctl(rules.writes));
    let memory_file = match start.memory_files {
        true => memory_file(rules.execution),
        false => Return(Refuse(ENOSYS)),
    };
    on(&[libc::SYS_memfd_create], memory_file);
    sockets(rules.network, &mut on);
    processes(rules.execution, start, &mut on);
    if rules.observed {
        on(OBSERVED, Return(Tell));
        on(&[libc::SYS_sendto], sending_to());
        // Nobody could be told of the start.
        on(&[libc::SYS_execveat], the_start(start, Tell));
    }
    all
}

/// What a mode is given to, and what a file is asked for by its descriptor. Instances of
/// `inotify` are counted by user and not by process, so none is made.
fn files(writes: bool, on: &mut impl FnMut(&[c_long], Decision)) {
    on(&[libc::SYS_creat], without(Low(1), SETUID_SETGID));
    on(&[libc::SYS_open], opening(1));
    on(&[libc::SYS_openat], opening(2));
    let requests = FCNTL_REFUSED.iter();
    let fcntl = requests.fold(Return(Allow), |otherwise, request| {
        equals(Low(1), *request, Return(REFUSED), otherwise)
    });
    on(&[libc::SYS_fcntl], fcntl);
    if writes {
        on(METADATA_WRITES, Return(Allow));
        let by_path = [libc::SYS_fchmodat, libc::SYS_fchmodat2];
        on(&by_path, without(Low(2), SETUID_SETGID));
        let others = [libc::SYS_chmod, libc::SYS_fchmod];
        on(&others, without(Low(1), SETUID_SETGID));
    }
}

/// The mode comes after the flags, and means nothing unless a file is made.
fn opening(flags: u32) -> Decision {
    let mode = without(Low(flags + 1), SETUID_SETGID);
    [O_CREAT, O_TMPFILE]
        .into_iter()
        .fold(Return(Allow), |otherwise, making| If {
            word: Low(flags),
            mask: making,
            value: making,
            then: Box::new(mode.clone()),
            otherwise: Box::new(otherwise),
        })
}

fn ioctl(writes: bool) -> Decision {
    let metadata = IOCTL_METADATA.iter().filter(|_| !writes);
    let refused = IOCTL_REFUSED.iter().chain(metadata);
    refused.fold(Return(Allow), |otherwise, request| {
        // The kernel looks at the low half alone.
        equals(Low(1), *request, Return(REFUSED), otherwise)
    })
}

/// A file in memory is under no path, so nothing else could refuse to execute it.
fn memory_file(execution: Execution) -> Decision {
    match execution {
        Execution::Nothing | Execution::Anything => Return(Allow),
        Execution::Files => If {
            word: Low(1),
            mask: MFD_NOEXEC_SEAL | MFD_EXEC,
            value: MFD_NOEXEC_SEAL,
            then: Box::new(Return(Allow)),
            otherwise: Box::new(Return(REFUSED)),
        },
    }
}

/// All but the one that has whoever closes a socket last wait for the other side: that
/// would be the host, if the socket were sent to it.
fn socket_option() -> Decision {
    let (level, option) = (SOL_SOCKET.unsigned_abs(), SO_LINGER.unsigned_abs());
    let of_sockets = equals(Low(2), option, Return(REFUSED), Return(Allow));
    equals(Low(1), level, of_sockets, Return(Allow))
}

fn sockets(network: Network, on: &mut impl FnMut(&[c_long], Decision)) {
    // A pair of datagram sockets could be connected to somebody else's.
    let pair = masked(Low(1), SOCKET_TYPE, &[SOCK_STREAM, SOCK_SEQPACKET]);
    let unix = equals(Low(0), AF_UNIX.unsigned_abs(), pair, Return(REFUSED));
    on(&[libc::SYS_socketpair], unix);
    // TCP fast open connects where nobody else looks.
    let quick = |flags| without(Low(flags), MSG_FASTOPEN);
    on(&[libc::SYS_sendto, libc::SYS_sendmmsg], quick(3));
    on(&[libc::SYS_sendmsg], quick(2));
    if network == Network::None {
        return;
    }
    // Other protocols are MPTCP, SMC, SCTP and raw ones, which other layers do not know.
    let protocol = |number: i32| only(Low(2), &[0, number.unsigned_abs()]);
    let kind = |kind: i32, then, otherwise| If {
        word: Low(1),
        mask: SOCKET_TYPE,
        value: kind.unsigned_abs(),
        then: Box::new(then),
        otherwise: Box::new(otherwise),
    };
    let datagram = kind(SOCK_DGRAM, protocol(IPPROTO_UDP), Return(REFUSED));
    let streams = kind(SOCK_STREAM, protocol(IPPROTO_TCP), Return(REFUSED));
    if network == Network::Gateway {
        on(&[libc::SYS_connect], Return(Allow));
        let version_4 = equals(Low(0), AF_INET.unsigned_abs(), streams, Return(REFUSED));
        on(&[libc::SYS_socket], version_4);
        return;
    }
    on(OF_SOCKETS, Return(Allow));
    let internet = kind(SOCK_STREAM, protocol(IPPROTO_TCP), datagram);
    let v6 = equals(
        Low(0),
        AF_INET6.unsigned_abs(),
        internet.clone(),
        Return(REFUSED),
    );
    let families = equals(Low(0), AF_INET.unsigned_abs(), internet, v6);
    on(&[libc::SYS_socket], families);
}

fn processes(execution: Execution, start: Start, on: &mut impl FnMut(&[c_long], Decision)) {
    let no_namespaces = without(Low(0), NAMESPACES);
    let thread = CLONE_THREAD.unsigned_abs();
    if execution == Execution::Nothing {
        let threads = If {
            word: Low(0),
            mask: thread,
            value: thread,
            then: Box::new(no_namespaces),
            otherwise: Box::new(Return(REFUSED)),
        };
        on(&[libc::SYS_clone], threads);
    } else {
        on(&[libc::SYS_clone], no_namespaces);
        on(&[libc::SYS_fork, libc::SYS_vfork], Return(Allow));
        on(&[libc::SYS_execve], Return(Allow));
    }
    let execveat = match execution {
        Execution::Anything => Return(Allow),
        Execution::Nothing | Execution::Files => the_start(start, REFUSED),
    };
    on(&[libc::SYS_execveat], execveat);
}

/// Allows the start, and `others` for every other `execveat`.
fn the_start(start: Start, others: Action) -> Decision {
    [
        (Low(0), start.image),
        (Low(4), AT_EMPTY_PATH.unsigned_abs()),
        (Low(5), start.token as u32),
        (High(5), (start.token >> 32) as u32),
    ]
    .into_iter()
    .rev()
    .fold(Return(Allow), |then, (word, value)| {
        equals(word, value, then, Return(others))
    })
}

fn equals(word: Word, value: u32, then: Decision, otherwise: Decision) -> Decision {
    If {
        word,
        mask: u32::MAX,
        value,
        then: Box::new(then),
        otherwise: Box::new(otherwise),
    }
}

/// Allowed when `word` is one of `values`.
fn only(word: Word, values: &[u32]) -> Decision {
    values.iter().fold(Return(REFUSED), |otherwise, value| {
        equals(word, *value, Return(Allow), otherwise)
    })
}

/// Allowed when the bits `mask` of `word` are one of `values`.
fn masked(word: Word, mask: u32, values: &[i32]) -> Decision {
    values.iter().fold(Return(REFUSED), |otherwise, value| If {
        word,
        mask,
        value: value.unsigned_abs(),
        then: Box::new(Return(Allow)),
        otherwise: Box::new(otherwise),
    })
}

/// Allowed when none of `bits` is set in `word`.
fn without(word: Word, bits: u32) -> Decision {
    If {
        word,
        mask: bits,
        value: 0,
        then: Box::new(Return(Allow)),
        otherwise: Box::new(Return(REFUSED)),
    }
}
