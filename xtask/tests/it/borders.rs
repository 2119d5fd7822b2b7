//! Who may use whom.

use crate::{read, root, sources};

/// Read it as the picture in `ARCHITECTURE.md`: arrows point down.
const MAY_USE: &[(&str, &[&str])] = &[
    ("contract", &[]),
    ("policies", &[]),
    ("sandbox", &[]),
    ("manifest", &["contract"]),
    ("sdk/rust", &["contract"]),
    ("observability", &["contract"]),
    ("signing", &["manifest"]),
    (
        "plugin-runtime",
        &["contract", "manifest", "signing", "sandbox"],
    ),
    (
        "engine",
        &[
            "contract",
            "manifest",
            "policies",
            "plugin-runtime",
            "observability",
        ],
    ),
    (
        "cli",
        &[
            "contract",
            "manifest",
            "policies",
            "plugin-runtime",
            "observability",
            "engine",
            "signing",
        ],
    ),
];

/// Crates that nothing shipped may use.
const NEVER_SHIPPED: &[&str] = &["testkit", "benches", "examples", "xtask"];

/// A heavy crate and the one place that may name it.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("axum", &["cli"]),
    ("clap", &["cli"]),
    ("indicatif", &["cli"]),
    ("metrics-exporter-prometheus", &["observability"]),
    ("metrics", &["observability"]),
    ("failsafe", &["policies", "benches"]),
    ("governor", &["policies", "benches"]),
    ("rusqlite", &["engine"]),
    ("ed25519-dalek", &["signing"]),
    ("libc", &["sandbox", "benches"]),
    ("ureq", &["cli"]),
    ("rustls", &["cli"]),
];

fn dependencies(member: &str) -> Vec<String> {
    let manifest: toml::Table = read(&root().join(member).join("Cargo.toml"))
        .parse()
        .unwrap();
    let targets = manifest.get("target").and_then(|value| value.as_table());
    let of_targets = targets.into_iter().flat_map(|targets| targets.values());
    std::iter::once(&manifest)
        .chain(of_targets.filter_map(|target| target.as_table()))
        .flat_map(|table| [table.get("dependencies"), table.get("build-dependencies")])
        .flatten()
        .filter_map(|dependencies| dependencies.as_table())
        .flatten()
        .map(|(name, value)| real_name(name, value))
        .collect()
}

/// A dependency may go by another name than its package's.
fn real_name(name: &str, value: &toml::Value) -> String {
    value
        .get("package")
        .and_then(|package| package.as_str())
        .unwrap_or(name)
        .to_owned()
}

fn members() -> Vec<String> {
    let workspace: toml::Table = read(&root().join("Cargo.toml")).parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap();
    members
        .iter()
        .map(|member| member.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn crates_use_only_what_they_may() {
    for (member, allowed) in MAY_USE {
        for name in dependencies(member) {
            let Some(ours) = name.strip_prefix("orchestrator-") else {
                continue;
            };
            assert!(allowed.contains(&ours), "`{member}` may not use `{ours}`");
        }
    }
}

#[test]
fn every_member_has_its_place() {
    for member in members() {
        let placed = MAY_USE.iter().any(|(name, _)| *name == member);
        assert!(
            placed || NEVER_SHIPPED.contains(&member.as_str()),
            "`{member}` is not in the table of who may use whom"
        );
    }
}

#[test]
fn heavy_crates_stay_in_their_place() {
    for member in members() {
        for name in dependencies(&member) {
            for (heavy, places) in ONLY_IN {
                assert!(
                    name != *heavy || places.contains(&member.as_str()),
                    "`{member}` may not name `{heavy}`"
                );
            }
        }
    }
}

/// A folder below `tests/` without a `main.rs` is never compiled.
#[test]
fn every_test_folder_is_compiled() {
    for member in members() {
        let Ok(folders) = std::fs::read_dir(root().join(&member).join("tests")) else {
            continue;
        };
        let folders: Vec<_> = folders.map(|entry| entry.unwrap().path()).collect();
        for folder in folders.iter().filter(|path| path.is_dir()) {
            assert!(
                folder.join("main.rs").exists(),
                "{} has no main.rs",
                folder.display()
            );
        }
        let binaries = folders
            .iter()
            .filter(|path| path.is_dir() || path.extension().is_some());
        assert!(
            binaries.count() <= 1,
            "`{member}` has more than one integration-test binary"
        );
    }
}

/// Where `unsafe` may stand; see `docs/adr/0006-unsafe-in-the-sdk.md`.
const UNSAFE_IN: &[&str] = &[
    "sandbox/src/linux/",
    "sandbox/tests/",
    "sdk/rust/src/node/inherited.rs",
];

#[test]
fn unsafe_is_where_it_may_be_and_says_why() {
    for path in sources() {
        let text = read(&path);
        let shown = path.strip_prefix(root()).unwrap().display().to_string();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            // Put together, so that this line is not one of those it looks for.
            let words = [" {", " fn", " impl", " extern"].map(|then| format!("unsafe{then}"));
            if !words.iter().any(|word| code.contains(word)) {
                continue;
            }
            let place = format!("{shown}:{}", number + 1);
            assert!(
                UNSAFE_IN.iter().any(|allowed| shown.starts_with(allowed)),
                "{place} may not be unsafe"
            );
            let before = lines[number.saturating_sub(12)..=number].join("\n");
            assert!(
                before.contains("SAFETY") || before.contains("# Safety"),
                "{place} says no SAFETY"
            );
        }
    }
}
