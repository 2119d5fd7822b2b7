//! Signed test plugins, and homes to install them into. Never shipped.
//!
//! Everything here goes the way a release engineer and an operator go: a real
//! key signs a real package, a trust root says what the key may sign, the
//! package is installed and granted what it asks for. Nothing is faked, so a
//! test that uses it tests that way too.
//!
//! Start with [`TestHome`].

mod home;
mod installed;
mod process;
mod scripted;
mod wall_clock;

pub use home::{Kind, TestHome, TestPlugin};
pub use installed::lay_out_installed;
pub use process::{Signal, descendants, keeper, send, stop, wait_until};
pub use scripted::scripted_plugin;
pub use wall_clock::{pass_while_the_clock_jumps, the_clock_jumps_where_it_is_to};
