//! The engine as an embedder sees it, with a real journal.
#![cfg(test)]

mod doubt;
mod left;
mod resume;
mod runs;
mod support;
