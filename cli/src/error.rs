//! What the command itself finds wrong.

use std::{io, net::SocketAddr, path::PathBuf};

use miette::Diagnostic;
use orchestrator_contract::RunId;
use semver::Version;
use thiserror::Error;

use crate::exit::Exit;

/// What the command itself finds wrong. Errors of the crates below come up
/// with their own codes.
#[derive(Debug, Error, Diagnostic)]
pub(crate) enum CliError {
    /// The operating system refused something nobody expected it to refuse.
    #[error("the operating system refused: {0}")]
    #[diagnostic(code("ORC-5000"), help("check permissions and free space"))]
    Io(io::Error),

    /// A file that was named on the command line, or one of the home, cannot be
    /// used; the reason is that of the operating system.
    #[error("cannot {action} `{}`: {reason}", .path.display())]
    #[diagnostic(
        code("ORC-5001"),
        help("check the path, its permissions and that the disk has room")
    )]
    File {
        action: &'static str,
        path: PathBuf,
        reason: io::Error,
    },

    /// An input has no `=`.
    #[error("`{argument}` is not an input: there is no `=`")]
    #[diagnostic(
        code("ORC-5002"),
        help("write `--input name=value`, `--input name=@file` or `--input @file.json`")
    )]
    Input { argument: String },

    /// The name is neither a file nor a pipeline in the home.
    #[error("there is no pipeline `{name}`")]
    #[diagnostic(
        code("ORC-5003"),
        help("name a file, or a pipeline in `{}` without its ending", .dir.display())
    )]
    UnknownPipeline { name: String, dir: PathBuf },

    /// The key file is encrypted, and the command has no terminal or was told
    /// not to ask.
    #[error("a passphrase is needed and nobody can be asked")]
    #[diagnostic(
        code("ORC-5004"),
        help(
            "run it on a terminal, or give `--passphrase-fd N` or `--passphrase-command PROGRAM`"
        )
    )]
    NoPassphrase,

    /// The descriptor or the program gave nothing usable.
    #[error("the passphrase could not be read: {reason}")]
    #[diagnostic(
        code("ORC-5005"),
        help("a passphrase is one line of at most 1024 bytes")
    )]
    Passphrase { reason: String },

    /// Whoever reaches the address and has the token may run every pipeline.
    #[error("{address} can be reached from other machines")]
    #[diagnostic(
        code("ORC-5006"),
        help(
            "listen on loopback, or set `server.allow_remote` and put something that speaks TLS \
             in front, because this server does not"
        )
    )]
    NotLoopback { address: SocketAddr },

    /// The address is taken, or does not belong to this machine.
    #[error("cannot listen on {address}: {reason}")]
    #[diagnostic(
        code("ORC-5007"),
        help("another process may use the address; choose one with `--listen ADDRESS:PORT`")
    )]
    Listen {
        address: SocketAddr,
        reason: io::Error,
    },

    /// Whoever reads the token may use the API.
    #[error("`{}` may be read by others", .path.display())]
    #[diagnostic(
        code("ORC-5008"),
        help(
            "run `chmod 600` on it; where others may have read it, remove it and start `orchestrator serve` again, which makes a new one"
        )
    )]
    TokenExposed { path: PathBuf },

    /// The file was edited or cut off.
    #[error("`{}` does not hold a token", .path.display())]
    #[diagnostic(
        code("ORC-5009"),
        help("remove the file and start `orchestrator serve` again, which makes a new one")
    )]
    TokenMalformed { path: PathBuf },

    /// A run id has 26 letters and digits, as `run start` prints it.
    #[error("`{text}` is not a run id")]
    #[diagnostic(code("ORC-5010"), help("`orchestrator run list` shows the ids"))]
    RunId { text: String },

    /// It was misspelt, or it is not in this home.
    #[error("`{name}` is not an installed plugin{}", nearest_hint(.nearest.as_deref()))]
    #[diagnostic(
        code("ORC-5011"),
        help("`orchestrator plugin list` shows what is installed")
    )]
    UnknownPlugin {
        name: String,
        nearest: Option<String>,
    },

    /// The argument of `--set` has no `=`.
    #[error("`{text}` is not written KEY=VALUE")]
    #[diagnostic(code("ORC-5012"), help("for instance `--set run.concurrency=4`"))]
    Setting { text: String },

    /// Neither a command nor a topic has that name.
    #[error("there is no help about `{topic}`")]
    #[diagnostic(
        code("ORC-5013"),
        help("`orchestrator help` lists the commands; `exit-codes` is a topic too")
    )]
    UnknownTopic { topic: String },

    /// The pipeline of the run declares no output of that name, or the run has not
    /// succeeded: only a run that succeeded has outputs. Status 404.
    #[error("run {run} has no output `{name}`: {}", there_are(names))]
    #[diagnostic(
        code("ORC-5016"),
        help("`orchestrator run show {run}` shows what became of the run and what it put out")
    )]
    NoOutput {
        run: RunId,
        name: String,
        names: Vec<String>,
    },

    /// The cancellation was asked for, and the run did not end while the command
    /// waited: its engine is busy, has stopped, or the plugin takes its time to end.
    #[error("run {run} has not ended yet")]
    #[diagnostic(
        code("ORC-5017"),
        help("the request stays; `orchestrator run watch {run}` shows when it is taken up")
    )]
    StillRunning { run: RunId },

    /// The file holds no text, is too large, or should hold a JSON object and
    /// does not.
    #[error("`{}` cannot be an input: {reason}", .path.display())]
    #[diagnostic(
        code("ORC-5018"),
        help(
            "an input is text of at most 16 MiB, and a JSON object where the file holds all fields"
        )
    )]
    InputFile { path: PathBuf, reason: String },

    /// Keys are never overwritten: what one of them signed could not be signed again.
    #[error("there is a key at `{}` already", .path.display())]
    #[diagnostic(
        code("ORC-5041"),
        help("choose another name; `orchestrator key list` shows the keys of this home")
    )]
    KeyThere { path: PathBuf },

    /// The digest was learnt over another way than the file, and one of the two
    /// is not what its sender meant.
    #[error("the trust root has the digest {found}, not {wanted}")]
    #[diagnostic(
        code("ORC-5040"),
        help("get both again from whoever makes the root; do not adopt this one")
    )]
    OtherRoot {
        wanted: orchestrator_signing::Digest,
        found: orchestrator_signing::Digest,
    },

    /// A plugin with several phases is learned from one of them at a time.
    #[error("{}", learn_phase(.plugin, .named.as_deref()))]
    #[diagnostic(code("ORC-5065"), help("give `--phase`, one of: {}", .names.join(", ")))]
    LearnPhase {
        plugin: String,
        named: Option<String>,
        names: Vec<String>,
    },

    /// Only a manifest in YAML that lies in a directory of yours is written, and only where
    /// its list of capabilities can be replaced without a change to the rest.
    #[error("the manifest of `{}` cannot be written", .path.display())]
    #[diagnostic(
        code("ORC-5066"),
        help("run it without `--write` and put what it prints into the manifest")
    )]
    ManifestByHand { path: PathBuf },

    /// The command asks a running service, and none runs in this home.
    #[error("no service runs in `{}`", .home.display())]
    #[diagnostic(
        code("ORC-5043"),
        help("start one with `orchestrator serve`, or name its home with `--home`")
    )]
    NoService { home: PathBuf },

    /// The service ended meanwhile, is too busy to answer, or something else has its
    /// address.
    #[error("the service on {address} does not answer: {reason}")]
    #[diagnostic(
        code("ORC-5044"),
        help("look at the service's log; what was to be done may have been done")
    )]
    ServiceGone { address: SocketAddr, reason: String },

    /// It was killed, or gave up a reader that took nothing for too long. A service that is
    /// told to end says so before it does.
    #[error("the service on {address} broke off without saying that it ends")]
    #[diagnostic(
        code("ORC-5067"),
        help(
            "where it is gone, look at its log and start it again with `orchestrator serve`; where it runs, read faster than `server.write_idle_timeout` asks for"
        )
    )]
    ServiceLost { address: SocketAddr },

    /// A service reads the token when it starts, and the file was replaced since.
    #[error("`{}` is not the token of the service on {address}", .path.display())]
    #[diagnostic(
        code("ORC-5068"),
        help("start `orchestrator serve` again: it takes the token that is there now")
    )]
    OtherToken { address: SocketAddr, path: PathBuf },

    /// A plugin was named with a version, and another version after it.
    #[error("it is not clear which version is meant, {one} or {other}")]
    #[diagnostic(
        code("ORC-5069"),
        help("give one version, as NAME@VERSION or after the name")
    )]
    TwoVersions { one: Version, other: Version },

    /// As many clients are connected as may be. Status 503; `/livez`, `/readyz`
    /// and `/metrics` are answered all the same.
    #[error("too many connections")]
    #[diagnostic(
        code("ORC-5058"),
        help("try again later, or raise `server.connections_max`")
    )]
    Full,
}

fn there_are(outputs: &[String]) -> String {
    match outputs {
        [] => "there are none, because only a run that succeeded has outputs".to_owned(),
        names => format!("there are {}", names.join(", ")),
    }
}

fn nearest_hint(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

impl CliError {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, reason: io::Error) -> Self {
        Self::File {
            action,
            path: path.into(),
            reason,
        }
    }

    /// With the nearest of the names there are.
    pub(crate) fn unknown_plugin<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Self {
        let distance = |other: &str| strsim::damerau_levenshtein(name, other);
        let nearest = names
            .map(|other| (distance(other), other))
            .filter(|(distance, _)| *distance <= 1 + name.len() / 3)
            .min();
        Self::UnknownPlugin {
            name: name.to_owned(),
            nearest: nearest.map(|(_, other)| other.to_owned()),
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::File { reason, .. } if reason.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            Self::Io(_) | Self::File { .. } | Self::Passphrase { .. } | Self::KeyThere { .. } => {
                Exit::Failed
            }
            Self::Input { .. }
            | Self::NoPassphrase
            | Self::RunId { .. }
            | Self::Setting { .. }
            | Self::TwoVersions { .. } => Exit::Usage,
            Self::UnknownPipeline { .. }
            | Self::UnknownPlugin { .. }
            | Self::NoOutput { .. }
            | Self::UnknownTopic { .. } => Exit::NotFound,
            Self::StillRunning { .. } => Exit::TimedOut,
            Self::LearnPhase { named: None, .. } => Exit::Usage,
            Self::LearnPhase { .. } => Exit::NotFound,
            Self::InputFile { .. } | Self::ManifestByHand { .. } => Exit::Invalid,
            Self::OtherRoot { .. } => Exit::Trust,
            Self::Full
            | Self::Listen { .. }
            | Self::NoService { .. }
            | Self::ServiceGone { .. }
            | Self::ServiceLost { .. } => Exit::Unreachable,
            Self::NotLoopback { .. }
            | Self::TokenExposed { .. }
            | Self::TokenMalformed { .. }
            | Self::OtherToken { .. } => Exit::Denied,
        }
    }
}

fn learn_phase(plugin: &str, named: Option<&str>) -> String {
    match named {
        Some(named) => format!("{plugin} has no phase `{named}`"),
        None => format!("{plugin} has several phases"),
    }
}
