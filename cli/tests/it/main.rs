//! Drives the real binary, with real plugins, files and sockets.
#![cfg(test)]

mod crash;
mod disk;
mod harness;
mod help;
mod hostile;
mod http;
mod keys;
mod large_packages;
mod left;
mod load;
mod metrics;
mod output;
mod pipelines;
mod plugins;
mod refusals;
mod runs;
mod serve;
mod serve_runs;
mod settings;
mod signals;
mod trust;
mod unsigned;
