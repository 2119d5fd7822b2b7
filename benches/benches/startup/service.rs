//! The real binary, started as an operator would.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, timeout},
};

use crate::measure::BenchError;

/// No step takes longer than this.
const PATIENCE: Duration = Duration::from_secs(10);

/// The binary under test.
pub(crate) struct Binary {
    path: PathBuf,
    /// `release` or `debug`, as cargo calls the folder.
    pub(crate) profile: String,
}

impl Binary {
    /// The one built with the same profile as this program, else the other.
    pub(crate) fn find() -> Result<Self, BenchError> {
        let program = env::current_exe()?;
        let own = program
            .ancestors()
            .nth(2)
            .ok_or("this program is not below `target`")?;
        let target = own.parent().ok_or("this program is not below `target`")?;
        let candidates = [own.to_owned(), target.join("release"), target.join("debug")];
        let found = candidates
            .iter()
            .find(|dir| dir.join("orchestrator").is_file());
        let dir =
            found.ok_or("build the binary first: cargo build --release -p orchestrator-cli")?;
        let profile = dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Ok(Self {
            path: dir.join("orchestrator"),
            profile,
        })
    }

    fn command(&self, home: &Path) -> Command {
        let mut command = Command::new(&self.path);
        // Nothing of this machine's own configuration or plugins.
        command
            .env_clear()
            .env("HOME", home)
            .current_dir(home)
            .arg("--home")
            .arg(home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// How long the process takes that does next to nothing.
    pub(crate) async fn version(&self, home: &Path) -> Result<Duration, BenchError> {
        let begun = Instant::now();
        let ended = timeout(PATIENCE, self.command(home).arg("version").output()).await??;
        let elapsed = begun.elapsed();
        match ended.status.success() {
            true => Ok(elapsed),
            false => Err("`orchestrator version` failed".into()),
        }
    }

    /// Starts the service and waits until it says that it is ready.
    pub(crate) async fn serve(&self, home: &Path) -> Result<Service, BenchError> {
        let begun = Instant::now();
        let mut process = self
            .command(home)
            .args(["--json", "serve", "--listen", "127.0.0.1:0"])
            .spawn()?;
        let stdout = process.stdout.take().ok_or("stdout is not there")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = timeout(PATIENCE, lines.next_line()).await??;
        let first = first.ok_or("the service ended before it was ready")?;
        let ready: serde_json::Value = serde_json::from_str(&first)?;
        let address = ready["address"]
            .as_str()
            .ok_or("the first line names no address")?;
        let service = Service {
            address: address.to_owned(),
            process,
            started_in: Duration::ZERO,
        };
        if !service.get("/readyz").await?.starts_with("HTTP/1.1 200") {
            return Err("the service is not ready".into());
        }
        Ok(Service {
            started_in: begun.elapsed(),
            ..service
        })
    }
}

/// A service that runs; it ends when this is dropped.
pub(crate) struct Service {
    process: Child,
    address: String,
    /// From before the process was made to the first answer.
    pub(crate) started_in: Duration,
}

impl Service {
    /// The answer to one request, head and body.
    pub(crate) async fn get(&self, path: &str) -> Result<String, BenchError> {
        let asking = async {
            let mut stream = TcpStream::connect(&self.address).await?;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, io::Error>(answer)
        };
        Ok(timeout(PATIENCE, asking).await??)
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> Result<u64, BenchError> {
        let pid = self.process.id().ok_or("the service has ended")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kib
            .ok_or("the kernel does not say how much memory it holds")?
            .parse::<u64>()?
            << 10)
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn stop(mut self) -> Result<(), BenchError> {
        let pid = self
            .process
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        kill_process(pid.ok_or("the service has ended")?, Signal::TERM)?;
        timeout(PATIENCE, self.process.wait()).await??;
        Ok(())
    }
}
