//! Which services of a home run, and how a command asks them.
//!
//! A service keeps a locked file with its address below the home for as long as it
//! lives. The kernel takes the lock away with the process, however it ends, so that
//! a file without one is what is left of a dead service.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use orchestrator_engine::Home;
use orchestrator_plugin_runtime::{PluginProblem, ProblemClass};
use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};
use serde_json::Value;
use ureq::{Agent, Body, http::Response};

use crate::{
    error::CliError,
    exit::Exit,
    failure::{Failure, Result},
    serve::Token,
};

/// What a service writes down is short.
const FILE_BYTES_MAX: u64 = 4_096;
/// How long a service may take to be reached.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

fn dir(home: &Home) -> PathBuf {
    home.root().join("services")
}

/// Tells commands that a service runs, until it is dropped.
pub(crate) struct Presence {
    path: PathBuf,
    _locked: File,
}

impl Presence {
    pub(crate) fn tell(home: &Home, address: SocketAddr) -> Result<Self> {
        let dir = dir(home);
        let failed = |error| CliError::file("write", &dir, error);
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&dir);
        made.map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(&dir).map_err(failed)?;
        // Nobody sees the file before it is locked and whole.
        flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed(error.into()))?;
        file.write_all(address.to_string().as_bytes())
            .map_err(failed)?;
        let path = dir.join(format!("{:016x}.service", random()?));
        let locked = file.persist(&path).map_err(|error| failed(error.error))?;
        Ok(Self {
            path,
            _locked: locked,
        })
    }
}

fn random() -> Result<u64> {
    Ok(getrandom::u64().map_err(io::Error::other)?)
}

impl Drop for Presence {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}

/// A service that runs.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    bearer: String,
    token_file: PathBuf,
}

/// The services of `home` that run.
pub(crate) fn running(home: &Home) -> Result<Vec<Service>> {
    let reached = addresses(home)?.into_iter().map(|address| {
        let token = Token::of(home)?;
        Ok(Service {
            address,
            bearer: format!("Bearer {}", token.value()),
            token_file: token.path().to_owned(),
        })
    });
    reached.collect()
}

/// Where the services of `home` listen that run.
pub(crate) fn addresses(home: &Home) -> Result<Vec<SocketAddr>> {
    let dir = dir(home);
    let failed = |error| CliError::file("read", &dir, error);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut addresses = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let is_one = path.extension().is_some_and(|it| it == "service");
        if !is_one {
            continue;
        }
        addresses.extend(alive(&path).map_err(failed)?);
    }
    addresses.sort();
    Ok(addresses)
}

/// `the service on A knows`, `the services on A and B know`.
pub(crate) fn those_on(addresses: &[&str], one: &str, several: &str) -> String {
    match addresses {
        [only] => format!("the service on {only} {one}"),
        [first @ .., last] => {
            let first = first.join(", ");
            format!("the services on {first} and {last} {several}")
        }
        [] => format!("no service {one}"),
    }
}

/// Where a service listens; nothing when it is dead, whose file is removed then.
fn alive(path: &Path) -> io::Result<Option<SocketAddr>> {
    // Whatever lies there, nobody waits for its other end.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        file => File::from(file?),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {
            fs::remove_file(path).ok();
            return Ok(None);
        }
        Err(Errno::WOULDBLOCK) => {}
        Err(error) => return Err(error.into()),
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    let address: SocketAddr = text.trim().parse().map_err(io::Error::other)?;
    Ok(Some(reachable(address)))
}

/// A service that listens everywhere is asked on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

impl Service {
    /// Asks something that changes nothing. Blocks.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        let request = self.agent(None).get(self.url(path));
        self.answer(request.header("Authorization", &self.bearer).call())
    }

    /// Has something done, which may take `patience`. Blocks.
    pub(crate) fn post(&self, path: &str, patience: Duration) -> Result<Value> {
        let request = self.agent(Some(patience)).post(self.url(path));
        self.answer(request.header("Authorization", &self.bearer).send_empty())
    }

    /// Has `body` put in the place of what is there, which may take `patience`. Blocks.
    pub(crate) fn put(&self, path: &str, body: &Value, patience: Duration) -> Result<Value> {
        let request = self.agent(Some(patience)).put(self.url(path));
        let request = request.header("Authorization", &self.bearer);
        let request = request.header("Content-Type", "application/json");
        self.answer(request.send(body.to_string()))
    }

    /// Hands every event of a stream to `take`, its name and its data, until the
    /// service says that it ends or `take` fails. Blocks.
    ///
    /// # Errors
    ///
    /// [`CliError::ServiceLost`] when the stream breaks off.
    pub(crate) fn follow(&self, path: &str, mut take: impl FnMut(&str, Value) -> Result) -> Result {
        let agent = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .build()
            .new_agent();
        let request = agent.get(self.url(path));
        let response = request.header("Authorization", &self.bearer).call();
        let response = response.map_err(|error| self.unreachable(error))?;
        if !response.status().is_success() {
            return self.answer(Ok(response)).map(drop);
        }
        let reader = BufReader::new(response.into_body().into_reader());
        let mut name = String::new();
        for line in reader.lines() {
            let Ok(line) = line else { break };
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if name == "end" {
                return Ok(());
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data = serde_json::from_str(data).map_err(|_| self.no_service())?;
                take(&name, data)?;
            }
        }
        let address = self.address;
        Err(CliError::ServiceLost { address }.into())
    }

    fn agent(&self, patience: Option<Duration>) -> Agent {
        let patience = patience.unwrap_or(CONNECT * 4);
        Agent::config_builder()
            // It is on this machine, whatever the environment says.
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(patience))
            .build()
            .new_agent()
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/api/v1{path}", self.address)
    }

    /// The document in an answer, or what it says is wrong.
    fn answer(&self, answer: std::result::Result<Response<Body>, ureq::Error>) -> Result<Value> {
        let mut response = answer.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let body = response.body_mut().with_config().limit(ANSWER_BYTES_MAX);
        let text = body
            .read_to_string()
            .map_err(|error| self.unreachable(error))?;
        let value: Value = serde_json::from_str(&text).map_err(|_| self.no_service())?;
        match status.as_u16() {
            200..300 => Ok(value),
            401 => Err(CliError::OtherToken {
                address: self.address,
                path: self.token_file.clone(),
            }
            .into()),
            status => Err(refusal(status, &value)),
        }
    }

    fn unreachable(&self, error: ureq::Error) -> CliError {
        CliError::ServiceGone {
            address: self.address,
            reason: error.to_string(),
        }
    }

    fn no_service(&self) -> CliError {
        CliError::ServiceGone {
            address: self.address,
            reason: "its answer is not one of an Orchestrator service".to_owned(),
        }
    }
}

/// What a service refused, in its own words.
fn refusal(status: u16, problem: &Value) -> Failure {
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let exit = match status {
        400 | 422 => Exit::Invalid,
        403 => Exit::Denied,
        404 => Exit::NotFound,
        408 => Exit::TimedOut,
        503 => Exit::Unreachable,
        _ => Exit::Failed,
    };
    let problem = PluginProblem {
        class: ProblemClass::Failed,
        code: text("code"),
        message: text("detail"),
        help: text("help"),
    };
    Failure::new(exit, problem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_knows_and_several_know() {
        let said = |addresses: &[&str]| those_on(addresses, "knows", "know");
        assert_eq!(said(&["a:1"]), "the service on a:1 knows");
        assert_eq!(said(&["a:1", "b:2"]), "the services on a:1 and b:2 know");
        let three = said(&["a:1", "b:2", "c:3"]);
        assert_eq!(three, "the services on a:1, b:2 and c:3 know");
    }

    #[test]
    fn a_service_is_known_as_long_as_it_lives() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::at(dir.path()).unwrap();
        assert!(running(&home).unwrap().is_empty());
        let everywhere = "0.0.0.0:7878".parse().unwrap();
        let presence = Presence::tell(&home, everywhere).unwrap();
        let other = Presence::tell(&home, "[::1]:7879".parse().unwrap()).unwrap();
        let known: Vec<_> = running(&home).unwrap();
        let known: Vec<_> = known.iter().map(|it| it.address.to_string()).collect();
        assert_eq!(known, ["127.0.0.1:7878", "[::1]:7879"]);
        drop(other);
        assert_eq!(running(&home).unwrap().len(), 1);

        // As after SIGKILL: the file is there, and nobody holds its lock.
        let left = presence.path.clone();
        let copy = left.with_file_name("dead.service");
        fs::copy(&left, &copy).unwrap();
        assert_eq!(running(&home).unwrap().len(), 1);
        assert!(!copy.exists() && left.exists());
    }
}
