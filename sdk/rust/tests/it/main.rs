//! Plugins written with the SDK, as real processes.
#![cfg(test)]

mod exec;
mod node;
mod programs;
