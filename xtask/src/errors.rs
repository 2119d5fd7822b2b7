//! The page of error codes, made from the error types of the crates.
//!
//! A code is *defined* by an attribute of an error type, by an arm of a `Rule`
//! enum, or, where the command makes an error on the spot, by `written.rs`. What
//! is defined says what the code means and what to do; what merely *uses* a
//! code in passing has to be known in `written.rs` too, so that no code gets a
//! second meaning unnoticed.

mod declared;
mod page;
mod wording;
mod written;

use std::{
    collections::BTreeMap,
    fs,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

/// Where the page lies in the workspace.
pub const PAGE: &str = "docs/errors.md";

/// The numbers that each crate's errors have.
const RANGES: &[(&str, &[RangeInclusive<u16>])] = &[
    ("manifest", &[1000..=1099]),
    ("engine", &[1100..=1199, 1200..=1289, 4000..=4199]),
    ("policies", &[1290..=1299]),
    ("signing", &[2000..=2199]),
    ("plugin-runtime", &[3000..=3149]),
    ("sandbox", &[3150..=3199]),
    ("observability", &[]),
    ("cli", &[5000..=5099]),
];

/// One place that says what a code means.
#[derive(Clone, Debug)]
struct Definition {
    code: u16,
    /// The file, relative to the workspace.
    file: String,
    /// The message as it is shown, in Markdown; empty when it differs each time.
    message: String,
    /// The documentation, paragraph by paragraph.
    about: Vec<String>,
    /// What to do, in Markdown.
    help: String,
}

/// One place that names a code and does not say what it means.
#[derive(Debug)]
struct Use {
    code: u16,
    file: String,
}

/// Every code of the workspace.
#[derive(Debug)]
pub struct Catalogue {
    definitions: BTreeMap<u16, Vec<Definition>>,
    uses: Vec<Use>,
}

impl Catalogue {
    /// The folders of the crates that are read.
    pub fn members() -> impl Iterator<Item = &'static str> {
        RANGES.iter().map(|(member, _)| *member)
    }

    /// Reads the sources of every crate that may define codes. Code that is
    /// compiled for tests alone is left out.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or is no Rust.
    pub fn read(root: &Path) -> Result<Self, String> {
        let mut found = declared::Found::default();
        for (member, _) in RANGES {
            for path in sources(&root.join(member).join("src"))? {
                let text = fs::read_to_string(&path)
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                let file = path.strip_prefix(root).unwrap_or(&path).display();
                found.read(&file.to_string(), &text)?;
            }
        }
        found.definitions.extend(written::definitions());
        let mut definitions = BTreeMap::<u16, Vec<Definition>>::new();
        for definition in found.definitions {
            let same = definitions.entry(definition.code).or_default();
            same.push(definition);
        }
        Ok(Self {
            definitions,
            uses: found.uses,
        })
    }

    /// The page in Markdown.
    ///
    /// # Errors
    ///
    /// When a code lies in no section of the page.
    pub fn page(&self) -> Result<String, String> {
        page::write(&self.definitions)
    }

    /// How many codes there are.
    pub fn len(&self) -> usize {
        self.definitions.len()
    }

    /// Whether there is no code at all.
    pub fn is_empty(&self) -> bool {
        self.definitions.is_empty()
    }

    /// What is wrong with the codes, one line each.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (code, definitions) in &self.definitions {
            faults.extend(two_meanings(*code, definitions));
            for definition in definitions {
                faults.extend(out_of_range(*code, &definition.file));
                if definition.help.is_empty() {
                    let file = &definition.file;
                    faults.push(format!("ORC-{code} in {file} does not say what to do"));
                }
            }
        }
        for Use { code, file } in &self.uses {
            faults.extend(out_of_range(*code, file));
            if !written::is_known_use(*code, file) {
                faults.push(format!(
                    "{file} uses ORC-{code}: say in xtask/src/errors/written.rs that it means the same there"
                ));
            }
        }
        faults
    }
}

fn two_meanings(code: u16, definitions: &[Definition]) -> Option<String> {
    let [first, rest @ ..] = definitions else {
        return None;
    };
    let other = rest.iter().find(|other| other.message != first.message)?;
    (!written::ONE_THING_IN_MANY_WORDS.contains(&code)).then(|| {
        format!(
            "ORC-{code} means two things: `{}` in {} and `{}` in {}",
            first.message, first.file, other.message, other.file
        )
    })
}

fn out_of_range(code: u16, file: &str) -> Option<String> {
    let (member, ranges) = RANGES
        .iter()
        .find(|(member, _)| file.starts_with(&format!("{member}/")))?;
    let inside = ranges.iter().any(|range| range.contains(&code));
    (!inside).then(|| format!("{file} has ORC-{code}, which is none of the numbers of `{member}`"))
}

/// The Rust files of a crate, in the order of their paths.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let failed = |error| format!("{}: {error}", folder.display());
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let of_tests = path.file_stem().is_some_and(|name| name == "tests");
            match path.is_dir() {
                _ if of_tests => (),
                true => folders.push(path),
                false if path.extension().is_some_and(|end| end == "rs") => found.push(path),
                false => (),
            }
        }
    }
    found.sort();
    Ok(found)
}
