//! Platforms without native kinds: the same names, and no way to get a value of
//! the types that stand for a confined process.

use std::{
    convert::Infallible,
    io::{self, Read},
    net::TcpListener,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use crate::{
    ConfinementError, ExitStatus, Grants, GroupLimits, GroupReport, GroupUsage, ImageError, Layers,
    Observed, SandboxReport, Signal, SpawnError, Spec, TreeError, TreeUsage,
};

/// A program held by descriptor. There are none on this platform.
#[derive(Clone, Debug)]
pub struct Image(Infallible);

impl Image {
    /// Always [`ImageError::Unsupported`].
    ///
    /// # Errors
    ///
    /// Always.
    pub fn seal(_name: &str, _source: impl Read, _bytes: u64) -> Result<Self, ImageError> {
        Err(ImageError::Unsupported)
    }

    /// Always [`ImageError::Unsupported`].
    ///
    /// # Errors
    ///
    /// Always.
    pub fn interpreter(_path: &Path) -> Result<Self, ImageError> {
        Err(ImageError::Unsupported)
    }

    /// The name that errors show.
    pub fn name(&self) -> &str {
        match self.0 {}
    }

    /// A new read-only descriptor of the bytes.
    ///
    /// # Errors
    ///
    /// Never reached.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        match self.0 {}
    }
}

/// Grants that were opened. There are none on this platform.
#[derive(Clone, Debug)]
pub struct Confinement(Infallible);

impl Confinement {
    /// Always [`ConfinementError::Unsupported`].
    ///
    /// # Errors
    ///
    /// Always.
    pub fn new(
        _grants: &Grants,
        _minimum: Layers,
        _wanted: Layers,
    ) -> Result<Self, ConfinementError> {
        Err(ConfinementError::Unsupported)
    }

    /// Which layers are in force.
    pub fn report(&self) -> &SandboxReport {
        match self.0 {}
    }
}

/// Which layers this host can put in force: none.
pub fn probe() -> SandboxReport {
    SandboxReport::default()
}

/// Always an error: no platform but Linux has such a socket.
///
/// # Errors
///
/// Always.
pub fn refuse_descriptors(_socket: BorrowedFd<'_>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether processes are counted: there are none.
pub fn counts_processes() -> bool {
    false
}

/// Which limits control groups hold: none.
pub fn groups() -> GroupReport {
    GroupReport {
        reason: "this platform has no control groups".to_owned(),
        ..GroupReport::default()
    }
}

/// The group of a process. There are none on this platform.
#[derive(Clone, Debug)]
pub struct Group(Infallible);

impl Group {
    /// Puts other limits in place of those it has.
    ///
    /// # Errors
    ///
    /// Never reached.
    pub fn set(&self, _limits: &GroupLimits) -> io::Result<()> {
        match self.0 {}
    }

    /// What it uses now.
    pub fn usage(&self) -> GroupUsage {
        match self.0 {}
    }

    /// Whether it holds what is in it to a limit of processor time.
    pub fn holds_cpu(&self) -> bool {
        match self.0 {}
    }

    /// How many processes were killed for want of memory.
    pub fn killed_for_memory(&self) -> u64 {
        match self.0 {}
    }
}

/// A process that runs. There are none on this platform.
#[derive(Debug)]
pub struct Child(Infallible);

impl Child {
    /// The process id.
    pub fn pid(&self) -> u32 {
        match self.0 {}
    }

    /// What listens in the network of the process.
    pub fn take_gateway(&mut self) -> Option<TcpListener> {
        match self.0 {}
    }

    /// What tells of the process's calls.
    pub fn take_observer(&mut self) -> Option<Observer> {
        match self.0 {}
    }

    /// The descriptor that becomes readable when the process has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }

    /// Waits until the process has ended.
    pub fn ended(&self) -> Ended<'_> {
        match self.0 {}
    }

    /// How the process ended.
    ///
    /// # Errors
    ///
    /// Never reached.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        match self.0 {}
    }

    /// The processor time of the process.
    pub fn cpu_time(&self) -> Option<Duration> {
        match self.0 {}
    }

    /// The group of the process.
    pub fn group(&self) -> Option<&Group> {
        match self.0 {}
    }

    /// Sends `signal` to the process group.
    ///
    /// # Errors
    ///
    /// Never reached.
    pub fn signal_group(&self, _signal: Signal) -> io::Result<()> {
        match self.0 {}
    }

    /// Kills the process group.
    ///
    /// # Errors
    ///
    /// Never reached.
    pub fn kill_group(&self) -> io::Result<()> {
        match self.0 {}
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}

/// Tells what a process does. There are none on this platform.
#[derive(Debug)]
pub struct Observer(Infallible);

impl Observer {
    /// Tells everything.
    pub fn run(self, _tell: impl FnMut(Observed)) {
        match self.0 {}
    }
}

/// Waits for the end of a [`Child`]. There are none on this platform.
#[derive(Debug)]
#[must_use]
pub struct Ended<'child>(&'child Infallible);

impl Future for Ended<'_> {
    type Output = io::Result<ExitStatus>;

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Self::Output> {
        match *self.0 {}
    }
}

/// A start that is under way. There are none on this platform.
#[derive(Debug)]
#[must_use]
pub struct Pending(Infallible);

impl Pending {
    /// Blocks until the process runs.
    ///
    /// # Errors
    ///
    /// Never reached.
    pub fn wait(self) -> Result<Child, SpawnError> {
        match self.0 {}
    }
}

impl Future for Pending {
    type Output = Result<Child, SpawnError>;

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0 {}
    }
}

/// Starts a process. Cannot be called on this platform, since no [`Image`] can be
/// made for the [`Spec`].
pub fn spawn(spec: Spec) -> Pending {
    match spec.image.0 {}
}

/// A host's directory in the run directory. There are none on this platform.
#[derive(Clone, Debug)]
pub struct RunDirectory(Infallible);

impl RunDirectory {
    /// Always [`TreeError::Unsupported`].
    ///
    /// # Errors
    ///
    /// Always.
    pub fn claim(_parent: &Path) -> Result<Self, TreeError> {
        Err(TreeError::Unsupported)
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        match self.0 {}
    }

    /// Makes a directory that is removed on drop.
    ///
    /// # Errors
    ///
    /// Never reached.
    pub fn private_directory(&self) -> Result<PrivateDirectory, TreeError> {
        match self.0 {}
    }

    /// Begins an empty tree.
    ///
    /// # Errors
    ///
    /// Never reached.
    pub fn tree(&self) -> Result<TreeBuilder, TreeError> {
        match self.0 {}
    }
}

/// Always [`TreeError::Unsupported`].
///
/// # Errors
///
/// Always.
pub fn sweep(_parent: &Path) -> Result<usize, TreeError> {
    Err(TreeError::Unsupported)
}

/// A directory of this host. There are none on this platform.
#[derive(Debug)]
pub struct PrivateDirectory(Infallible);

impl PrivateDirectory {
    /// The absolute path.
    pub fn path(&self) -> &Path {
        match self.0 {}
    }
}

/// Package files with paths. There are none on this platform.
#[derive(Debug)]
pub struct ReadOnlyTree(Infallible);

impl ReadOnlyTree {
    /// The absolute path.
    pub fn path(&self) -> &Path {
        match self.0 {}
    }
}

impl AsFd for ReadOnlyTree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.0 {}
    }
}

/// A [`ReadOnlyTree`] in the making. There are none on this platform.
#[derive(Debug)]
pub struct TreeBuilder(Infallible);

impl TreeBuilder {
    /// Writes one file.
    ///
    /// # Errors
    ///
    /// Never reached.
    pub fn add(
        &mut self,
        _path: &Path,
        _mode: u32,
        _source: impl Read,
        _bytes: u64,
    ) -> Result<(), TreeError> {
        match self.0 {}
    }

    /// Hands out the tree.
    ///
    /// # Errors
    ///
    /// Never reached.
    pub fn finish(self) -> Result<ReadOnlyTree, TreeError> {
        match self.0 {}
    }
}

/// Some process trees. Cannot be read on this platform.
#[derive(Debug)]
pub struct ProcessTable(Infallible);

impl ProcessTable {
    /// Always [`io::ErrorKind::Unsupported`].
    ///
    /// # Errors
    ///
    /// Always.
    pub fn read(_roots: &[u32]) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// What a process and everything it started use.
    pub fn usage(&self, _pid: u32) -> Option<TreeUsage> {
        match self.0 {}
    }
}

/// Always [`io::ErrorKind::Unsupported`].
///
/// # Errors
///
/// Always.
pub fn sample(_pid: u32) -> io::Result<Option<TreeUsage>> {
    Err(io::ErrorKind::Unsupported.into())
}
