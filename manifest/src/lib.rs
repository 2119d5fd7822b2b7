//! The plugin manifest: types, parsing, validation, JSON Schema.
//!
//! A manifest says what a plugin is, how it runs and what it asks for. This
//! crate turns `plugin.yaml`, `plugin.json` or `plugin.toml` into one
//! [`Manifest`], in which every alias is resolved and every default filled
//! in, or into a list of everything that is wrong with it.
//!
//! It must not: decide what a plugin gets (asking grants nothing), trust
//! anything the manifest says about trust, start anything, or touch files
//! other than in [`Manifest::load`].
//!
//! Start with [`Manifest`], then [`Capability`]. How a document is read:
//! `located.rs` (values with their places) → `decode.rs` (rules) → `fault.rs`.
//! To add a key: a field in `manifest.rs`, a line in `decode/document.rs`, a
//! row in the table of `tests/it/rules.rs`.
//!
//! [`located`], [`mod@pointer`], [`text`] and [`canonical_json`] serve whatever
//! else people write by hand: pipelines are read with them too.

mod canonical;
mod capability;
mod config_schema;
mod decode;
mod duration;
mod fault;
mod load;
pub mod located;
mod manifest;
mod name;
mod package_path;
pub mod pointer;
mod schema;
pub mod text;
mod word;

pub use canonical::canonical_json;
pub use capability::{
    AddressRange, Capability, CapabilityError, Destination, DestinationError, Host, Scope,
    ScopeError, Target, Token,
};
pub use duration::{DURATION_MAX, DurationError, format_duration, parse_duration};
pub use fault::{Fault, ManifestError, Rule};
pub use load::{FILE_NAMES, FILE_SIZE_MAX};
pub use located::Format;
pub use manifest::{Manifest, OutputSpec, PHASE_TIMEOUT, Phase, Provided, Resources};
pub use name::{NAME_MAX, NameError, PluginName};
pub use package_path::{PATH_DEPTH_MAX, PATH_MAX, PackagePath, PathError};
pub use schema::json_schema;
pub use semver::{Version, VersionReq};
pub use word::{Channel, Effect, Kind, Role};
