//! The documents name only what is there.

use std::path::Path;

use crate::{read, root};

/// Paths quoted in the page, relative to the workspace.
fn quoted_paths(text: &str) -> Vec<&str> {
    text.split('`')
        .skip(1)
        .step_by(2)
        .filter(|quoted| !quoted.contains(['<', '$', ' ', '*', '\n', '~']))
        .filter(|quoted| !quoted.starts_with('/') && !quoted.starts_with("--"))
        .filter(|quoted| {
            let known = [".rs", ".toml", ".md", ".yaml", ".json", ".sh"];
            quoted.ends_with('/') || known.iter().any(|end| quoted.ends_with(end))
        })
        .collect()
}

#[test]
fn every_path_in_architecture_md_exists() {
    let text = read(&root().join("ARCHITECTURE.md"));
    let paths = quoted_paths(&text);
    assert!(paths.len() > 20, "only {} paths were found", paths.len());
    for path in paths {
        assert!(root().join(path).exists(), "ARCHITECTURE.md names `{path}`");
    }
}

/// Links between the documents lead somewhere.
#[test]
fn every_relative_link_in_the_root_documents_exists() {
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ] {
        let text = read(&root().join(page));
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let path = link.split('#').next().unwrap_or_default();
            let elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            assert!(
                elsewhere || Path::new(&root()).join(path).exists(),
                "{page} links to `{path}`"
            );
        }
    }
}
