//! What does a connection cost that a plugin may have, beside one that nobody looks at?

mod client;
mod measure;
mod server;

use std::process::ExitCode;

fn main() -> ExitCode {
    match client::Order::of_arguments() {
        Some(order) => client::run(&order),
        None => orchestrator_benches::main(measure::run),
    }
}
