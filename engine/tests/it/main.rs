//! The engine as an embedder sees it, with a real journal.
#![cfg(test)]

mod answers;
mod asked;
mod disk;
mod doubt;
mod fallbacks;
mod hostile;
mod large;
mod left;
mod nested;
mod resolve;
mod resume;
mod retries;
mod runs;
mod starts;
mod support;
