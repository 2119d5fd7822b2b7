//! Finds a pipeline by file or by name.

use std::{path::Path, sync::Arc};

use orchestrator_engine::{EngineError, pipeline::Pipeline};

use crate::{error::CliError, failure::Result};

/// The endings of a pipeline's file.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// Reads a pipeline from a file, or by its name in `dir`.
pub(crate) fn from_file_or_name(text: &str, dir: &Path) -> Result<Arc<Pipeline>> {
    let path = Path::new(text);
    let looks_like_a_file = text.contains('/') || path.extension().is_some();
    match looks_like_a_file || path.is_file() {
        true => load(path),
        false => by_name(text, dir),
    }
}

/// Reads the pipeline called `name` in `dir`.
pub(crate) fn by_name(name: &str, dir: &Path) -> Result<Arc<Pipeline>> {
    let unknown = || CliError::UnknownPipeline {
        name: name.to_owned(),
        dir: dir.to_owned(),
    };
    // A name that comes from outside must not lead elsewhere.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(unknown().into());
    }
    let candidates = ENDINGS.map(|ending| dir.join(format!("{name}.{ending}")));
    let found = candidates.iter().find(|path| path.is_file());
    load(found.ok_or_else(unknown)?)
}

fn load(path: &Path) -> Result<Arc<Pipeline>> {
    if let Err(error) = std::fs::metadata(path) {
        return Err(CliError::file("read", path, error).into());
    }
    let pipeline = Pipeline::load(path).map_err(EngineError::from)?;
    Ok(Arc::new(pipeline))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn a_name_never_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("pipelines");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(dir.path().join("secret.yaml"), "x").unwrap();
        for name in [
            "../secret",
            "",
            "a/b",
            "secret",
            "a\0",
            "..",
            &"a".repeat(65),
        ] {
            let failure = by_name(name, &inner).unwrap_err();
            assert_eq!(failure.exit, Exit::NotFound, "{name:?}");
        }
    }
}
