//! Writes capabilities into a manifest, and leaves the rest of it as it is.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use orchestrator_manifest::{Capability, Format, Manifest};

use crate::{error::CliError, failure::Result};

/// Those that can be written line by line.
const YAML: [&str; 2] = ["plugin.yaml", "plugin.yml"];

/// What a manifest in YAML has of capabilities.
pub(super) fn section(capabilities: &[Capability]) -> String {
    if capabilities.is_empty() {
        return "capabilities: []\n".to_owned();
    }
    let mut text = "capabilities:\n".to_owned();
    for capability in capabilities {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  - '{}'", capability.to_string().replace('\'', "''"));
    }
    text
}

/// Whether the manifest in `directory` can be written.
pub(super) fn check(directory: &Path, is_draft: bool) -> Result<PathBuf> {
    let candidates = YAML.map(|name| directory.join(name));
    let mut candidates = candidates.into_iter().filter(|_| is_draft);
    let found = candidates.find(|path| path.is_file());
    let unfit = || CliError::ManifestByHand {
        path: directory.to_owned(),
    };
    Ok(found.ok_or_else(unfit)?)
}

/// Writes `capabilities` into the manifest in `directory`, in place of those there. Returns
/// where that is.
pub(super) fn write(directory: &Path, capabilities: &[Capability]) -> Result<PathBuf> {
    let path = check(directory, true)?;
    let failed = |error| CliError::file("write", &path, error);
    let before = fs::read_to_string(&path).map_err(failed)?;
    let after = replaced(&before, &section(capabilities));
    // Whatever way the list was written there, this is what has to come of it.
    let is_it = |manifest: Manifest| manifest.capabilities == capabilities;
    let name = path.display().to_string();
    if !Manifest::parse(after.as_bytes(), Format::Yaml, &name).is_ok_and(is_it) {
        return Err(CliError::ManifestByHand { path }.into());
    }
    fs::write(&path, after).map_err(failed)?;
    Ok(path)
}

/// `text` with `section` in place of the one that begins with `capabilities:`, or at its
/// end.
fn replaced(text: &str, section: &str) -> String {
    let is_key = |line: &str| line.starts_with("capabilities:");
    let belongs = |line: &str| {
        let first = line.trim_start().chars().next();
        line.starts_with([' ', '\t', '-']) || first.is_none_or(|first| first == '#')
    };
    let mut lines = text.split_inclusive('\n').peekable();
    let mut after = String::with_capacity(text.len() + section.len());
    let mut is_there = false;
    while let Some(line) = lines.next() {
        if is_there || !is_key(line) {
            after += line;
            continue;
        }
        is_there = true;
        after += section;
        while lines.next_if(|line| belongs(line)).is_some() {}
    }
    if !is_there {
        if !after.is_empty() && !after.ends_with('\n') {
            after.push('\n');
        }
        after += section;
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_capabilities_are_replaced() {
        let section = "capabilities:\n  - 'system:info'\n";
        for (before, after) in [
            ("a: 1", "a: 1\ncapabilities:\n  - 'system:info'\n"),
            (
                "a: 1\ncapabilities: [file:read]\nb: # c\n  - d\n",
                "a: 1\ncapabilities:\n  - 'system:info'\nb: # c\n  - d\n",
            ),
            (
                "capabilities:\n- file:read\n# why\n  - env:read=A\n\nb: 2\n",
                "capabilities:\n  - 'system:info'\nb: 2\n",
            ),
        ] {
            assert_eq!(replaced(before, section), after);
        }
    }
}
