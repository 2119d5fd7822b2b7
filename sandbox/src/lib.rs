//! The one way a native process starts.
//!
//! A program that is given to [`spawn`] runs from bytes nobody can change any
//! more ([`Image`]), with exactly the environment, descriptors and limits that
//! its [`Spec`] lists and nothing of the host's, in a session of its own, and it
//! dies with the host. What it starts dies with it, however it hides. With a [`Confinement`] it
//! can do what its [`Grants`] list and nothing else, by as many [`Layers`] as the host has. Files that must
//! have paths are put into a [`ReadOnlyTree`], which does not outlive the host either.
//! What it and all that it starts may use together are [`GroupLimits`], where the host has control groups.
//!
//! This crate must not decide anything: what a plugin may do, which bytes are
//! trusted and when a process is restarted is settled by its callers. It knows
//! no plugin, no manifest and no async runtime. All of its `unsafe` code is in
//! `linux/raw.rs` and below; but for one block in the SDK, there is none elsewhere in the project.
//!
//! Linux on x86-64 only. Elsewhere the same names exist, and making an [`Image`] or
//! claiming a [`RunDirectory`] fails with `Unsupported`, so nothing can be started.
//!
//! Start reading at `linux/steps.rs`, what the new process does to itself in
//! which order, then `linux/keeper.rs`, the process that all of them are children
//! of, and `linux/spawner.rs`, the thread that has them made.

mod confinement;
mod error;
mod exit_status;
mod group;
mod observed;
mod spec;
mod usage;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod linux;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
use linux as platform;

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod elsewhere;
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
use elsewhere as platform;

pub use confinement::{Absent, GATEWAY, Grants, Layer, Layers, Network, SCRATCH, SandboxReport};
pub use error::{ConfinementError, ImageError, SpawnError, Step, TreeError};
pub use exit_status::ExitStatus;
pub use group::{GroupLimits, GroupReport, GroupUsage};
pub use observed::Observed;
pub use platform::{
    Child, Confinement, Ended, Group, Image, Observer, Pending, PrivateDirectory, ProcessTable,
    ReadOnlyTree, RunDirectory, TreeBuilder, counts_processes, groups, probe, refuse_descriptors,
    sample, spawn, sweep,
};
/// A signal to send to a process group.
pub use rustix::process::Signal;
pub use spec::{Limits, Spec};
pub use usage::TreeUsage;
