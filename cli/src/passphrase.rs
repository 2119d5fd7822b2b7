//! Where the passphrase of a key comes from: a terminal, a descriptor or an
//! agent's command. Never the command line or the environment, where other
//! processes can read it.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    process::Stdio,
    time::Duration,
};

use orchestrator_signing::{Kdf, Protection};
use tokio::{io::AsyncReadExt as _, process::Command, time::timeout};
use zeroize::Zeroizing;

use crate::{context::Context, error::CliError, failure::Result};

/// The longest passphrase, in bytes.
const LENGTH_MAX: u64 = 1_024;
/// How long an agent may take; it may have to ask a person.
const AGENT_PATIENCE: Duration = Duration::from_secs(120);

/// Where to get a passphrase, as the command line says.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Source {
    /// Read the passphrase from this open file descriptor
    #[arg(long, value_name = "N", conflicts_with = "passphrase_command")]
    passphrase_fd: Option<u32>,

    /// Run this program and read the passphrase from its output; words are
    /// separated by spaces and no shell is involved
    #[arg(long, value_name = "PROGRAM", alias = "passphrase-cmd")]
    passphrase_command: Option<String>,
}

/// Where to get the passphrase of a key file that is written, where the one of
/// another is read too.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct NewSource {
    /// Read the new passphrase from this open file descriptor
    #[arg(long, value_name = "N", conflicts_with = "new_passphrase_command")]
    new_passphrase_fd: Option<u32>,

    /// Run this program and read the new passphrase from its output
    #[arg(long, value_name = "PROGRAM", alias = "new-passphrase-cmd")]
    new_passphrase_command: Option<String>,

    /// Do not encrypt the secret key: whoever reads its file can sign
    #[arg(long, conflicts_with_all = ["new_passphrase_fd", "new_passphrase_command"])]
    no_passphrase: bool,
}

impl NewSource {
    /// Whether the command line says anything about it.
    pub(crate) fn is_given(&self) -> bool {
        let has_source = self.new_passphrase_fd.is_some() || self.new_passphrase_command.is_some();
        has_source || self.no_passphrase
    }

    /// How to protect the file of the key `name`; asks when nothing is said.
    pub(crate) async fn protection(&self, context: &Context, name: &str) -> Result<Protection> {
        if self.no_passphrase {
            return Ok(Protection::None);
        }
        let source = Source {
            passphrase_fd: self.new_passphrase_fd,
            passphrase_command: self.new_passphrase_command.clone(),
        };
        let passphrase = source.new_one(name, context.may_ask()).await?;
        Ok(Protection::Passphrase(passphrase, Kdf::RECOMMENDED))
    }
}

impl Source {
    /// Gets a passphrase that exists already.
    pub(crate) async fn existing(&self, key: &str, may_ask: bool) -> Result<Zeroizing<String>> {
        match self.without_asking().await? {
            Some(passphrase) => Ok(passphrase),
            None => ask(&format!("Passphrase of {key}: "), may_ask),
        }
    }

    /// Gets a new passphrase, which a person types twice.
    pub(crate) async fn new_one(&self, key: &str, may_ask: bool) -> Result<Zeroizing<String>> {
        if let Some(passphrase) = self.without_asking().await? {
            return Ok(passphrase);
        }
        let first = ask(&format!("New passphrase for {key}: "), may_ask)?;
        if first.is_empty() {
            let reason = "it is empty".to_owned();
            return Err(CliError::Passphrase { reason }.into());
        }
        let second = ask("The same again: ", may_ask)?;
        match *first == *second {
            true => Ok(first),
            false => {
                let reason = "the two differ".to_owned();
                Err(CliError::Passphrase { reason }.into())
            }
        }
    }

    async fn without_asking(&self) -> Result<Option<Zeroizing<String>>> {
        if let Some(descriptor) = self.passphrase_fd {
            return from_descriptor(descriptor).map(Some);
        }
        match &self.passphrase_command {
            Some(command) => from_command(command).await.map(Some),
            None => Ok(None),
        }
    }
}

fn failed(reason: impl ToString) -> CliError {
    CliError::Passphrase {
        reason: reason.to_string(),
    }
}

fn ask(prompt: &str, may_ask: bool) -> Result<Zeroizing<String>> {
    if !may_ask || !io::stdin().is_terminal() {
        return Err(CliError::NoPassphrase.into());
    }
    let typed = rpassword::prompt_password(prompt).map_err(failed)?;
    Ok(Zeroizing::new(typed))
}

/// Reads through the name of the descriptor, which opens it anew and leaves
/// the one we inherited alone.
fn from_descriptor(descriptor: u32) -> Result<Zeroizing<String>> {
    let file = File::open(format!("/dev/fd/{descriptor}")).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(LENGTH_MAX as usize + 2));
    file.take(LENGTH_MAX + 2)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    first_line(&bytes)
}

async fn from_command(command: &str) -> Result<Zeroizing<String>> {
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| failed("no program is named"))?;
    // The operator's own program, with the operator's own rights: not a plugin.
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(format!("`{program}`: {error}")))?;
    let answer = async {
        let mut bytes = Zeroizing::new(Vec::with_capacity(LENGTH_MAX as usize + 2));
        if let Some(stdout) = child.stdout.take() {
            stdout.take(LENGTH_MAX + 2).read_to_end(&mut bytes).await?;
        }
        Ok::<_, io::Error>((bytes, child.wait().await?))
    };
    let (bytes, status) = timeout(AGENT_PATIENCE, answer)
        .await
        .map_err(|_| {
            failed(format!(
                "`{program}` did not answer within {AGENT_PATIENCE:?}"
            ))
        })?
        .map_err(failed)?;
    match status.success() {
        true => first_line(&bytes),
        false => Err(failed(format!("`{program}` ended with {status}")).into()),
    }
}

/// A passphrase without the line end that follows it.
fn first_line(bytes: &[u8]) -> Result<Zeroizing<String>> {
    let text = std::str::from_utf8(bytes).map_err(|_| failed("it is not UTF-8"))?;
    let line = text.split(['\r', '\n']).next().unwrap_or_default();
    if line.is_empty() {
        return Err(failed("it is empty").into());
    }
    if line.len() as u64 > LENGTH_MAX {
        return Err(failed("it is too long").into());
    }
    Ok(Zeroizing::new(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_end_is_taken_off() {
        assert_eq!(*first_line(b" a b \r\nmore").unwrap(), " a b ");
        assert_eq!(*first_line(b"without one").unwrap(), "without one");
        assert!(first_line(b"\n").is_err());
        assert!(first_line(&[b'a'; 1_025]).is_err());
        assert!(first_line(&[0xff]).is_err());
    }

    #[tokio::test]
    async fn an_agent_is_run_without_a_shell() {
        let source = |command: &str| Source {
            passphrase_fd: None,
            passphrase_command: Some(command.to_owned()),
        };
        let said = source("echo open $HOME").existing("k", false).await;
        assert_eq!(*said.unwrap(), "open $HOME");
        assert!(source("false").existing("k", false).await.is_err());
        assert!(source("/nonexistent").existing("k", false).await.is_err());
    }

    #[tokio::test]
    async fn nobody_is_asked_where_nobody_may_be() {
        let failure = Source::default().existing("k", false).await.unwrap_err();
        assert_eq!(failure.exit, crate::exit::Exit::Usage);
    }
}
