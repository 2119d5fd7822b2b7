//! Who signs: a secret key in a file, or a program that has one in hardware or
//! behind a service. Both get the same bytes and give 64 back.

use std::{process::Stdio, time::Duration};

use miette::Diagnostic;
use orchestrator_signing::{
    MinisignSignature, PublicKey, ReleasePayload, SIGNATURE_LEN, SecretKey, SignError,
};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};

use crate::{
    command::key,
    context::Context,
    exit::Exit,
    failure::{Failure, Result},
    passphrase::Source,
};

/// How long a program may take; a person may have to press a button.
const PATIENCE: Duration = Duration::from_secs(120);

/// Which key signs, as the command line says.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct KeyArgs {
    /// A secret key file, or the name of a key of this home
    #[arg(long, value_name = "KEY", required_unless_present = "key_command")]
    key: Option<String>,

    /// Have this program sign: it gets the bytes to be signed on its standard input
    /// and writes the 64 bytes of the Ed25519 signature; words are separated by
    /// spaces and no shell is involved
    #[arg(
        long,
        value_name = "PROGRAM",
        alias = "key-cmd",
        conflicts_with = "key",
        requires = "public"
    )]
    key_command: Option<String>,

    /// The public key of the program's key: a file, or the name of a key of this home
    #[arg(long, value_name = "KEY", requires = "key_command")]
    public: Option<String>,

    #[command(flatten)]
    passphrase: Source,
}

/// Why a program did not sign.
#[derive(Debug, Error, Diagnostic)]
pub(crate) enum SignerError {
    /// It is not there, cannot be run, or ended badly.
    #[error("`{program}` did not sign: {reason}")]
    #[diagnostic(
        code("ORC-5030"),
        help("what it wrote to its standard error is above; nothing was written")
    )]
    Failed { program: String, reason: String },

    /// It is waiting for somebody, or hangs.
    #[error("`{program}` did not sign within {PATIENCE:?} and was stopped")]
    #[diagnostic(
        code("ORC-5031"),
        help("see whether its key waits for somebody to confirm; nothing was written")
    )]
    TooSlow { program: String },

    /// Hex, base64, an ASN.1 structure or another algorithm's signature.
    #[error("`{program}` wrote {} bytes, an Ed25519 signature has {SIGNATURE_LEN}", many(*.found))]
    #[diagnostic(
        code("ORC-5032"),
        help("let it write the raw signature and nothing else; nothing was written")
    )]
    WrongLength { program: String, found: usize },

    /// Another key, another algorithm, or a signature of a hash of the bytes.
    #[error(
        "what `{program}` wrote is not the signature of the key `{key}` over what it was given"
    )]
    #[diagnostic(
        code("ORC-5033"),
        help(
            "check that `--public` belongs to its key, and that it signs the bytes themselves with pure Ed25519; nothing was written"
        )
    )]
    WrongSignature { program: String, key: String },
}

fn many(found: usize) -> String {
    match found > SIGNATURE_LEN {
        true => format!("more than {SIGNATURE_LEN}"),
        false => found.to_string(),
    }
}

impl From<SignerError> for Failure {
    fn from(error: SignerError) -> Self {
        let exit = match &error {
            SignerError::WrongSignature { .. } => Exit::Trust,
            _ => Exit::Failed,
        };
        Self::new(exit, error)
    }
}

/// Somebody who signs.
pub(crate) enum Signer {
    Secret(Box<SecretKey>),
    Program {
        command: String,
        public: Box<PublicKey>,
    },
}

impl KeyArgs {
    /// Gets the key, asking for its passphrase when it has one.
    pub(crate) async fn signer(&self, context: &Context) -> Result<Signer> {
        match (&self.key_command, &self.public, &self.key) {
            (Some(command), Some(public), _) => Ok(Signer::Program {
                command: command.clone(),
                public: Box::new(key::public(context, public)?),
            }),
            (_, _, named) => {
                let named = named.as_deref().unwrap_or_default();
                let key = key::secret(context, named, &self.passphrase).await?;
                Ok(Signer::Secret(Box::new(key)))
            }
        }
    }
}

impl Signer {
    pub(crate) fn public(&self) -> &PublicKey {
        match self {
            Self::Secret(key) => key.public(),
            Self::Program { public, .. } => public,
        }
    }

    /// Signs `message`. What a program gives back is verified here, so a wrong
    /// signature goes nowhere.
    ///
    /// Dropped before its end, it kills the program.
    pub(crate) async fn sign(&self, message: &[u8]) -> Result<[u8; SIGNATURE_LEN]> {
        let (command, public) = match self {
            Self::Secret(key) => return Ok(key.sign(message)),
            Self::Program { command, public } => (command, public),
        };
        let signature = run(command, message).await?;
        if !public.verifies(message, &signature) {
            let (program, key) = (command.clone(), public.name().to_owned());
            return Err(SignerError::WrongSignature { program, key }.into());
        }
        Ok(signature)
    }

    /// Signs the list of files of a release as minisign does.
    pub(crate) async fn minisign(&self, payload: &ReleasePayload) -> Result<MinisignSignature> {
        let (file, comment) = (payload.listing(), payload.trusted_comment());
        let file = file.as_bytes();
        let signature = self.sign(&MinisignSignature::message(file)).await?;
        let both = MinisignSignature::comment_message(&signature, &comment);
        let global = self.sign(&both).await?;
        let made = MinisignSignature::assemble(self.public(), file, signature, &comment, global);
        Ok(made.map_err(SignError::from)?)
    }
}

async fn run(
    command: &str,
    message: &[u8],
) -> std::result::Result<[u8; SIGNATURE_LEN], SignerError> {
    let program = command.to_owned();
    let failed = |reason: String| SignerError::Failed {
        program: program.clone(),
        reason,
    };
    let mut words = command.split_whitespace();
    let first = words
        .next()
        .ok_or_else(|| failed("no program is named".to_owned()))?;
    // The operator's own program, with the operator's own rights: not a plugin.
    let mut child = Command::new(first)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let give = async {
        if let Some(mut stdin) = stdin {
            // One that does not read to the end shows in what it signs.
            let _ = stdin.write_all(message).await;
        }
    };
    let take = async {
        let mut bytes = Vec::with_capacity(SIGNATURE_LEN + 1);
        if let Some(stdout) = stdout {
            let mut stdout = stdout.take(SIGNATURE_LEN as u64 + 1);
            stdout.read_to_end(&mut bytes).await?;
        }
        Ok::<_, std::io::Error>(bytes)
    };
    let answer = async {
        let ((), bytes) = tokio::join!(give, take);
        let bytes = bytes?;
        // A program that goes on writing is stopped, not waited for.
        let status = match bytes.len() > SIGNATURE_LEN {
            true => None,
            false => Some(child.wait().await?),
        };
        Ok::<_, std::io::Error>((bytes, status))
    };
    let answer = timeout(PATIENCE, answer).await;
    let answer = answer.map_err(|_| SignerError::TooSlow {
        program: program.clone(),
    })?;
    let (bytes, status) = answer.map_err(|error| failed(error.to_string()))?;
    if let Some(status) = status.filter(|status| !status.success()) {
        return Err(failed(format!("it ended with {status}")));
    }
    let found = bytes.len();
    let wrong = |_| SignerError::WrongLength { program, found };
    bytes.try_into().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn code(command: &str, message: &[u8]) -> String {
        let error = run(command, message).await.unwrap_err();
        error.code().unwrap().to_string()
    }

    /// Real programs; only time is made to pass.
    #[tokio::test(start_paused = true)]
    async fn a_program_that_hangs_is_stopped() {
        assert_eq!(code("sleep 1000", b"message").await, "ORC-5031");
        // One that reads nothing while there is much to read.
        assert_eq!(code("sleep 1000", &[0; 1 << 20]).await, "ORC-5031");
    }

    #[tokio::test]
    async fn a_program_gives_64_bytes_and_nothing_else() {
        assert_eq!(code("", b"").await, "ORC-5030");
        assert_eq!(code("/nonexistent", b"").await, "ORC-5030");
        assert_eq!(code("false", b"").await, "ORC-5030");
        assert_eq!(code("true", b"").await, "ORC-5032");
        assert_eq!(code("yes", b"").await, "ORC-5032");
        assert_eq!(code("cat", &[1; 63]).await, "ORC-5032");
        assert_eq!(code("cat", &[1; 65]).await, "ORC-5032");
        assert_eq!(run("cat", &[1; 64]).await.unwrap(), [1; 64]);
        // It need not read what it is given.
        let head = run("head -c 64 /dev/zero", &[0; 1 << 20]).await;
        assert_eq!(head.unwrap(), [0; 64]);
    }
}
