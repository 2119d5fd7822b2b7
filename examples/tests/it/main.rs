//! The example plugins as real processes, and the pipeline's template.
#![cfg(test)]

mod author_stats;
mod commit_classifier;
mod embed;
mod git_history;
mod hello;
mod manifests;
mod process;
mod release_notes;
mod repository;
