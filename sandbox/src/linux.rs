//! Linux on x86-64.

mod child;
mod children;
mod confinement;
mod gateway;
mod granted;
mod group;
mod image;
mod keeper;
mod keeping;
mod landlock;
mod namespaces;
mod observe;
mod pending;
mod plan;
mod probe;
mod process_table;
mod raw;
mod root;
mod run_directory;
mod seccomp;
mod spawner;
mod steps;
mod tree;
mod watch;
mod watcher;

pub use child::{Child, Ended};
pub use confinement::Confinement;
pub use group::{Group, groups};
pub use image::Image;
pub use observe::Observer;
pub use pending::Pending;
pub use probe::probe;
pub use process_table::{ProcessTable, sample};
pub use run_directory::{PrivateDirectory, RunDirectory, sweep};
pub use spawner::spawn;
pub use tree::{ReadOnlyTree, TreeBuilder};
