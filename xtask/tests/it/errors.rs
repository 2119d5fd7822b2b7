//! The page of error codes is complete, and says what the sources say.

use orchestrator_xtask::errors::{Catalogue, PAGE};

use crate::{read, root};

fn catalogue() -> Catalogue {
    let catalogue = Catalogue::read(&root()).unwrap();
    assert!(catalogue.len() > 150, "only {} codes", catalogue.len());
    catalogue
}

#[test]
fn the_page_is_what_the_sources_say() {
    let wanted = catalogue().page().unwrap();
    let written = read(&root().join(PAGE));
    let differing = wanted
        .lines()
        .zip(written.lines())
        .position(|(wanted, written)| wanted != written);
    assert!(
        wanted == written,
        "{PAGE} is not what the sources say (from line {}): run `cargo xtask errors`",
        1 + differing.unwrap_or(wanted.lines().count().min(written.lines().count()))
    );
}

#[test]
fn every_code_has_one_meaning_and_lies_in_its_crates_range() {
    let faults = catalogue().faults();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A tree of sources as small as the checks allow.
fn faults_of(files: &[(&str, &str)]) -> Vec<String> {
    let dir = std::env::temp_dir().join(format!("orchestrator-errors-{}", std::process::id()));
    for member in Catalogue::members() {
        std::fs::create_dir_all(dir.join(member).join("src")).unwrap();
    }
    for (path, text) in files {
        std::fs::write(dir.join(path), text).unwrap();
    }
    let found = Catalogue::read(&dir).unwrap().faults();
    std::fs::remove_dir_all(&dir).unwrap();
    found
}

#[test]
fn a_code_that_is_used_wrongly_is_found() {
    const LOST: &str = "enum E { #[error(\"it is lost\")] #[diagnostic(code(\"ORC-2001\"), help(\"look\"))] Lost }";
    const FOUND: &str = "enum E { #[error(\"it is found\")] #[diagnostic(code(\"ORC-2001\"), help(\"look\"))] Found }";
    const SILENT: &str =
        "enum E { #[error(\"it is lost\")] #[diagnostic(code(\"ORC-2001\"))] Lost }";
    const USE: &str = "fn f() { println!(\"{}\", \"ORC-2001\"); }";
    const TEST: &str = "#[cfg(test)] mod tests { fn f() { println!(\"{}\", \"ORC-2001\"); } }";
    for (files, expected) in [
        (
            vec![("signing/src/a.rs", LOST), ("signing/src/b.rs", LOST)],
            None,
        ),
        (
            vec![("signing/src/a.rs", LOST), ("signing/src/b.rs", TEST)],
            None,
        ),
        (
            vec![("signing/src/a.rs", LOST), ("signing/src/b.rs", FOUND)],
            Some(
                "ORC-2001 means two things: `it is lost` in signing/src/a.rs and `it is found` in signing/src/b.rs",
            ),
        ),
        (
            vec![("cli/src/a.rs", LOST)],
            Some("cli/src/a.rs has ORC-2001, which is none of the numbers of `cli`"),
        ),
        (
            vec![("signing/src/a.rs", SILENT)],
            Some("ORC-2001 in signing/src/a.rs does not say what to do"),
        ),
        (
            vec![("signing/src/a.rs", LOST), ("signing/src/b.rs", USE)],
            Some(
                "signing/src/b.rs uses ORC-2001: say in xtask/src/errors/written.rs that it means the same there",
            ),
        ),
    ] {
        assert_eq!(faults_of(&files), Vec::from_iter(expected), "{files:?}");
    }
}
