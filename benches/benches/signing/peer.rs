//! minisign, given the same bytes in one file: the program where there is one,
//! else its algorithms in this process.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use orchestrator_signing::{MinisignSignature, SecretKey};
use tokio::{process::Command, runtime::Runtime};

use crate::{measure::BenchError, package::Signed};

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) enum Peer {
    Program {
        program: PathBuf,
        dir: PathBuf,
        runtime: Runtime,
    },
    /// The file, the key and the newest signature.
    InProcess(Vec<u8>, Box<SecretKey>, MinisignSignature),
}

impl Peer {
    pub(crate) fn new(dir: &Path, package: &Signed) -> Result<Self, BenchError> {
        fs::create_dir(dir)?;
        let Some(program) = find() else {
            let mut bytes = Vec::new();
            package.read(|piece| bytes.extend_from_slice(piece))?;
            let key = SecretKey::generate("peer")?;
            let signature = MinisignSignature::sign(&key, &bytes, "")?;
            return Ok(Self::InProcess(bytes, Box::new(key), signature));
        };
        let mut file = File::create_new(dir.join("file"))?;
        let mut written = Ok(());
        package.read(|piece| {
            if written.is_ok() {
                written = file.write_all(piece);
            }
        })?;
        written?;
        let peer = Self::Program {
            program,
            dir: dir.to_owned(),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        };
        peer.run(&["-G", "-W", "-p", "public", "-s", "secret"])?;
        Ok(peer)
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Program { .. } => "minisign",
            Self::InProcess(..) => "BLAKE2b and Ed25519 in this process, as minisign uses them",
        }
    }

    pub(crate) fn sign(&mut self) -> Result<(), BenchError> {
        match self {
            Self::Program { .. } => self.run(&["-S", "-W", "-m", "file", "-s", "secret"]),
            Self::InProcess(bytes, key, signature) => {
                *signature = MinisignSignature::sign(key, bytes, "")?;
                Ok(())
            }
        }
    }

    pub(crate) fn verify(&self) -> Result<(), BenchError> {
        match self {
            Self::Program { .. } => self.run(&["-V", "-q", "-m", "file", "-p", "public"]),
            Self::InProcess(bytes, key, signature) => Ok(signature.verify(key.public(), bytes)?),
        }
    }

    fn run(&self, args: &[&str]) -> Result<(), BenchError> {
        let Self::Program {
            program,
            dir,
            runtime,
        } = self
        else {
            return Ok(());
        };
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let ended =
            runtime.block_on(async { tokio::time::timeout(LIMIT, command.status()).await })??;
        match ended.success() {
            true => Ok(()),
            false => Err(format!("minisign {args:?}: {ended}").into()),
        }
    }
}

/// The program on `PATH`, else where `cargo xtask test` puts it.
fn find() -> Option<PathBuf> {
    let tools = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../target/tools/minisign/with-its-library"
    );
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join("minisign"));
    found
        .chain([PathBuf::from(tools)])
        .find(|path| path.is_file())
}
