//! Linux on x86-64.

mod child;
mod children;
mod image;
mod keeper;
mod keeping;
mod pending;
mod plan;
mod process_table;
mod raw;
mod run_directory;
mod spawner;
mod steps;
mod tree;
mod watch;
mod watcher;

pub use child::{Child, Ended};
pub use image::Image;
pub use pending::Pending;
pub use process_table::{ProcessTable, sample};
pub use run_directory::{PrivateDirectory, RunDirectory, sweep};
pub use spawner::spawn;
pub use tree::{ReadOnlyTree, TreeBuilder};
