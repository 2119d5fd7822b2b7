//! What installations leave, without the packages.

use std::{fs, os::unix::fs::symlink, path::Path};

use orchestrator_signing::Digest;
use serde_json::json;

/// Leaves in `plugins` what `count` installations leave there: names, links, receipts
/// and, in place of each package, an empty folder. The packages are `plugin-0` and so
/// on, each of version 1.0.0, from `/packages/plugin-0.opkg` and so on.
///
/// # Panics
///
/// When it cannot be written.
pub fn lay_out_installed(plugins: &Path, count: usize) {
    let store = plugins.join(".store");
    fs::create_dir_all(&store).expect("a store");
    for number in 0..count {
        let name = format!("plugin-{number}");
        let tree = Digest::of(name.as_bytes());
        let content = store.join(format!("sha256-{tree}"));
        fs::create_dir(&content).expect("a folder");
        let receipt = json!({
            "plugin": name,
            "version": "1.0.0",
            "statement": tree,
            "source": format!("/packages/{name}.opkg"),
            "installed_at": "2025-01-01T00:00:00Z",
        });
        fs::write(content.with_extension("json"), receipt.to_string()).expect("a receipt");
        fs::create_dir(plugins.join(&name)).expect("a folder");
        let link = plugins.join(&name).join("1.0.0");
        symlink(format!("../.store/sha256-{tree}"), link).expect("a link");
    }
}
