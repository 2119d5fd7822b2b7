//! What stands in two places on purpose, and has to stay the same.

use crate::{read, root};

/// `docs/adr/0012-a-node-socket-has-two-ends.md`
#[test]
fn both_ends_of_a_node_socket_work_alike() {
    let lines = |path: &str| -> Vec<String> {
        let text = read(&root().join(path));
        let code = text.lines().map(str::trim);
        let code = code.filter(|line| !line.is_empty() && !line.starts_with("//"));
        code.map(str::to_owned).collect()
    };
    let host = lines("plugin-runtime/src/node/socket.rs");
    // The plugin's end can do one thing more: say that it has written all.
    let mut plugin = lines("sdk/rust/src/node/socket.rs");
    plugin.retain(|line| line != "net::Shutdown,");
    let more = plugin.iter().position(|line| line.contains("fn shut_down"));
    let more = more.expect("`shut_down` is the plugin's alone");
    plugin.drain(more..more + 3);
    assert_eq!(host, plugin, "change both, or share what you change");
}
