//! Manifests as authors write them: whole documents, in every format.
#![cfg(test)]

mod examples;
mod faults;
mod files;
mod rules;
mod spellings;
mod validate_config;
