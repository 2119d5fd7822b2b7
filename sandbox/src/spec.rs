//! Everything about a process that is to start.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::fd::{OwnedFd, RawFd},
    path::{Path, PathBuf},
};

use crate::{Confinement, GroupLimits, Image};

/// Everything about a process that is to start. What is not listed here, the
/// process does not get: no variable, no descriptor and no directory of the host
/// is inherited.
#[derive(Debug)]
pub struct Spec {
    pub(crate) image: Image,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: BTreeMap<OsString, OsString>,
    pub(crate) descriptors: BTreeMap<RawFd, OwnedFd>,
    pub(crate) working_directory: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) group: GroupLimits,
    pub(crate) confinement: Option<Confinement>,
    pub(crate) outlives_host: bool,
}

impl Spec {
    /// The highest descriptor number that can be given to a process.
    pub const MAX_DESCRIPTOR: RawFd = 255;

    /// Runs `image` under the name `argv0`, with an empty environment, stdin,
    /// stdout and stderr at `/dev/null`, in `/`.
    pub fn new(image: &Image, argv0: impl Into<OsString>) -> Self {
        Self {
            image: image.clone(),
            arguments: vec![argv0.into()],
            environment: BTreeMap::new(),
            descriptors: BTreeMap::new(),
            working_directory: PathBuf::from("/"),
            limits: Limits::default(),
            group: GroupLimits::default(),
            confinement: None,
            outlives_host: false,
        }
    }

    /// Adds an argument after those given so far.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments after those given so far.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable, in place of an earlier one of that name.
    #[must_use]
    pub fn variable(mut self, name: impl Into<OsString>, value: impl AsRef<OsStr>) -> Self {
        let value = value.as_ref().to_owned();
        self.environment.insert(name.into(), value);
        self
    }

    /// Gives `descriptor` to the process as number `number`, in place of an
    /// earlier one of that number. 0, 1 and 2 are stdin, stdout and stderr.
    #[must_use]
    pub fn descriptor(mut self, number: RawFd, descriptor: impl Into<OwnedFd>) -> Self {
        self.descriptors.insert(number, descriptor.into());
        self
    }

    /// Starts the process in this directory.
    #[must_use]
    pub fn working_directory(mut self, path: impl AsRef<Path>) -> Self {
        path.as_ref().clone_into(&mut self.working_directory);
        self
    }

    /// Bounds what the process may use.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Bounds what the process and everything that it starts may use together. Without
    /// any limit it has no group of its own. It does not start where
    /// [no control group](crate::groups) holds one of them.
    #[must_use]
    pub fn group(mut self, limits: GroupLimits) -> Self {
        self.group = limits;
        self
    }

    /// Confines the process, and all that it starts. Without this it has the rights of
    /// the host's user, but for signals.
    ///
    /// In namespaces of its own it is process 1, which ignores every signal that asks
    /// and that it does not handle: it is stopped by a message or by `SIGKILL`. With a
    /// private root the working directory must have been granted, or be `/`.
    #[must_use]
    pub fn confinement(mut self, confinement: &Confinement) -> Self {
        self.confinement = Some(confinement.clone());
        self
    }

    /// Lets the process live on when the host dies. Only for the watcher that
    /// cleans up after the host.
    #[cfg_attr(
        not(all(target_os = "linux", target_arch = "x86_64")),
        expect(dead_code, reason = "nothing is watched on this platform")
    )]
    pub(crate) fn outlives_host(mut self) -> Self {
        self.outlives_host = true;
        self
    }
}

/// What a process may use. Each applies to every single process of the tree;
/// bounds on the tree as a whole are [`GroupLimits`], or the resource monitor's. `None` leaves the
/// limit of the host in force, except where a field says otherwise, and no limit is
/// ever raised above the host's.
/// Core files are never written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Private writable memory in bytes (`RLIMIT_DATA`). Address space is not
    /// bounded because many runtimes reserve far more of it than they use. Files in memory do
    /// not count, so whoever is confined by a filter of system calls can make none.
    pub data_bytes: Option<u64>,
    /// Open descriptors (`RLIMIT_NOFILE`). `None` is a soft limit of 1,024, whatever
    /// the host has raised its own to, below the host's hard limit: a program that
    /// needs more can raise it.
    pub open_files: Option<u64>,
    /// Size in bytes of a file the process writes (`RLIMIT_FSIZE`).
    pub file_bytes: Option<u64>,
    /// Stack of the first thread in bytes (`RLIMIT_STACK`).
    pub stack_bytes: Option<u64>,
    /// Processor time in seconds (`RLIMIT_CPU`): `SIGXCPU` at the limit,
    /// `SIGKILL` one second later.
    pub cpu_seconds: Option<u64>,
    /// Processes and threads of the *user*, not of the tree (`RLIMIT_NPROC`); the kernel
    /// does not enforce it for root. In namespaces of its own it is of the tree, and from
    /// Linux 6.14 on there are never more than this and 300, whoever the user is.
    pub processes: Option<u64>,
}
