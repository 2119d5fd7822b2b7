//! The runtime from the outside: signed packages in temporary directories, real
//! processes, real sockets.

#![cfg(test)] // Tells clippy that helpers here are tests too.

mod builtin;
mod confined;
mod confined_faults;
mod counter_plugin;
mod denials;
mod disabled;
mod discovery;
mod egress;
mod ends;
mod endurance;
mod exec;
mod exec_faults;
mod hygiene;
mod learned;
mod limits;
mod limits_changed;
mod load;
mod monitor;
mod node;
mod node_faults;
mod node_plugin;
mod operate;
mod outputs;
mod plugin_end;
mod recovery;
mod reload;
mod reload_faults;
mod reload_host;
mod restarted;
mod status;
mod stopped;
mod support;
mod swaps;
mod swaps_loaded;
mod upgrades;
mod validator;
mod wall_clock;
mod withdrawn;
