//! Keys, packages, trust, grants and the store, on real files.
#![cfg(test)]

mod archive;
mod audit;
mod audit_processes;
mod audit_tampering;
mod detached;
mod every_byte;
mod fixture;
mod foreign;
mod fuzz;
mod grants;
mod had;
mod install;
mod key_files;
mod keys;
mod lock_file;
mod many_files;
mod minisign;
mod packages;
mod races;
mod root;
mod root_abuse;
mod root_store;
mod store;
mod store_signatures;
mod surroundings;
mod tampering;
mod trust;
mod unsigned;
mod vectors;
