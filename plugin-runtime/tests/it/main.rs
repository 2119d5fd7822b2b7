//! The runtime from the outside: signed packages in temporary directories, real
//! processes, real sockets.

#![cfg(test)] // Tells clippy that helpers here are tests too.

mod builtin;
mod confined;
mod discovery;
mod egress;
mod exec;
mod exec_faults;
mod hygiene;
mod load;
mod monitor;
mod node;
mod node_faults;
mod node_plugin;
mod outputs;
mod status;
mod support;
mod swaps;
mod swaps_loaded;
mod upgrades;
mod withdrawn;
