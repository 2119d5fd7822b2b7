//! The engine as an embedder sees it, with a real journal.
#![cfg(test)]

mod left;
mod resume;
mod runs;
mod support;
