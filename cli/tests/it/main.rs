//! Drives the real binary, with real plugins, files and sockets.
#![cfg(test)]

mod archives;
mod audit;
mod crash;
mod disk;
mod file_server;
mod harness;
mod help;
mod hostile;
mod http;
mod install;
mod keys;
mod keys_life;
mod keys_signing;
mod large_packages;
mod left;
mod load;
mod lock;
mod metrics;
mod output;
mod pipelines;
mod plugins;
mod refusals;
mod release_story;
mod runs;
mod serve;
mod serve_runs;
mod settings;
mod signals;
mod store_crash;
mod traced;
mod trust;
mod trust_kill;
mod trust_root;
mod unsigned;
