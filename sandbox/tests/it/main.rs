//! Starts real processes and looks at them from inside and outside.
#![cfg(test)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod child;
mod confinement;
mod exec;
mod helper;
mod host_death;
mod support;
mod tree;
mod usage;
