//! Keys, packages, trust, grants and the store, on real files.
#![cfg(test)]

mod every_byte;
mod fixture;
mod grants;
mod install;
mod key_files;
mod keys;
mod packages;
mod races;
mod tampering;
mod trust;
mod unsigned;
