//! Why a package is refused. Every reason has its own code, so that a damaged
//! download, an unknown key, a bad signature and a policy are never mixed up.

use std::io;

use miette::Diagnostic;
use orchestrator_manifest::ManifestError;

use crate::{dsse::EnvelopeError, trust::TrustError};

/// Why a package is refused.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum VerifyError {
    /// There is no signature file. The package was never signed, or its folder
    /// `META` was not copied with it.
    #[error("no signature found for plugin {plugin}")]
    #[diagnostic(
        code("ORC-2040"),
        help(
            "sign it with `orchestrator plugin sign`, or, while developing, list its folder under `runtime.unsigned_paths`"
        )
    )]
    Unsigned {
        /// The folder.
        plugin: String,
    },
    /// The signature file is damaged, too large or empty.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Signed, but by nobody this host trusts. A new publisher, or a publisher
    /// with a new key.
    #[error("plugin `{plugin}` is signed by a key that this host does not trust: {keys}")]
    #[diagnostic(
        code("ORC-2041"),
        help(
            "if you know the publisher, get the public key from them and add it with `orchestrator trust add`"
        )
    )]
    UntrustedKey {
        /// The folder.
        plugin: String,
        /// The identities that the signatures claim.
        keys: String,
    },
    /// A trusted key is named, and the signature is not its own. What was
    /// signed, or the signature itself, is not as the holder of the key left
    /// it.
    #[error("signature mismatch for plugin {plugin}: it is not the signature of the key `{key}`")]
    #[diagnostic(
        code("ORC-2042"),
        help("the package was altered, or damaged on its way; get it again from the publisher")
    )]
    BadSignature {
        /// The folder.
        plugin: String,
        /// The key's name.
        key: String,
    },
    /// The signature is of something that is no package, a trust root for
    /// instance. What a key signs for one purpose counts for no other.
    #[error("what was signed for plugin {plugin} is no package, but `{purpose}`")]
    #[diagnostic(
        code("ORC-2100"),
        help("get the package again from the publisher; somebody may have put this together")
    )]
    WrongPurpose {
        /// The folder.
        plugin: String,
        /// What the signature says it is for.
        purpose: String,
    },
    /// Too few keys signed. The trust in this publisher asks for several
    /// signatures.
    #[error("plugin `{plugin}` is signed by {have} of {need} keys")]
    #[diagnostic(
        code("ORC-2043"),
        help("have it signed by another trusted key with `orchestrator plugin sign --add`")
    )]
    Threshold {
        /// The plugin.
        plugin: String,
        /// Signatures that count.
        have: u32,
        /// Signatures wanted.
        need: u32,
    },
    /// What was signed is no statement about a package. It was made by another
    /// tool, or by a version that is too new or too old.
    #[error("the signed statement cannot be used: {0}")]
    #[diagnostic(
        code("ORC-2044"),
        help("the publisher has to sign it again with a current `orchestrator plugin sign`")
    )]
    Statement(String),
    /// The key is trusted, but not for this name. A key is trusted for name
    /// patterns, so that one publisher cannot replace the plugin of another.
    #[error("the key `{key}` is not trusted to sign the plugin `{plugin}`")]
    #[diagnostic(
        code("ORC-2045"),
        help(
            "if it should be, give it more names with `orchestrator trust add … --names OLD,NEW --replace`; `orchestrator trust list` shows those it has"
        )
    )]
    WrongName {
        /// The plugin.
        plugin: String,
        /// The key's name.
        key: String,
    },
    /// The key has been revoked. Its owner or this host says that somebody else
    /// may have it: nothing it signed is taken.
    #[error("the key `{key}` that signed plugin `{plugin}` is revoked{}", because(reason.as_deref()))]
    #[diagnostic(
        code("ORC-2046"),
        help("get a release signed by a key that is not revoked")
    )]
    RevokedKey {
        /// The plugin.
        plugin: String,
        /// The key's name.
        key: String,
        /// Why, if somebody said so.
        reason: Option<String>,
    },
    /// The key has been retired, or has expired, and this release is new here.
    #[error("the key `{key}` that signed plugin `{plugin}` no longer signs new releases")]
    #[diagnostic(
        code("ORC-2047"),
        help(
            "get a release signed by the publisher's present key; if the key has expired too early, check this host's clock"
        )
    )]
    RetiredKey {
        /// The plugin.
        plugin: String,
        /// The key's name.
        key: String,
    },
    /// This very release has been revoked. The trust root names its digest,
    /// mostly because the release does harm.
    #[error("this release of plugin `{plugin}` is revoked: {reason}")]
    #[diagnostic(code("ORC-2048"), help("install another release"))]
    RevokedRelease {
        /// The plugin.
        plugin: String,
        /// Why.
        reason: String,
    },
    /// The release is older than the trust root allows.
    #[error(
        "release {serial} of plugin `{plugin}` is older than {min}, the oldest that is still accepted"
    )]
    #[diagnostic(code("ORC-2049"), help("install a newer release"))]
    TooOld {
        /// The plugin.
        plugin: String,
        /// Its serial number.
        serial: u64,
        /// The least accepted.
        min: u64,
    },
    /// There is another release with the same number. Which of them is the newer one,
    /// nobody can tell.
    #[error("plugin `{plugin}` has two releases {serial}: this one, and one that came before it")]
    #[diagnostic(
        code("ORC-2159"),
        help(
            "ask the publisher, whose numbers should only rise; install it on purpose with `--allow-downgrade`"
        )
    )]
    SameSerial {
        /// The plugin.
        plugin: String,
        /// The serial number of both.
        serial: u64,
    },
    /// What may come to this host, the trust root does not say at present.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Trust(#[from] TrustError),
    /// An older release than this host has had, and one that it never had: faults
    /// that newer ones mended may be why somebody put it there.
    #[error(
        "release {serial} of plugin `{plugin}` is older than release {newest}, which this host has had"
    )]
    #[diagnostic(
        code("ORC-2101"),
        help(
            "remove it, or go back on purpose: `orchestrator plugin install DIR --allow-downgrade`"
        )
    )]
    StepBack {
        /// The plugin.
        plugin: String,
        /// Its serial number.
        serial: u64,
        /// The highest one so far.
        newest: u64,
    },
    /// Its publisher says that it runs on another platform alone.
    #[error("plugin `{plugin}` runs on {platform} alone, which this host is not")]
    #[diagnostic(
        code("ORC-2068"),
        help(
            "install the release for this host's platform; its publisher named {platform} with `orchestrator plugin sign --platform`"
        )
    )]
    OtherPlatform {
        /// The plugin.
        plugin: String,
        /// The platform of the release.
        platform: String,
    },
    /// Host and plugin have no API version in common.
    #[error("plugin `{plugin}` speaks plugin API {min} to {max}, which this host does not")]
    #[diagnostic(
        code("ORC-2050"),
        help("use a host and a plugin of about the same age")
    )]
    Api {
        /// The plugin.
        plugin: String,
        /// Oldest version it speaks.
        min: u32,
        /// Newest version it speaks.
        max: u32,
    },
    /// The statement lists one file twice.
    #[error("the statement lists `{path}` twice")]
    #[diagnostic(code("ORC-2051"), help("the publisher has to sign it again"))]
    DuplicateSubject {
        /// The file.
        path: String,
    },
    /// The statement contradicts the manifest, or itself. Mostly the manifest
    /// was edited after signing.
    #[error("the signed `{field}` is not what the package says")]
    #[diagnostic(
        code("ORC-2052"),
        help("the publisher has to sign it again after the last change")
    )]
    PredicateMismatch {
        /// What differs.
        field: &'static str,
    },
    /// A file that nobody signed. A build, an editor or a plugin wrote into the
    /// folder of the package.
    #[error("`{path}` is not part of what was signed")]
    #[diagnostic(
        code("ORC-2053"),
        help("remove it, or get the package again from the publisher")
    )]
    ExtraFile {
        /// The file.
        path: String,
    },
    /// A file that was signed is not there. Mostly a copy or a download that is
    /// not complete.
    #[error("`{path}` is missing")]
    #[diagnostic(code("ORC-2054"), help("get the package again from the publisher"))]
    MissingFile {
        /// The file.
        path: String,
    },
    /// A file is not what was signed.
    #[error("`{path}` is not what was signed: integrity check failed")]
    #[diagnostic(
        code("ORC-2055"),
        help(
            "the file was altered, or damaged on its way; get the package again from the publisher"
        )
    )]
    FileDigest {
        /// The file.
        path: String,
    },
    /// A file has another size than was signed.
    #[error("`{path}` has {found} bytes, {signed} were signed")]
    #[diagnostic(
        code("ORC-2056"),
        help(
            "the file was altered, or damaged on its way; get the package again from the publisher"
        )
    )]
    FileSize {
        /// The file.
        path: String,
        /// Its size.
        found: u64,
        /// The signed size.
        signed: u64,
    },
    /// A file can be executed and should not be, or the reverse. Mostly a copy
    /// or an archive that lost the modes.
    #[error("`{path}` has another mode than was signed: whether it can be executed differs")]
    #[diagnostic(code("ORC-2057"), help("restore it with `chmod +x` or `chmod -x`"))]
    FileMode {
        /// The file.
        path: String,
    },
    /// A file changed while it was read.
    #[error("`{path}` changed while it was read")]
    #[diagnostic(
        code("ORC-2058"),
        help("find out what is writing to the folder, then try again")
    )]
    Changed {
        /// The file.
        path: String,
    },
    /// Something that is neither a plain file nor a folder. Links, pipes,
    /// sockets, devices, files with several names and set-user-id files are
    /// refused.
    #[error("`{path}` is {what}")]
    #[diagnostic(
        code("ORC-2059"),
        help("a package consists of plain files and folders alone")
    )]
    Special {
        /// The file.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A file name that is not the same on every platform.
    #[error("`{path}`: {reason}")]
    #[diagnostic(
        code("ORC-2060"),
        help("rename the file: letters, digits and `. _ -` always work")
    )]
    BadFileName {
        /// The file, escaped.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Two names that are one on some platforms.
    #[error("`{path}` and `{twin}` differ in case alone")]
    #[diagnostic(code("ORC-2061"), help("rename one of them"))]
    CaseTwins {
        /// One.
        path: String,
        /// The other.
        twin: String,
    },
    /// More than a package may hold.
    #[error("the package is too large: {what}")]
    #[diagnostic(
        code("ORC-2062"),
        help(
            "at most 10,000 files and folders, 16 folders deep, 3 GiB in all; the entry point at \
             most 256 MiB, because it is held in memory while it runs"
        )
    )]
    TooLarge {
        /// What is too large.
        what: &'static str,
    },
    /// Others could change the package. Whoever may write to the folder could
    /// swap files after they were checked.
    #[error("others could have changed plugin `{plugin}`: {}", reasons.join(", "))]
    #[diagnostic(
        code("ORC-2063"),
        help("`chmod -R go-w` the folder and make it belong to you")
    )]
    Exposed {
        /// The plugin.
        plugin: String,
        /// Examples.
        reasons: Vec<String>,
    },
    /// There is no manifest, or more than one.
    #[error("`{plugin}` has {count} manifests; a package has one, in its topmost folder")]
    #[diagnostic(
        code("ORC-2064"),
        help("keep one plugin.yaml, plugin.yml, plugin.json or plugin.toml")
    )]
    Manifests {
        /// The folder.
        plugin: String,
        /// How many there are.
        count: usize,
    },
    /// The manifest breaks rules. The faults follow, each with its own code.
    #[error("the manifest is refused")]
    #[diagnostic(
        code("ORC-2065"),
        help("`orchestrator plugin validate` lists what is wrong with it")
    )]
    Manifest(#[source] Box<ManifestError>),
    /// The package is not in a folder that unsigned plugins may run from. Only
    /// the folders of the setting, and those below them, are open to unsigned
    /// plugins.
    #[error("`{plugin}` is not in a folder that unsigned plugins may run from")]
    #[diagnostic(
        code("ORC-2066"),
        help("sign it, or list its folder under `runtime.unsigned_paths`")
    )]
    NotListed {
        /// The folder.
        plugin: String,
    },
    /// The operating system refused.
    #[error("`{path}` cannot be read")]
    #[diagnostic(
        code("ORC-2067"),
        help("check that the package is there and can be read")
    )]
    Io {
        /// The file or folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}

fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}
