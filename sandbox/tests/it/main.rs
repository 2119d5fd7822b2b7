//! Starts real processes and looks at them from inside and outside.
#![cfg(test)]
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

mod attacks;
mod child;
mod confinement;
mod descendants;
mod exec;
mod group;
mod helper;
mod host_death;
mod keeper;
mod support;
mod tree;
mod usage;
