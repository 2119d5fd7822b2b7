//! Who starts the program, and how.

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use orchestrator_sandbox::{Confinement, Grants, Image, Layer, Layers, Limits, Spec, spawn};
use tokio::runtime::Runtime;

use crate::measure::BenchError;

/// What is started, which ends at once.
const PROGRAM: &str = "/usr/bin/true";
/// Where `cargo xtask peers` puts it when it is not installed.
const BWRAP: &str = "../target/tools/bubblewrap/usr/bin/bwrap";
/// What every program of ours sees without a grant; `bwrap` is to show no more.
const LIBRARIES: [&str; 5] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
];
const DEVICES: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// One way to start the program.
pub(crate) struct Contender {
    pub(crate) name: String,
    way: Way,
}

enum Way {
    /// By the standard library, which takes `posix_spawn`.
    Command(PathBuf, Vec<String>),
    Sandbox(Image, Option<Confinement>),
}

impl Contender {
    pub(crate) fn bare() -> Self {
        Self {
            name: "bare".to_owned(),
            way: Way::Command(PROGRAM.into(), Vec::new()),
        }
    }

    /// By the sandbox with the most layers that are `wanted`, all of which must be there.
    /// What is granted is to read `readable`.
    pub(crate) fn ours(
        name: &str,
        wanted: Option<Layers>,
        readable: &Path,
    ) -> Result<Self, BenchError> {
        let grants = Grants::new().own_processes().read(readable);
        let confinement = wanted.map(|layers| Confinement::new(&grants, layers, layers));
        Ok(Self {
            name: name.to_owned(),
            way: Way::Sandbox(
                Image::interpreter(Path::new(PROGRAM))?,
                confinement.transpose()?,
            ),
        })
    }

    /// By `bwrap`, where there is one, with the same granted.
    pub(crate) fn bwrap(readable: &Path) -> Option<Self> {
        let installed = env::var_os("PATH").and_then(|path| {
            let mut places = env::split_paths(&path).map(|place| place.join("bwrap"));
            places.find(|place| place.is_file())
        });
        let unpacked = || Path::new(env!("CARGO_MANIFEST_DIR")).join(BWRAP);
        let program = installed.or_else(|| Some(unpacked()).filter(|it| it.is_file()))?;
        Some(Self {
            name: "bwrap, the same granted".to_owned(),
            way: Way::Command(program, bwrap_arguments(readable)),
        })
    }

    /// Starts the program, waits for its end and tells what processor time is known of it
    /// alone.
    pub(crate) fn start(&self, runtime: &Runtime) -> Result<Duration, BenchError> {
        match &self.way {
            Way::Command(program, arguments) => by_command(program, arguments),
            Way::Sandbox(image, confinement) => {
                runtime.block_on(by_sandbox(image, confinement.as_ref()))
            }
        }
    }
}

/// The layers that need nothing but the kernel, then one more at a time.
pub(crate) const STAIRS: [(&str, Layers); 4] = [
    ("landlock, filter, limits", Layers::FILTERS),
    (
        "… and processes of its own",
        Layers::FILTERS.with(Layer::Processes),
    ),
    ("… and a private root", Layers::ALL.without(Layer::Network)),
    ("every layer", Layers::ALL),
];

#[expect(
    clippy::disallowed_types,
    reason = "this is how others start a process"
)]
fn by_command(program: &Path, arguments: &[String]) -> Result<Duration, BenchError> {
    let mut command = std::process::Command::new(program);
    match command.args(arguments).env_clear().status()?.success() {
        true => Ok(Duration::ZERO),
        false => Err(format!("{} failed", program.display()).into()),
    }
}

async fn by_sandbox(
    image: &Image,
    confinement: Option<&Confinement>,
) -> Result<Duration, BenchError> {
    // As a plugin has them.
    let limits = Limits {
        data_bytes: Some(1 << 30),
        open_files: Some(256),
        file_bytes: Some(1 << 30),
        processes: confinement.map(|_| 512),
        ..Limits::default()
    };
    let spec = Spec::new(image, "true").limits(limits);
    let spec = match confinement {
        Some(confinement) => spec.confinement(confinement),
        None => spec,
    };
    let child = spawn(spec).await?;
    let status = child.ended().await?;
    match status.success() {
        true => Ok(child.cpu_time().unwrap_or_default()),
        false => Err(format!("the program ended with {status}").into()),
    }
}

fn bwrap_arguments(readable: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
        "--cap-drop",
        "ALL",
        "--proc",
        "/proc",
    ]
    .map(str::to_owned)
    .into();
    let mut add = |option: &str, from: &Path, to: &Path| {
        let [from, to] = [from, to].map(|path| path.display().to_string());
        arguments.extend([option.to_owned(), from, to]);
    };
    for path in LIBRARIES.map(Path::new) {
        match path.read_link() {
            Ok(target) => add("--symlink", &target, path),
            Err(_) if path.exists() => add("--ro-bind", path, path),
            Err(_) => {}
        }
    }
    for path in DEVICES.map(Path::new) {
        add("--dev-bind", path, path);
    }
    for path in [Path::new(PROGRAM), readable] {
        add("--ro-bind", path, path);
    }
    arguments.extend(["--remount-ro", "/", PROGRAM].map(str::to_owned));
    arguments
}
