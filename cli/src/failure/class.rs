//! Which exit status the errors of the crates below mean.

use std::io;

use orchestrator_manifest::{ManifestError, Rule};
use orchestrator_signing::{
    GrantError, InstallError, KeyError, KeyFileError, SignError, TrustError, VerifyError,
};

use super::Failure;
use crate::exit::Exit;

/// Makes a [`Failure`] of an error, with the status that `$exit` computes.
macro_rules! classified {
    ($($error:ty => |$it:ident| $exit:expr;)+) => {
        $(impl From<$error> for Failure {
            fn from($it: $error) -> Self {
                Self::new($exit, $it)
            }
        })+
    };
}

classified! {
    ManifestError => |it| match it.faults.first().map(|fault| fault.rule) {
        Some(Rule::NoManifest) => Exit::NotFound,
        _ => Exit::Invalid,
    };
    KeyFileError => |it| of_key_file(&it);
    TrustError => |it| of_trust(&it);
    VerifyError => |it| of_verify(&it);
    SignError => |it| match &it {
        SignError::Unfit(why) => of_unfit(why),
        SignError::ChangedSince => Exit::Trust,
        _ => Exit::Failed,
    };
    InstallError => |it| match &it {
        InstallError::Verify(why) => of_verify(why),
        InstallError::Trust(why) => of_trust(why),
        InstallError::NotInstalled(_) => Exit::NotFound,
        InstallError::Busy(_) => Exit::Unreachable,
        InstallError::Rollback { .. }
        | InstallError::Expired { .. }
        | InstallError::Different { .. }
        | InstallError::Damaged { .. } => Exit::Trust,
        _ => Exit::Failed,
    };
    GrantError => |it| match &it {
        GrantError::NotGranted { .. }
        | GrantError::AsksForMore { .. }
        | GrantError::OtherPublisher { .. } => Exit::Denied,
        GrantError::Unscoped { .. } => Exit::Usage,
        GrantError::NoSuchGrant { .. } => Exit::NotFound,
        GrantError::Damaged { .. } | GrantError::OldFile { .. } => Exit::Invalid,
        GrantError::Busy { .. } => Exit::Unreachable,
        _ => Exit::Failed,
    };
}

fn of_io(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::Failed,
    }
}

fn of_key_file(error: &KeyFileError) -> Exit {
    match error {
        KeyFileError::Io { source, .. } => of_io(source),
        KeyFileError::Exposed { .. } | KeyFileError::WrongPassphrase { .. } => Exit::Denied,
        KeyFileError::PassphraseNeeded
        | KeyFileError::EmptyPassphrase
        | KeyFileError::Key(KeyError::Name) => Exit::Usage,
        KeyFileError::Damaged { .. } | KeyFileError::Cost { .. } => Exit::Invalid,
        KeyFileError::Key(fault) | KeyFileError::Unusable { source: fault, .. } => of_key(*fault),
        _ => Exit::Trust,
    }
}

fn of_key(fault: KeyError) -> Exit {
    match fault {
        KeyError::Weak => Exit::Trust,
        KeyError::Random => Exit::Failed,
        _ => Exit::Invalid,
    }
}

fn of_trust(error: &TrustError) -> Exit {
    match error {
        TrustError::Io { source, .. } => of_io(source),
        TrustError::NoSuchKey(_) => Exit::NotFound,
        TrustError::Ambiguous(_) | TrustError::BadDelegation(_) => Exit::Usage,
        TrustError::Busy { .. } => Exit::Unreachable,
        TrustError::OtherTerms { .. } => Exit::Failed,
        _ => Exit::Trust,
    }
}

/// What its publisher has to mend is no failure of trust.
fn of_unfit(error: &VerifyError) -> Exit {
    match error {
        VerifyError::MissingFile { .. }
        | VerifyError::Special { .. }
        | VerifyError::BadFileName { .. }
        | VerifyError::CaseTwins { .. }
        | VerifyError::TooLarge { .. } => Exit::Invalid,
        error => of_verify(error),
    }
}

fn of_verify(error: &VerifyError) -> Exit {
    match error {
        VerifyError::Io { source, .. } => of_io(source),
        VerifyError::Manifests { .. } | VerifyError::Manifest(_) => Exit::Invalid,
        _ => Exit::Trust,
    }
}
