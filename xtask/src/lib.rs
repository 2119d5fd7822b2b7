//! What a task writes and a test compares: the pages made from the sources.
//!
//! It reads files of the workspace and returns text; tasks write it, tests hold
//! the written page to it. Start in [`errors`].

pub mod errors;
