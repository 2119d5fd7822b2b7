//! What does a call to another process cost: ours of kind `node`, and gRPC
//! over a Unix socket by tonic?
//!
//! This program is the plugin and the gRPC server as well: it starts itself
//! again in either role, so that both sides are built alike.

mod grpc;
mod load;
mod measure;
mod ours;

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    if ours::is_plugin() {
        return ours::plugin();
    }
    if let Some(socket) = grpc::server_socket() {
        return grpc::serve(&socket);
    }
    // Anything but `cargo bench` only wants to know that it starts.
    if !env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    measure::run()
}
