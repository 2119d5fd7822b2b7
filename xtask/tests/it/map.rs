//! The documents name only what is there.

use std::{fs, path::PathBuf};

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

/// Every document that people read, generated ones too.
pub(crate) fn documents() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ]
    .map(|page| root().join(page))
    .into();
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(end) if end == "md" => found.push(path),
                _ => (),
            }
        }
    }
    assert!(found.len() > 8, "only {found:?} were found");
    found
}

/// What a link to a heading calls it, as GitHub does.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|it| it.is_alphanumeric() || [' ', '-', '_'].contains(it));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

/// The text of a page without its blocks of code.
fn prose(text: &str) -> String {
    let blocks = text.split("\n```");
    let outside = blocks.enumerate().filter(|(at, _)| at % 2 == 0);
    outside.map(|(_, block)| format!("\n{block}")).collect()
}

fn anchors(text: &str) -> Vec<String> {
    let prose = prose(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

/// Links between the documents lead somewhere, to the very heading.
#[test]
fn every_relative_link_in_the_documents_leads_somewhere() {
    let mut followed = 0;
    for page in documents() {
        let folder = page.parent().unwrap();
        let text = read(&page);
        for link in prose(&text)
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let shown = page.display();
            let (path, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match path {
                "" => page.clone(),
                path => folder.join(path),
            };
            assert!(target.exists(), "{shown} links to `{path}`");
            assert!(
                heading.is_empty() || anchors(&read(&target)).iter().any(|it| it == heading),
                "{shown} links to `{link}`, which has no such heading"
            );
            followed += 1;
        }
    }
    assert!(followed > 10, "only {followed} links were found");
}

/// `docs/operating.md` lists every metric with its labels.
#[test]
fn every_metric_is_listed_with_its_labels() {
    let page = read(&root().join("docs/operating.md"));
    let names = read(&root().join("observability/src/names.rs"));
    let (_, table) = names.split_once("\nmetrics! {").unwrap();
    let (table, _) = table.split_once("\n}").unwrap();
    let mut listed = 0;
    for metric in table.split("];").filter(|metric| metric.contains('[')) {
        let (head, labels) = metric.rsplit_once('[').unwrap();
        let name = head.split('"').nth(1).unwrap();
        let labels = labels.replace('"', "`");
        let row = format!("| `{name}` | {labels} |").replace("|  |", "| |");
        assert!(page.contains(&row), "docs/operating.md lacks `{row}`");
        listed += 1;
    }
    let rows = page.matches("\n| `orchestrator_").count() + page.matches("\n| `process_").count();
    assert_eq!(
        rows, listed,
        "docs/operating.md lists a metric that is not there"
    );
}
