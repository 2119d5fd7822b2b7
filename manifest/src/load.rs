//! Reads manifests from files and from memory.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use serde_json::Value;

use crate::{
    decode::{self, Context},
    fault::{ManifestError, Rule},
    located::{self, Cause, DEPTH_MAX, Format, Node},
    manifest::Manifest,
    text::quoted,
};

/// The names a manifest can have, in the order they are documented.
pub const FILE_NAMES: [&str; 4] = ["plugin.yaml", "plugin.yml", "plugin.json", "plugin.toml"];
/// Largest manifest in bytes.
pub const FILE_SIZE_MAX: u64 = 1024 * 1024;
/// Most parser events that the YAML aliases of one manifest may stand for.
const REPLAYED_MAX: usize = 20_000;

impl Manifest {
    /// Reads the manifest of the plugin in `dir` and checks that the files it
    /// names are there.
    ///
    /// Symbolic links are followed and nothing is verified: this is for
    /// authors and listings. A plugin that is going to run is read through
    /// the signing crate.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] with every fault found: none or two manifests, text
    /// that cannot be read, broken rules, files that are not there.
    pub fn load(dir: &Path) -> Result<Self, ManifestError> {
        let (name, format) = find(dir)?;
        let path = dir.join(name);
        read_and_decode(&path, format, |cx| {
            for (pointer, span, file) in std::mem::take(&mut cx.files) {
                if !dir.join(&file).is_file() {
                    let message = format!("there is no file `{file}`");
                    let help = "add the file or mend the path";
                    cx.fault_at(&pointer, span, Rule::MissingFile, message, help);
                }
            }
        })
    }

    /// Reads a manifest whatever its file is called, as long as the extension
    /// tells the format. The files it names are not looked for.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn load_file(path: &Path) -> Result<Self, ManifestError> {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let format = Format::from_file_name(name).ok_or_else(|| {
            let message = "the extension is none of yaml, yml, json, toml".to_owned();
            let help = "rename the file";
            ManifestError::whole_file(&path.display().to_string(), Rule::NoManifest, message, help)
        })?;
        read_and_decode(path, format, |_| ())
    }

    /// Reads a manifest from memory. `file` is the name used in messages.
    ///
    /// # Errors
    ///
    /// [`ManifestError`] with every fault found. Files are not looked for.
    pub fn parse(bytes: &[u8], format: Format, file: &str) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > FILE_SIZE_MAX {
            return Err(too_large(file));
        }
        let text = decode_utf8(bytes, file)?;
        let root = parse_text(text, format, file)?;
        let mut cx = Context::new(file, text);
        let manifest = decode::manifest(&mut cx, &root);
        finish(cx, manifest)
    }

    /// Reads a manifest that another program already took apart.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`], without lines and columns.
    pub fn from_value(value: &Value, file: &str) -> Result<Self, ManifestError> {
        let mut cx = Context::new(file, "");
        let manifest = decode::manifest(&mut cx, &Node::from(value));
        finish(cx, manifest)
    }
}

/// Which of the possible manifests is in `dir`.
fn find(dir: &Path) -> Result<(&'static str, Format), ManifestError> {
    let shown = dir.display().to_string();
    let present: Vec<_> = FILE_NAMES
        .into_iter()
        .filter(|name| dir.join(name).symlink_metadata().is_ok())
        .collect();
    match present.as_slice() {
        [name] => Format::from_file_name(name)
            .map(|format| (*name, format))
            .ok_or_else(|| {
                ManifestError::whole_file(&shown, Rule::NoManifest, "unknown format".to_owned(), "")
            }),
        [] => Err(ManifestError::whole_file(
            &shown,
            Rule::NoManifest,
            "no manifest in this folder".to_owned(),
            "write a plugin.yaml, plugin.json or plugin.toml",
        )),
        several => Err(ManifestError::whole_file(
            &shown,
            Rule::TwoManifests,
            format!("several manifests: {}", several.join(", ")),
            "keep one of them",
        )),
    }
}

fn read_and_decode(
    path: &Path,
    format: Format,
    check: impl FnOnce(&mut Context<'_>),
) -> Result<Manifest, ManifestError> {
    let shown = path.display().to_string();
    let bytes = read(path, &shown)?;
    let text = decode_utf8(&bytes, &shown)?;
    let root = parse_text(text, format, &shown)?;
    let mut cx = Context::new(&shown, text);
    let manifest = decode::manifest(&mut cx, &root);
    check(&mut cx);
    finish(cx, manifest)
}

fn read(path: &Path, shown: &str) -> Result<Vec<u8>, ManifestError> {
    let unreadable = |error: io::Error| {
        let help = "the manifest has to be a readable, regular file";
        ManifestError::whole_file(shown, Rule::Unreadable, error.to_string(), help)
    };
    // A FIFO or a device would keep the reader waiting, so it is not opened.
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(unreadable(io::Error::other("not a regular file")));
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_SIZE_MAX + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > FILE_SIZE_MAX {
        return Err(too_large(shown));
    }
    Ok(bytes)
}

fn too_large(shown: &str) -> ManifestError {
    let message = format!("the manifest has more than {FILE_SIZE_MAX} bytes");
    ManifestError::whole_file(
        shown,
        Rule::TooLarge,
        message,
        "move data to files of the package",
    )
}

fn decode_utf8<'a>(bytes: &'a [u8], shown: &str) -> Result<&'a str, ManifestError> {
    std::str::from_utf8(bytes).map_err(|error| {
        let message = format!("not UTF-8 text: {error}");
        ManifestError::whole_file(shown, Rule::Syntax, message, "save the file as UTF-8")
    })
}

fn parse_text(text: &str, format: Format, shown: &str) -> Result<Node, ManifestError> {
    located::parse(text, format, REPLAYED_MAX).map_err(|broken| {
        let (rule, message) = match broken.cause {
            Cause::Syntax(message) => (Rule::Syntax, message),
            Cause::DuplicateKey(key) => {
                (Rule::DuplicateKey, format!("{} stands twice", quoted(&key)))
            }
            Cause::TooDeep => {
                let message = format!("nested more than {DEPTH_MAX} levels deep");
                (Rule::TooDeep, message)
            }
        };
        let mut cx = Context::new(shown, text);
        let span = broken.offset.map(|offset| offset..offset);
        cx.fault_at("", span, rule, message, "mend the text, then check again");
        ManifestError::new(shown, text, cx.faults)
    })
}

fn finish(cx: Context<'_>, manifest: Option<Manifest>) -> Result<Manifest, ManifestError> {
    match manifest {
        Some(manifest) if cx.faults.is_empty() => Ok(manifest),
        _ => {
            let mut faults = cx.faults;
            faults.sort_by_key(|fault| (fault.line.unwrap_or(u32::MAX), fault.column));
            Err(ManifestError::new(cx.file, cx.text, faults))
        }
    }
}
