//! The engine as an embedder sees it, with a real journal.
#![cfg(test)]

mod answers;
mod asked;
mod disk;
mod doubt;
mod fallbacks;
mod health;
mod hostile;
mod large;
mod left;
mod nested;
mod reloaded;
mod resolve;
mod resume;
mod retries;
mod runs;
mod starts;
mod stopped;
mod support;
mod validator;
mod wall_clock;
