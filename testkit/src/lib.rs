//! Signed test plugins, and homes to install them into. Never shipped.
//!
//! Everything here goes the way a release engineer and an operator go: a real
//! key signs a real package, a trust root says what the key may sign, the
//! package is installed and granted what it asks for. Nothing is faked, so a
//! test that uses it tests that way too.
//!
//! Start with [`TestHome`].

mod home;
mod process;
mod scripted;

pub use home::{Kind, TestHome, TestPlugin};
pub use process::{descendants, wait_until};
pub use scripted::scripted_plugin;
