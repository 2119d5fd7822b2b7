//! One file for each command.

pub(crate) mod audit;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod help;
pub(crate) mod key;
pub(crate) mod pipeline;
pub(crate) mod plugin;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod trust;
pub(crate) mod version;
