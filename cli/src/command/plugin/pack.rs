//! `orchestrator plugin pack` and `unpack`

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use orchestrator_engine::Home;
use orchestrator_signing::{
    Package, TrustStore, Verified,
    archive::{self, ArchiveError, Unpacked},
};
use serde_json::json;

use crate::{
    audit::{self, About},
    context::Context,
    error::CliError,
    failure::Result,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Pack {
    /// The package's directory; the package has to be signed
    dir: PathBuf,

    /// The archive to write [default: NAME-VERSION.opkg, here]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Pack {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let folder = parent(self.out.as_deref().unwrap_or(Path::new("")));
        let failed = |error| CliError::file("write", folder, error);
        // It has no name before it is whole.
        let mut file = tempfile::Builder::new()
            .permissions(fs::Permissions::from_mode(0o644))
            .tempfile_in(folder)
            .map_err(failed)?;
        audit::about(context, About::claimed(&self.dir));
        let report = archive::pack(&self.dir, &mut file)?;
        file.as_file().sync_all().map_err(failed)?;
        let name = format!("{}-{}.opkg", report.name, report.version);
        let path = self.out.clone().unwrap_or_else(|| name.into());
        persist(file, &path)?;
        let value = json!({
            "path": path,
            "name": report.name,
            "version": report.version,
            "files": report.files,
            "bytes": report.bytes,
            "archive_bytes": report.archive_bytes,
            "sha256": report.digest,
        });
        context.out.show(&value, |_| {
            format!(
                "packed {} {} into {}: {} files, {} bytes\nsha256 {}",
                report.name,
                report.version,
                path.display(),
                report.files,
                report.archive_bytes,
                report.digest
            )
        })
    }
}

/// Gives the file a name that nothing has.
fn persist(file: tempfile::NamedTempFile, path: &Path) -> Result {
    let Err(error) = file.persist_noclobber(path) else {
        return Ok(());
    };
    match error.error.kind() {
        io::ErrorKind::AlreadyExists => Err(ArchiveError::Exists {
            path: path.display().to_string().escape_debug().to_string(),
        }
        .into()),
        _ => Err(CliError::file("write", path, error.error).into()),
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Unpack {
    /// The archive
    file: PathBuf,

    /// The directory to make
    dir: PathBuf,
}

impl Unpack {
    pub(crate) fn execute(self, context: &Context) -> Result {
        let unpacked = archive::unpack(read(&self.file)?, parent(&self.dir))?;
        let (files, bytes) = (unpacked.files(), unpacked.bytes());
        unpacked.keep(&self.dir)?;
        let value = json!({ "path": self.dir, "files": files, "bytes": bytes });
        let dir = self.dir.display();
        context.out.show(&value, |_| {
            format!("unpacked {files} files to {dir}; `plugin verify` says whether to trust them")
        })
    }
}

/// Unpacks an archive to a folder of the home that goes away, and verifies what
/// is in it.
pub(super) fn open(
    context: &Context,
    file: &Path,
    trust: &TrustStore,
) -> Result<(Unpacked, Verified<Package>)> {
    let home = context.home()?;
    make(&home)?;
    let scratch = home.root().join("downloads");
    fs::create_dir_all(&scratch).map_err(|error| CliError::file("write", &scratch, error))?;
    let opened = archive::open(read(file)?, file, &scratch, &trust.root());
    if opened.is_err()
        && let Some(again) = read(file).ok()
        && let Ok(unpacked) = archive::unpack(again, &scratch)
    {
        audit::about(context, About::claimed(unpacked.path()));
    }
    Ok(opened?)
}

/// Makes the home before anything is put below it, which would let others in where
/// the umask does.
pub(super) fn make(home: &Home) -> Result {
    let made = home.make();
    made.map_err(|error| CliError::file("write", home.root(), error).into())
}

/// Whether a path on the command line means an archive.
pub(super) fn is_archive(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file())
}

fn read(path: &Path) -> Result<File> {
    // Opening a pipe would wait for somebody to write to it.
    let file = match is_archive(path) {
        true => File::open(path),
        false => Err(path
            .metadata()
            .err()
            .unwrap_or_else(|| io::Error::other("it is not a file"))),
    };
    file.map_err(|error| CliError::file("read", path, error).into())
}

fn parent(path: &Path) -> &Path {
    let parent = path.parent();
    let named = parent.filter(|parent| !parent.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}
