//! What can go wrong between a verified image and a running process.

use std::{fmt, io, path::PathBuf};

use miette::Diagnostic;
use thiserror::Error;

use crate::Layer;

/// What the new process was doing to itself when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Forgetting the signal handlers and the signal mask of the host.
    Signals,
    /// Leaving the session and process group of the host.
    Session,
    /// Asking to be killed when the host dies.
    DieWithHost,
    /// Keeping hold of everything it will start.
    Descendants,
    /// Putting the listed descriptors in place and closing all others.
    Descriptors,
    /// Entering its control group.
    Group,
    /// Lowering the resource limits.
    Limits,
    /// Entering the working directory.
    WorkingDirectory,
    /// Giving up the right to gain privileges by executing a file.
    NoNewPrivileges,
    /// Becoming nobody in a user namespace of its own.
    Namespaces,
    /// Listening in its own network, for the host.
    Gateway,
    /// Making a file system of its own.
    PrivateRoot,
    /// Giving up all capabilities.
    Capabilities,
    /// Keeping to the rules of landlock.
    Landlock,
    /// Having its system calls filtered.
    Seccomp,
    /// Executing the image.
    Exec,
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Signals => "resetting signals",
            Self::Session => "starting a session",
            Self::DieWithHost => "binding its life to the host's",
            Self::Descendants => "keeping hold of its descendants",
            Self::Descriptors => "placing descriptors",
            Self::Group => "entering its control group",
            Self::Limits => "setting resource limits",
            Self::WorkingDirectory => "entering the working directory",
            Self::NoNewPrivileges => "renouncing new privileges",
            Self::Namespaces => "making namespaces",
            Self::Gateway => "listening for the host",
            Self::PrivateRoot => "making a private root",
            Self::Capabilities => "dropping capabilities",
            Self::Landlock => "taking on landlock rules",
            Self::Seccomp => "taking on a system call filter",
            Self::Exec => "executing the image",
        })
    }
}

/// Why a process did not start. No instruction of the program has run.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum SpawnError {
    /// What was to be started cannot be: an argument has a NUL byte, a limit
    /// contradicts another, and the like.
    #[error("cannot start {program}: {reason}")]
    #[diagnostic(
        code("ORC-3181"),
        help("correct the arguments, environment, descriptors or limits of this plugin")
    )]
    Invalid {
        /// The name of the image.
        program: String,
        /// What is wrong.
        reason: String,
    },

    /// Too many starts are waiting already.
    #[error("cannot start {program}: {limit} processes are already waiting to start")]
    #[diagnostic(
        code("ORC-3182"),
        help("try again later, or let fewer calls of exec plugins run at once")
    )]
    Busy {
        /// The name of the image.
        program: String,
        /// How many starts may wait.
        limit: usize,
    },

    /// The kernel made no process, or the host lacks a descriptor or thread for it.
    #[error("cannot start {program}: no process could be made")]
    #[diagnostic(
        code("ORC-3183"),
        help("the machine or the host's cgroup is short of processes, memory or descriptors")
    )]
    NoProcess {
        /// The name of the image.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },

    /// The process that is the parent of all others was lost while it made this one.
    /// A process that was made nevertheless is killed.
    #[error("cannot start {program}: the parent of its process was lost")]
    #[diagnostic(
        code("ORC-3195"),
        help(
            "somebody signalled the process orch-keeper, or the machine hangs; the next start \
             makes another one"
        )
    )]
    KeeperLost {
        /// The name of the image.
        program: String,
        /// How it was lost.
        source: io::Error,
    },

    /// What is to confine the process could not be prepared.
    #[error("cannot start {program}: its confinement could not be prepared")]
    #[diagnostic(
        code("ORC-3199"),
        help("the machine is short of memory or descriptors, or the kernel forbids landlock")
    )]
    Unconfined {
        /// The name of the image.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },

    /// The new process failed before the program's first instruction.
    ///
    /// The help line fits the step that failed: mostly the file is no program
    /// for this machine, or a script whose manifest names no `interpreter`.
    #[error("cannot start {program}: {step} failed")]
    #[diagnostic(code("ORC-3184"))]
    Child {
        /// The name of the image.
        program: String,
        /// What it was doing.
        step: Step,
        /// What the kernel said; `raw_os_error` is the errno.
        source: io::Error,
        /// What to do about it.
        #[help]
        help: &'static str,
    },
}

impl SpawnError {
    /// A failure of the new process, with the advice that fits it.
    #[cfg_attr(
        not(all(target_os = "linux", target_arch = "x86_64")),
        expect(dead_code, reason = "no process is made on this platform")
    )]
    pub(crate) fn child(program: String, step: Step, source: io::Error) -> Self {
        let help = match (step, source.kind()) {
            (Step::Exec, io::ErrorKind::NotFound) => {
                "the file is a script, whose interpreter its manifest must name, or was built for \
                 a loader that does not exist on this machine"
            }
            (Step::Exec, io::ErrorKind::PermissionDenied) => {
                "the file is not executable, lies on a noexec mount, or the kernel setting \
                 vm.memfd_noexec forbids sealed images"
            }
            (Step::Exec, io::ErrorKind::ArgumentListTooLong) => {
                "the arguments and the environment are too large; pass the data on stdin"
            }
            (Step::Exec, _) => {
                "the file is not a program for this machine; a script needs an interpreter, \
                 named in its manifest"
            }
            (Step::Namespaces | Step::PrivateRoot, io::ErrorKind::StaleNetworkFileHandle) => {
                "a path that was granted leads to another file now; grant it again"
            }
            (Step::Namespaces, _) => {
                "the host may make no more user namespaces; see the settings \
                 user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns"
            }
            (Step::PrivateRoot, _) => {
                "a path that was granted is gone, or the host may not mount in a user namespace"
            }
            (Step::WorkingDirectory, _) => "create the directory, or name another one",
            (Step::Limits, _) => "lower the limits of this plugin to those of the host",
            _ => "the kernel refused what confinement needs; see `man 7 capabilities`",
        };
        Self::Child {
            program,
            step,
            source,
            help,
        }
    }
}

/// Why nothing can be confined like that.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum ConfinementError {
    /// The host cannot put a layer in force that is needed.
    ///
    /// The help line says what to change on the host: mostly a setting of the kernel, or
    /// the profile of the container that the host runs in.
    #[error("this host cannot enforce {layer}: {reason}")]
    #[diagnostic(code("ORC-3196"))]
    Layer {
        /// The layer.
        layer: Layer,
        /// What the kernel said.
        reason: String,
        /// What to change on the host.
        #[help]
        help: &'static str,
    },

    /// A path cannot be granted.
    #[error("the granted path {} {reason}", path.display())]
    #[diagnostic(
        code("ORC-3197"),
        help("grant an absolute path below `/` without `..`, to nothing that changes meanwhile")
    )]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A path that was granted cannot be opened.
    #[error("cannot open the granted path {}", path.display())]
    #[diagnostic(
        code("ORC-3198"),
        help("create it, or let the host's user reach it; or take the grant back")
    )]
    Open {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },

    /// More paths were granted than one confinement may have.
    #[error("more than {limit} paths are granted")]
    #[diagnostic(
        code("ORC-3180"),
        help("grant directories instead of the files in them")
    )]
    TooManyPaths {
        /// How many there may be.
        limit: usize,
    },

    /// This platform confines nothing, and starts nothing.
    #[error("native programs are confined on Linux x86-64 only")]
    #[diagnostic(
        code("ORC-3179"),
        help("run it on Linux x86-64, or compile the plugin into the host as a builtin")
    )]
    Unsupported,
}

/// Why bytes did not become an [`Image`](crate::Image).
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum ImageError {
    /// This platform has no sealed images.
    #[error("native programs are run on Linux x86-64 only")]
    #[diagnostic(
        code("ORC-3185"),
        help("run it on Linux x86-64, or compile the plugin into the host as a builtin")
    )]
    Unsupported,

    /// The source held more or fewer bytes than it should.
    #[error("{name} is {actual} than the expected {expected} bytes")]
    #[diagnostic(
        code("ORC-3186"),
        help("the file changed while it was read; install the package again")
    )]
    Length {
        /// The name of the image.
        name: String,
        /// How many bytes were expected.
        expected: u64,
        /// `shorter` or `longer`.
        actual: &'static str,
    },

    /// The interpreter is not the absolute path of a regular file.
    #[error("the interpreter {} is not {expected}", path.display())]
    #[diagnostic(
        code("ORC-3187"),
        help("name the interpreter by the absolute path of its executable file")
    )]
    Interpreter {
        /// The path that was given.
        path: PathBuf,
        /// What it should have been.
        expected: &'static str,
    },

    /// The source could not be read or the kernel refused a sealed file.
    #[error("cannot prepare {name}")]
    #[diagnostic(
        code("ORC-3188"),
        help(
            "check that the file can be read, that memory is left, and that the kernel setting \
             vm.memfd_noexec is 0 or 1"
        )
    )]
    Io {
        /// The name of the image.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why files could not be given paths.
#[derive(Debug, Error, Diagnostic)]
#[non_exhaustive]
pub enum TreeError {
    /// This platform has no native kinds, so nothing needs paths.
    #[error("package files are given paths on Linux x86-64 only")]
    #[diagnostic(
        code("ORC-3189"),
        help("run it on Linux x86-64, or compile the plugin into the host as a builtin")
    )]
    Unsupported,

    /// Somebody else could change what is put into the run directory.
    #[error("the run directory {} {reason}", path.display())]
    #[diagnostic(
        code("ORC-3190"),
        help("let the run directory belong to the host's user, with mode 0700")
    )]
    UnsafeRunDirectory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A file of the package has a path that may not exist in a tree.
    #[error("the package file {} {reason}", path.display())]
    #[diagnostic(
        code("ORC-3191"),
        help("package paths are relative, without `..`, and each is listed once")
    )]
    Path {
        /// The path that was given.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// The tree has more files than one may have.
    #[error("the package has more than {limit} files")]
    #[diagnostic(
        code("ORC-3192"),
        help("pack the assets into fewer files, for example one archive")
    )]
    TooManyFiles {
        /// How many files a tree may have.
        limit: usize,
    },

    /// The process that removes the run directory after a crash did not start.
    #[error("cannot start the watcher that cleans up after a crash")]
    #[diagnostic(
        code("ORC-3193"),
        help("the watcher needs /bin/sh, and chmod and rm on the usual paths")
    )]
    Watcher {
        /// Why it did not start.
        source: SpawnError,
    },

    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    #[diagnostic(
        code("ORC-3194"),
        help("check the free space and the permissions of the run directory")
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}
