//! What a confined process may do, and what holds it to that.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
};

/// What a confined process may do. Nothing but the libraries of the system, the null
/// device and its like, unless it is added here.
///
/// Whoever grants must know: what a process may write it may read, and what it may
/// execute too.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    pub(crate) paths: Vec<(PathBuf, Access)>,
    pub(crate) execution: Execution,
    pub(crate) network: Network,
    pub(crate) own_processes: bool,
    pub(crate) system_information: bool,
    pub(crate) observed: bool,
    pub(crate) scratch_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Access {
    Read,
    Execute,
    Write,
}

/// Which programs a process may execute after the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Execution {
    #[default]
    Nothing,
    Files,
    Anything,
}

/// Where a process with [`Network::Gateway`] finds the one that listens for it. Each has
/// this address in a network of its own.
pub const GATEWAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 3128);

/// Where a process finds the directory of its own that it was [granted](Grants::scratch).
pub const SCRATCH: &str = "/tmp";

/// What of the network a process sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Network {
    /// Nothing, not even that of the machine itself.
    #[default]
    None,
    /// [`GATEWAY`] and nothing else, in a network namespace, which is needed then: what
    /// listens there is the host's ([`Child::take_gateway`](crate::Child::take_gateway)),
    /// which decides where a connection goes on to.
    Gateway,
    /// Everything that TCP and UDP reach from the host.
    Unrestricted,
}

impl Grants {
    /// Grants nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is at the absolute `path`, and below it, may be read.
    #[must_use]
    pub fn read(self, path: impl AsRef<Path>) -> Self {
        self.path(path, Access::Read)
    }

    /// What is at the absolute `path`, and below it, may be written, made, removed and
    /// read, but not executed. Devices, pipes and sockets cannot be made. Modes and times
    /// can be changed only with a private root.
    #[must_use]
    pub fn write(self, path: impl AsRef<Path>) -> Self {
        self.path(path, Access::Write)
    }

    /// The program at the absolute `path`, or every one below it, may be executed and
    /// read, in processes of its own, which are confined as this one.
    #[must_use]
    pub fn execute(mut self, path: impl AsRef<Path>) -> Self {
        if self.execution == Execution::Nothing {
            self.execution = Execution::Files;
        }
        self.path(path, Access::Execute)
    }

    /// Every program that may be read may be executed, also one in memory. The
    /// directories of the system's programs may be read.
    #[must_use]
    pub fn execute_anything(mut self) -> Self {
        self.execution = Execution::Anything;
        self
    }

    /// What of the network is there. With any of it, whom the machine trusts can be read (its
    /// certificates); with all of it, how names are looked up too.
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = network;
        self
    }

    /// With a private root, `/proc` is there and tells of the process itself and what it started; programs
    /// that are handed to an interpreter as `/proc/self/fd/N` need it.
    #[must_use]
    pub fn own_processes(mut self) -> Self {
        self.own_processes = true;
        self
    }

    /// The machine's memory, load and processors may be looked at; in `/proc` only with a
    /// private root.
    #[must_use]
    pub fn system_information(mut self) -> Self {
        self.system_information = true;
        self
    }

    /// Nothing is refused that could be granted, and what was not granted is told before it
    /// is done ([`Observer`](crate::Observer)). No protection: the process may do what the
    /// host's user may do to files. Layers that decide by path are not put in force, and
    /// the filter of system calls is needed.
    #[must_use]
    pub fn observed(mut self) -> Self {
        self.observed = true;
        self
    }

    /// At [`SCRATCH`] is a directory of the process's own, which is empty at first, has room
    /// for so many bytes and ends with the process. What is in it is in memory, and counts as
    /// that too. Only with a private root; without one nothing is there.
    #[must_use]
    pub fn scratch(mut self, bytes: u64) -> Self {
        self.scratch_bytes = Some(bytes);
        self
    }

    fn path(mut self, path: impl AsRef<Path>, access: Access) -> Self {
        self.paths.push((path.as_ref().to_owned(), access));
        self
    }
}

/// One of the means that hold a process to its [`Grants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Layer {
    /// Rules of the kernel about files, TCP and signals.
    Landlock,
    /// A filter of system calls.
    Seccomp,
    /// Users, capabilities, processes, IPC and host name of its own.
    Processes,
    /// A network of its own, which is empty.
    Network,
    /// A file system of its own, in which nothing but what was granted has a path.
    Root,
}

impl Layer {
    /// All of them, weakest first.
    pub const ALL: [Self; 5] = [
        Self::Landlock,
        Self::Seccomp,
        Self::Processes,
        Self::Network,
        Self::Root,
    ];
}

impl fmt::Display for Layer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Landlock => "landlock rules",
            Self::Seccomp => "a system call filter",
            Self::Processes => "user and process namespaces",
            Self::Network => "a network namespace",
            Self::Root => "a private root",
        })
    }
}

/// A set of [`Layer`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layers(u8);

impl Layers {
    /// No layer at all.
    pub const NONE: Self = Self(0);
    /// Landlock and the filter: what every kernel since Linux 6.2 has, also in a
    /// container. Metadata of files can be seen. Other processes of the user can be
    /// signalled before Linux 6.12.
    pub const FILTERS: Self = Self(Self::bit(Layer::Landlock) | Self::bit(Layer::Seccomp));
    /// Everything there is.
    pub const ALL: Self = Self(0x1f);

    /// These and `layer`.
    #[must_use]
    pub const fn with(self, layer: Layer) -> Self {
        Self(self.0 | Self::bit(layer))
    }

    /// These without `layer`.
    #[must_use]
    pub const fn without(self, layer: Layer) -> Self {
        Self(self.0 & !Self::bit(layer))
    }

    /// Whether `layer` is one of these.
    pub const fn contains(self, layer: Layer) -> bool {
        self.0 & Self::bit(layer) > 0
    }

    const fn bit(layer: Layer) -> u8 {
        1 << layer as u8
    }
}

/// Which layers are in force, and why others are not.
#[derive(Clone, Debug, Default)]
pub struct SandboxReport {
    pub(crate) in_force: Layers,
    pub(crate) absent: Vec<Absent>,
}

/// A layer that is not in force.
#[derive(Clone, Debug)]
pub struct Absent {
    /// Which one.
    pub layer: Layer,
    /// Why not: what was not asked for, or what the kernel said.
    pub reason: String,
    /// What to change on the host; empty when nothing is wrong there.
    pub help: &'static str,
}

impl SandboxReport {
    /// The layers in force.
    pub fn in_force(&self) -> Layers {
        self.in_force
    }

    /// The other layers, each with its reason, weakest first.
    pub fn absent(&self) -> &[Absent] {
        &self.absent
    }
}

impl fmt::Display for SandboxReport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = Layer::ALL.into_iter().filter_map(|layer| {
            if self.in_force.contains(layer) {
                return Some(format!("{layer}: in force"));
            }
            let absent = self.absent.iter().find(|absent| absent.layer == layer)?;
            Some(format!("{layer}: absent, {}", absent.reason))
        });
        out.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}
