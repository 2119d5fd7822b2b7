//! Looks at the calls of an observed process, each of which waits until then.
//!
//! Nothing is decided here: another thread of the process may change what was read before
//! the kernel reads it again, so that what is told is what an honest program does.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStringExt,
            fs::{FileExt, PermissionsExt},
        },
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use libc::c_long;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags, open},
};

use super::{
    granted::Granted,
    raw::{self, Notice},
};
use crate::{GATEWAY, Observed, SCRATCH, confinement::Access};

/// The longest path of the kernel.
const PATH_MAX: usize = 4096;
/// What of a program is read to learn whether it is a script, as the kernel does.
const SCRIPT_BYTES: u64 = 256;
/// How many interpreters the kernel follows.
const INTERPRETERS_MAX: usize = 5;
/// What a process that has no terminal looks at nevertheless.
const OF_ITSELF: &[&str] = &[
    "/dev/fd",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
    "/dev/tty",
];

/// Tells what an [observed](crate::Grants::observed) process does, and all that it starts.
#[derive(Debug)]
pub struct Observer {
    pub(super) calls: OwnedFd,
    /// What it has anyway, and is not told.
    pub(super) granted: Vec<Arc<Granted>>,
    /// Whether it would have a directory of its own in place of the host's.
    pub(super) has_scratch: bool,
}

impl Observer {
    /// Tells everything until the last process has ended; blocks that long. Each call waits
    /// while it is told, so `tell` has to be quick.
    pub fn run(self, mut tell: impl FnMut(Observed)) {
        loop {
            let mut ready = [PollFd::new(&self.calls, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) if ready[0].revents().contains(PollFlags::IN) => {}
                Err(rustix::io::Errno::INTR) => continue,
                // Nobody is left whom the filter holds.
                Ok(_) | Err(_) => return,
            }
            match raw::next_notice(self.calls.as_fd()) {
                Ok(Some(notice)) => {
                    let seen = self.look(&notice);
                    if raw::is_waiting(self.calls.as_fd(), &notice) {
                        seen.into_iter().for_each(&mut tell);
                    }
                    raw::go_on(self.calls.as_fd(), &notice);
                }
                Ok(None) => {}
                // Calls fail from here on, rather than to go on unseen.
                Err(_) => return,
            }
        }
    }

    fn look(&self, notice: &Notice) -> Vec<Observed> {
        let thread = Thread(notice.thread);
        let seen = match notice.number {
            libc::SYS_connect => thread.connects(notice.arguments[1], notice.arguments[2]),
            libc::SYS_sendto => thread.connects(notice.arguments[4], notice.arguments[5]),
            libc::SYS_sysinfo => Some(vec![Observed::SystemInformation]),
            _ => thread.uses(notice),
        };
        let seen = seen.unwrap_or_else(|| vec![Observed::Unseen]);
        seen.into_iter()
            .filter_map(|one| self.new_to_it(one))
            .collect()
    }

    /// What of this the process does not have anyway.
    fn new_to_it(&self, seen: Observed) -> Option<Observed> {
        use Observed::{Changed, Connected, Executed, Looked, Read, SystemInformation, Written};
        let (path, access) = match &seen {
            Connected(address) if *address == SocketAddr::V4(GATEWAY) => return None,
            Changed(path) | Looked(path) | Read(path)
                if self.has_scratch && path == Path::new(SCRATCH) =>
            {
                return None;
            }
            Looked(path) | Read(path) => (path, Access::Read),
            Written(path) | Changed(path) => (path, Access::Write),
            Executed(path) => (path, Access::Execute),
            _ => return Some(seen),
        };
        if OF_ITSELF.iter().any(|own| path.starts_with(own)) {
            return None;
        }
        if let Ok(below) = path.strip_prefix("/proc") {
            // Its own part of it, it has.
            let is_machine = matches!(seen, Read(_)) && !is_of_a_process(below);
            return is_machine.then_some(SystemInformation);
        }
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let has = |granted: &&Arc<Granted>| granted.access == access || access == Access::Read;
        let leads_there = |granted: &Arc<Granted>| real.starts_with(&granted.path);
        let is_named = |granted: &Arc<Granted>| {
            path.starts_with(&granted.named) || path.starts_with(&granted.path)
        };
        let granted = || self.granted.iter().filter(has);
        match (granted().any(leads_there), granted().any(is_named)) {
            (true, true) => None,
            // The link is there; what it leads to is not.
            (false, true) => Some(match seen {
                Looked(_) => Looked(real),
                Read(_) => Read(real),
                Written(_) => Written(real),
                Changed(_) => Changed(real),
                _ => Executed(real),
            }),
            (_, false) => Some(seen),
        }
    }
}

/// Whether it is there without a look at the machine, or nobody misses it.
fn is_of_a_process(below_proc: &Path) -> bool {
    let first = below_proc.components().next();
    first.is_none_or(|first| {
        let name = first.as_os_str().to_string_lossy();
        matches!(
            &*name,
            "self" | "thread-self" | "mounts" | "net" | "filesystems"
        ) || name.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// A thread whose call waits.
struct Thread(u32);

impl Thread {
    /// `None` where the memory of the process cannot be read.
    fn uses(&self, notice: &Notice) -> Option<Vec<Observed>> {
        let arguments = &notice.arguments;
        let uses = of_call(notice.number, arguments);
        let mut seen = Vec::new();
        for used in uses.into_iter().flatten() {
            let spelled = self.text(arguments[used.path])?;
            let at = used.directory.map(|place| arguments[place] as u32);
            // What a descriptor is was seen when it was opened.
            if spelled.as_os_str().is_empty() && !matches!(used.how, How::Execute) {
                continue;
            }
            let use_ = match notice.number {
                // Its flags are in memory.
                libc::SYS_openat2 => {
                    let mut flags = [0; 8];
                    self.read(arguments[2], &mut flags)?;
                    opening(u64::from_ne_bytes(flags))
                }
                _ => used.how,
            };
            let Some(path) = self.path(&spelled, at) else {
                continue;
            };
            seen.extend(use_.of(&path));
        }
        Some(seen)
    }

    /// To the socket address at `address`.
    fn connects(&self, address: u64, length: u64) -> Option<Vec<Observed>> {
        let mut bytes = [0; 28];
        let length = usize::try_from(length).ok()?.min(bytes.len());
        self.read(address, &mut bytes[..length])?;
        let family = i32::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let port = u16::from_be_bytes([bytes[2], bytes[3]]);
        let address: IpAddr = match family {
            libc::AF_INET => {
                let octets: [u8; 4] = bytes[4..8].try_into().ok()?;
                Ipv4Addr::from(octets).into()
            }
            libc::AF_INET6 => {
                let octets: [u8; 16] = bytes[8..24].try_into().ok()?;
                Ipv6Addr::from(octets).into()
            }
            // Undoes an earlier one.
            _ => return Some(Vec::new()),
        };
        let address = SocketAddr::new(address.to_canonical(), port);
        Some(vec![Observed::Connected(address)])
    }

    /// The path that `spelled` is, from `at` or the working directory; `None` where there is
    /// no such directory.
    fn path(&self, spelled: &Path, at: Option<u32>) -> Option<PathBuf> {
        let own = |name: &str| fs::read_link(format!("/proc/{}/{name}", self.0)).ok();
        let path = match at {
            _ if spelled.is_absolute() => spelled.to_owned(),
            None => own("cwd")?.join(spelled),
            Some(at) if at.cast_signed() == libc::AT_FDCWD => own("cwd")?.join(spelled),
            // What is meant is what the descriptor is.
            Some(at) if spelled.as_os_str().is_empty() => own(&format!("fd/{at}"))?,
            Some(at) => own(&format!("fd/{at}"))?.join(spelled),
        };
        if path.components().any(|part| part == Component::ParentDir) {
            let name = path.file_name().map(ToOwned::to_owned);
            return match name {
                Some(name) => Some(fs::canonicalize(path.parent()?).ok()?.join(name)),
                None => fs::canonicalize(path).ok(),
            };
        }
        Some(self.itself(path.components().collect()))
    }

    /// Some paths are another one for everybody who looks.
    fn itself(&self, path: PathBuf) -> PathBuf {
        let own = |below: &Path| Path::new(&format!("/proc/{}", self.0)).join(below);
        let path = ["/proc/self", "/proc/thread-self"]
            .into_iter()
            .find_map(|alias| path.strip_prefix(alias).ok().map(own))
            .unwrap_or(path);
        match path.parent() {
            Some(parent) if parent.starts_with("/proc") && parent.ends_with("fd") => {
                fs::read_link(&path).unwrap_or(path)
            }
            _ => path,
        }
    }

    /// The text at `address`, up to its NUL.
    fn text(&self, address: u64) -> Option<PathBuf> {
        let memory = self.memory()?;
        let mut text = Vec::new();
        // Page by page, since the next one need not be there.
        while text.len() < PATH_MAX {
            let at = address.checked_add(text.len() as u64)?;
            let mut piece = [0; PATH_MAX];
            let room = PATH_MAX - (at % PATH_MAX as u64) as usize;
            let count = memory.read_at(&mut piece[..room], at).ok()?;
            let piece = &piece[..count];
            if let Some(end) = piece.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&piece[..end]);
                return Some(OsString::from_vec(text).into());
            }
            if count == 0 {
                return None;
            }
            text.extend_from_slice(piece);
        }
        None
    }

    fn read(&self, address: u64, bytes: &mut [u8]) -> Option<()> {
        self.memory()?.read_exact_at(bytes, address).ok()
    }

    fn memory(&self) -> Option<File> {
        File::open(format!("/proc/{}/mem", self.0)).ok()
    }
}

/// What a call does with a path.
#[derive(Clone, Copy)]
enum How {
    Look,
    Read,
    Write,
    /// Opens it for writing, and makes it where it is not there.
    Make,
    /// Makes it, and fails where it is there.
    MakeNew,
    /// Puts something in its place.
    Replace,
    Remove,
    Execute,
}

/// A path in a call.
struct Used {
    how: How,
    /// The argument that is the directory from which it counts.
    directory: Option<usize>,
    /// The argument that it is.
    path: usize,
}

/// The paths in a call.
fn of_call(number: c_long, arguments: &[u64; 6]) -> [Option<Used>; 2] {
    use How::{Execute, Look, MakeNew, Read, Remove, Replace, Write};
    let used = |how, directory, path| {
        Some(Used {
            how,
            directory,
            path,
        })
    };
    let first = match number {
        libc::SYS_open => used(opening(arguments[1]), None, 0),
        libc::SYS_openat => used(opening(arguments[2]), Some(0), 1),
        // Told when its flags are known.
        libc::SYS_openat2 => used(Read, Some(0), 1),
        libc::SYS_creat => used(How::Make, None, 0),
        libc::SYS_execve => used(Execute, None, 0),
        libc::SYS_execveat => used(Execute, Some(0), 1),
        libc::SYS_mkdir => used(MakeNew, None, 0),
        libc::SYS_mkdirat => used(MakeNew, Some(0), 1),
        libc::SYS_rmdir | libc::SYS_unlink | libc::SYS_rename => used(Remove, None, 0),
        libc::SYS_unlinkat | libc::SYS_renameat | libc::SYS_renameat2 => used(Remove, Some(0), 1),
        // A second name is as good as the first.
        libc::SYS_link => used(Write, None, 0),
        libc::SYS_linkat => used(Write, Some(0), 1),
        libc::SYS_symlink => used(MakeNew, None, 1),
        libc::SYS_symlinkat => used(MakeNew, Some(1), 2),
        libc::SYS_truncate
        | libc::SYS_chmod
        | libc::SYS_utime
        | libc::SYS_utimes
        | libc::SYS_setxattr
        | libc::SYS_lsetxattr
        | libc::SYS_removexattr
        | libc::SYS_lremovexattr => used(Write, None, 0),
        // Without a path it is what a descriptor is, which was opened before.
        libc::SYS_utimensat | libc::SYS_futimesat if arguments[1] == 0 => None,
        libc::SYS_fchmodat | libc::SYS_fchmodat2 | libc::SYS_utimensat | libc::SYS_futimesat => {
            used(Write, Some(0), 1)
        }
        libc::SYS_newfstatat | libc::SYS_statx | libc::SYS_faccessat | libc::SYS_faccessat2
            if arguments[1] == 0 =>
        {
            None
        }
        libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_faccessat
        | libc::SYS_faccessat2
        | libc::SYS_readlinkat => used(Look, Some(0), 1),
        _ => used(Look, None, 0),
    };
    let second = match number {
        libc::SYS_link => used(MakeNew, None, 1),
        libc::SYS_linkat => used(MakeNew, Some(2), 3),
        libc::SYS_rename => used(Replace, None, 1),
        libc::SYS_renameat | libc::SYS_renameat2 => used(Replace, Some(2), 3),
        _ => None,
    };
    [first, second]
}

/// What the flags of `open` say.
fn opening(flags: u64) -> How {
    let has = |flag: i32| flags & u64::from(flag.unsigned_abs()) != 0;
    let writes = flags & u64::from(libc::O_ACCMODE.unsigned_abs()) != 0;
    match () {
        () if has(libc::O_PATH) => How::Look,
        () if flags & u64::from(libc::O_TMPFILE.unsigned_abs()) == libc::O_TMPFILE as u64 => {
            How::Make
        }
        () if has(libc::O_CREAT) => How::Make,
        () if writes || has(libc::O_TRUNC) => How::Write,
        () => How::Read,
    }
}

impl How {
    /// What is done with `path`, as it is now.
    fn of(self, path: &Path) -> Vec<Observed> {
        // Of a file in memory, the kernel says what it was called.
        if matches!(self, Self::Execute) && path.to_string_lossy().starts_with("/memfd:") {
            return vec![Observed::ExecutedMemory];
        }
        // What is removed or made is the link, whatever it leads to.
        let is_link = matches!(self, Self::Remove | Self::Replace | Self::MakeNew);
        let found = match is_link {
            true => fs::symlink_metadata(path).ok(),
            false => fs::metadata(path).ok(),
        };
        let parent = path.parent().filter(|parent| parent.is_dir());
        let changed = || parent.map(|parent| Observed::Changed(parent.to_owned()));
        let here = || path.to_owned();
        let seen = match (self, found) {
            (Self::Execute, Some(found)) => {
                let is_program = found.is_file() && found.permissions().mode() & 0o111 != 0;
                return if is_program {
                    programs(path)
                } else {
                    Vec::new()
                };
            }
            (Self::Make | Self::MakeNew | Self::Replace, None) if parent.is_some() => {
                return changed()
                    .into_iter()
                    .chain([Observed::Made(here())])
                    .collect();
            }
            (Self::Make, Some(found)) if found.is_dir() => Some(Observed::Changed(here())),
            (Self::Remove | Self::Replace, Some(_)) => changed(),
            (Self::Write | Self::Make, Some(_)) => Some(Observed::Written(here())),
            (Self::Read, Some(_)) => Some(Observed::Read(here())),
            (Self::Look | Self::MakeNew, Some(_)) => Some(Observed::Looked(here())),
            (_, None) => None,
        };
        seen.into_iter().collect()
    }
}

/// The program at `path`, and those that it names when it is a script.
fn programs(path: &Path) -> Vec<Observed> {
    let mut programs = Vec::new();
    let mut next = Some(path.to_owned());
    while let Some(program) = next.filter(|_| programs.len() < INTERPRETERS_MAX) {
        next = interpreter(&program);
        programs.push(Observed::Executed(program));
    }
    programs
}

/// Opens a file. What another process has put in its place meanwhile is not waited for, and
/// not read.
fn open_file(path: &Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(open(path, flags, Mode::empty()).ok()?);
    file.metadata().ok()?.is_file().then_some(file)
}

fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    let file = open_file(script)?;
    file.take(SCRIPT_BYTES).read_to_end(&mut head).ok()?;
    let line = head
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let is_blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let mut words = line.split(is_blank).filter(|word| !word.is_empty());
    let path = PathBuf::from(OsString::from_vec(words.next()?.to_vec()));
    path.is_absolute().then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_in_place_of_a_script_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let (script, pipe) = (
            directory.path().join("script"),
            directory.path().join("pipe"),
        );
        fs::write(&script, "#! /bin/sh -e\n").unwrap();
        assert_eq!(interpreter(&script), Some("/bin/sh".into()));
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        assert_eq!(interpreter(&pipe), None);
        assert_eq!(interpreter(directory.path()), None);
    }
}
