//! Which exit status the errors of the crates below mean.

use std::io;

use orchestrator_manifest::{ManifestError, Rule};
use orchestrator_signing::{
    GrantError, InstallError, KeyError, KeyFileError, LockFileError, MinisignError, SignError,
    TrustError, VerifyError,
};

use orchestrator_signing::{archive::ArchiveError, audit::AuditError};

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
        SignError::ChangedSince { .. }
        | SignError::ForeignSignature { .. }
        | SignError::OtherRelease { .. }
        | SignError::Envelope(_)
        | SignError::Minisign(_) => Exit::Trust,
        SignError::NoPayload { .. } | SignError::NoAttestation { .. } => Exit::Invalid,
        _ => Exit::Failed,
    };
    InstallError => |it| of_install(&it);
    LockFileError => |it| of_lock_file(&it);
    ArchiveError => |it| of_archive(&it);
    AuditError => |it| of_audit(&it);
    GrantError => |it| match &it {
        GrantError::NotGranted { .. }
        | GrantError::AsksForMore { .. }
        | GrantError::OtherPublisher { .. } => Exit::Denied,
        GrantError::Exposed { .. } => Exit::Trust,
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
        KeyFileError::Exposed { .. }
        | KeyFileError::WrongPassphrase { .. }
        | KeyFileError::Foreign {
            source: MinisignError::WrongPassphrase,
            ..
        } => Exit::Denied,
        KeyFileError::Foreign {
            source: MinisignError::Key(fault),
            ..
        } => of_key(*fault),
        KeyFileError::Foreign { .. } => Exit::Invalid,
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
        TrustError::Ambiguous(_)
        | TrustError::BadDelegation(_)
        | TrustError::BadReason
        | TrustError::BadRootRole(_) => Exit::Usage,
        TrustError::BadFile(_) => Exit::Invalid,
        TrustError::NoRoot => Exit::NotFound,
        TrustError::RootThere { .. } => Exit::Failed,
        TrustError::Busy { .. } => Exit::Unreachable,
        TrustError::OtherTerms { .. } => Exit::Failed,
        _ => Exit::Trust,
    }
}

fn of_install(error: &InstallError) -> Exit {
    match error {
        InstallError::Verify(why) => of_verify(why),
        InstallError::Trust(why) => of_trust(why),
        InstallError::Locked(why) => of_lock_file(why),
        InstallError::NotInstalled(_) | InstallError::NoPrevious { .. } => Exit::NotFound,
        InstallError::Busy(_) => Exit::Unreachable,
        InstallError::Rollback { .. }
        | InstallError::InUse { .. }
        | InstallError::Expired { .. }
        | InstallError::Different { .. }
        | InstallError::Damaged { .. } => Exit::Trust,
        _ => Exit::Failed,
    }
}

fn of_lock_file(error: &LockFileError) -> Exit {
    match error {
        LockFileError::Unusable { .. } => Exit::Invalid,
        LockFileError::Missing { .. } => Exit::NotFound,
        LockFileError::Store(why) => of_install(why),
        LockFileError::Changed { .. }
        | LockFileError::Damaged { .. }
        | LockFileError::Platform { .. } => Exit::Trust,
        _ => Exit::Failed,
    }
}

fn of_archive(error: &ArchiveError) -> Exit {
    match error {
        ArchiveError::Package(why) => of_verify(why),
        ArchiveError::Read(_) | ArchiveError::Write { .. } | ArchiveError::Exists { .. } => {
            Exit::Failed
        }
        _ => Exit::Invalid,
    }
}

fn of_audit(error: &AuditError) -> Exit {
    match error {
        AuditError::Io { source, .. } => of_io(source),
        AuditError::NotRecorded { .. } => Exit::Failed,
        AuditError::Busy { .. } => Exit::Unreachable,
        AuditError::Malformed { .. } => Exit::Invalid,
        AuditError::NoSuchRecord { .. } | AuditError::NothingYet { .. } => Exit::NotFound,
        AuditError::KeyFile(why) => of_key_file(why),
        AuditError::Key(why) => of_key(*why),
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
        VerifyError::Trust(why) => of_trust(why),
        VerifyError::Manifests { .. } | VerifyError::Manifest(_) => Exit::Invalid,
        _ => Exit::Trust,
    }
}
