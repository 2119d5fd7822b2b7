//! Drives the real binary, with real plugins, files and sockets.
#![cfg(test)]

mod crash;
mod harness;
mod help;
mod http;
mod keys;
mod load;
mod metrics;
mod output;
mod pipelines;
mod plugins;
mod runs;
mod serve;
mod serve_runs;
mod settings;
