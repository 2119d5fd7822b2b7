//! What runs when a native plugin runs: verified bytes, sealed or in a private
//! tree, the arguments around them, and what holds it to its grants.

use std::{ffi::OsString, io, os::fd::RawFd, path::Path, sync::Arc};

use miette::Diagnostic;
use orchestrator_manifest::Manifest;
use orchestrator_sandbox::{
    Grants, Image, ImageError, ReadOnlyTree, RunDirectory, SCRATCH, Spec, TreeError,
};
use orchestrator_signing::{PackageFile, VerifyError};

use crate::{confinement::Hold, egress::Egress, error::LoadError, learn::Lessons, limits::Bounds};

/// Where programs that are looked up by name are found.
const PATH: &str = "/usr/bin:/bin";
/// The directory of the package's signatures, which no plugin needs.
const META: &str = "META/";

/// What runs when a native plugin runs.
#[derive(Debug)]
pub(crate) struct Program {
    executable: Executable,
    hold: Hold,
    bounds: Arc<Bounds>,
    egress: Option<Egress>,
}

/// A program that nothing holds to its grants yet, so that nothing can start it. The
/// bytes were verified and cannot change: they are sealed in memory, and files that need
/// paths are in a private tree.
#[derive(Debug)]
pub(crate) struct Executable {
    image: Image,
    name: OsString,
    /// A script that the image is the interpreter of, read through a descriptor.
    script: Option<Image>,
    /// Arguments between the program's name and what the protocol adds; a sealed
    /// script comes first.
    arguments: Vec<OsString>,
    tree: Option<ReadOnlyTree>,
}

/// Why a verified package cannot be made to run.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub(crate) enum ProgramError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Package(#[from] VerifyError),
    #[error(transparent)]
    #[diagnostic(transparent)]
    Load(#[from] LoadError),
}

impl Executable {
    /// Seals the entry point and, when the package has further files, writes all of
    /// them to a private tree. Blocks on both.
    pub(crate) fn prepare(
        manifest: &Manifest,
        files: &[&PackageFile],
        run: &mut impl FnMut() -> Result<RunDirectory, TreeError>,
    ) -> Result<Self, ProgramError> {
        let entry_point = manifest.entry_point.as_str();
        let entry = files
            .iter()
            .find(|file| file.path().as_str() == entry_point);
        let entry = entry.ok_or_else(|| LoadError::NoEntry {
            entry: entry_point.to_owned(),
        })?;
        let tree = match has_assets(entry_point, files) {
            true => Some(materialise(files, &run()?)?),
            false => None,
        };
        let seal = || -> Result<Image, ProgramError> {
            Ok(Image::seal(entry_point, entry.open()?, entry.size())?)
        };
        let own = manifest.args.iter().map(OsString::from);
        let (image, name, script, arguments) = match (&manifest.interpreter, &tree) {
            (None, _) => (seal()?, entry_point.into(), None, own.collect()),
            (Some(interpreter), Some(tree)) => {
                let script = tree.path().join(entry_point).into_os_string();
                let image = Image::interpreter(Path::new(interpreter))?;
                let arguments = std::iter::once(script).chain(own).collect();
                (image, interpreter.into(), None, arguments)
            }
            (Some(interpreter), None) => {
                let image = Image::interpreter(Path::new(interpreter))?;
                (image, interpreter.into(), Some(seal()?), own.collect())
            }
        };
        Ok(Self {
            image,
            name,
            script,
            arguments,
            tree,
        })
    }

    /// What it needs of the machine besides what every program does: to read its own
    /// files, and to see its own processes, which is how a sealed script is read. Where the
    /// bytes that it may have in files are bounded, it has room for so many.
    pub(crate) fn needs(&self, disk_bytes: Option<u64>) -> Grants {
        let grants = Grants::new().own_processes();
        let grants = match disk_bytes {
            Some(bytes) => grants.scratch(bytes),
            None => grants,
        };
        match &self.tree {
            Some(tree) => grants.read(tree.path()),
            None => grants,
        }
    }

    /// The program, held to its grants by `hold` and to its limits by `bounds`.
    pub(crate) fn held_by(self, hold: Hold, bounds: Arc<Bounds>) -> Program {
        Program {
            executable: self,
            hold,
            bounds,
            egress: None,
        }
    }

    fn spec(
        &self,
        script_at: RawFd,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> io::Result<Spec> {
        let mut spec = Spec::new(&self.image, self.name.clone())
            .variable("LANG", "C.UTF-8")
            .variable("PATH", PATH);
        if let Some(script) = &self.script {
            spec = spec
                .descriptor(script_at, script.reader()?)
                .argument(format!("/proc/self/fd/{script_at}"));
        }
        if let Some(tree) = &self.tree {
            spec = spec.variable("ORCHESTRATOR_PLUGIN_DIR", tree.path());
        }
        Ok(spec
            .arguments(self.arguments.iter().cloned())
            .arguments(arguments))
    }
}

impl Program {
    /// A process of this program with `arguments` behind its own, and nothing but
    /// the variables that every plugin gets and those that were granted, held to what
    /// was granted. A sealed script becomes descriptor `script_at`.
    pub(crate) fn spec(
        &self,
        script_at: RawFd,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> io::Result<Spec> {
        let mut spec = self.executable.spec(script_at, arguments)?;
        if self.bounds.has_room() {
            spec = spec.variable("TMPDIR", SCRATCH);
        }
        let told = self.bounds.tell();
        Ok(self.hold.onto(spec.limits(told.each).group(told.all)))
    }

    /// The same with a way out of its network, where it was granted part of one.
    pub(crate) fn let_out(mut self, by: impl FnOnce(&Hold) -> Egress) -> Self {
        self.egress = self.hold.has_proxy().then(|| by(&self.hold));
        self
    }

    /// Who takes note of what its processes do.
    pub(crate) fn lessons(&self) -> Option<&Lessons> {
        self.hold.lessons()
    }

    /// Whether the kernel ends its processes at calls that nothing grants.
    pub(crate) fn filters_calls(&self) -> bool {
        self.hold.filters_calls()
    }

    /// The way out of the network of its processes.
    pub(crate) fn egress(&self) -> Option<&Egress> {
        self.egress.as_ref()
    }
}

/// Whether there is more than the manifest, the entry point and the signatures.
fn has_assets(entry_point: &str, files: &[&PackageFile]) -> bool {
    files.iter().map(|file| file.path().as_str()).any(|path| {
        let is_manifest = orchestrator_manifest::FILE_NAMES.contains(&path);
        !is_manifest && path != entry_point && !path.starts_with(META)
    })
}

fn materialise(files: &[&PackageFile], run: &RunDirectory) -> Result<ReadOnlyTree, ProgramError> {
    let mut tree = run.tree()?;
    let files = files.iter();
    for file in files.filter(|file| !file.path().as_str().starts_with(META)) {
        let path = Path::new(file.path().as_str());
        tree.add(path, file.mode().installed(), file.open()?, file.size())?;
    }
    Ok(tree.finish()?)
}
