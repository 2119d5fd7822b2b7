//! Why an archive is refused. A damaged download has a code of its own, so that
//! it is never taken for an attack, nor an attack for it.

use std::io;

use miette::Diagnostic;

use crate::package::VerifyError;

/// Why an archive is refused, or was not made. Names are escaped: an archive
/// cannot write to a terminal.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The package itself is refused, before it is packed or after it was
    /// unpacked.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Package(#[from] VerifyError),
    /// The archive cannot be read to its end.
    #[error("the archive cannot be read")]
    #[diagnostic(
        code("ORC-2170"),
        help("check that the file is there and can be read, or that the connection holds")
    )]
    Read(#[source] io::Error),
    /// The archive is not as it left its publisher: mostly a download that was
    /// cut short. Its checksum says so, and nothing of it was taken. Whoever
    /// alters an archive on purpose makes the checksum fit, and is stopped by
    /// the signature.
    #[error("the archive is damaged: {0}")]
    #[diagnostic(
        code("ORC-2171"),
        help("get the archive again from the publisher; nobody need have meant harm")
    )]
    Damaged(&'static str),
    /// Another kind of file.
    #[error("this is no plugin archive")]
    #[diagnostic(
        code("ORC-2172"),
        help("`orchestrator plugin pack` makes them; give a folder without packing it")
    )]
    NotAnArchive,
    /// A header whose checksum is wrong although the archive is whole.
    #[error("the header after {after} has a wrong checksum")]
    #[diagnostic(
        code("ORC-2173"),
        help(
            "ask the publisher for one made with `orchestrator plugin pack`; other tools write more than is taken"
        )
    )]
    HeaderChecksum {
        /// The entry before it.
        after: String,
    },
    /// A symbolic or a hard link.
    #[error("`{path}` is {what}")]
    #[diagnostic(code("ORC-2174"), help("a package consists of plain files alone"))]
    Link {
        /// The entry.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A device, a pipe, or something unknown.
    #[error("`{path}` is {what}")]
    #[diagnostic(code("ORC-2175"), help("a package consists of plain files alone"))]
    Special {
        /// The entry.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A part of the format of which an archive of ours has no need, and which
    /// other readers understand in several ways.
    #[error("`{path}` is {what}")]
    #[diagnostic(
        code("ORC-2176"),
        help(
            "ask the publisher for one made with `orchestrator plugin pack`; other tools write more than is taken"
        )
    )]
    Extension {
        /// The entry.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A name that leaves the package, or is not the same on every platform.
    #[error("`{path}`: {reason}")]
    #[diagnostic(
        code("ORC-2177"),
        help(
            "the publisher has to rename the file; nothing was written outside a private folder, which is gone"
        )
    )]
    Name {
        /// The entry.
        path: String,
        /// What is wrong with its name.
        reason: String,
    },
    /// A long name that contradicts its own length.
    #[error("the long name after {after} is malformed: {reason}")]
    #[diagnostic(
        code("ORC-2178"),
        help(
            "ask the publisher for one made with `orchestrator plugin pack`; other tools write more than is taken"
        )
    )]
    LongName {
        /// The entry before it.
        after: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// One file, twice.
    #[error("`{path}` is there twice")]
    #[diagnostic(
        code("ORC-2179"),
        help(
            "ask the publisher for one made with `orchestrator plugin pack`; other tools write more than is taken"
        )
    )]
    Duplicate {
        /// The entry.
        path: String,
    },
    /// Two names that are one on some platforms.
    #[error("`{path}` and `{twin}` differ in case alone")]
    #[diagnostic(code("ORC-2180"), help("the publisher has to rename one of them"))]
    Twins {
        /// One.
        path: String,
        /// The other.
        twin: String,
    },
    /// A file that would have to be a folder too.
    #[error("`{path}` is a file, and a folder too")]
    #[diagnostic(
        code("ORC-2181"),
        help(
            "ask the publisher for one made with `orchestrator plugin pack`; other tools write more than is taken"
        )
    )]
    FileAndFolder {
        /// The entry.
        path: String,
    },
    /// The entries are not sorted.
    #[error("`{path}` comes after `{after}`, and belongs before it")]
    #[diagnostic(
        code("ORC-2182"),
        help(
            "ask the publisher for one made with `orchestrator plugin pack`; other tools write more than is taken"
        )
    )]
    Order {
        /// The entry.
        path: String,
        /// The entry before it.
        after: String,
    },
    /// A header that says more than an archive of ours does: a time, an owner,
    /// another mode, or a field in another spelling.
    #[error("`{path}` has a header of another form: {field}")]
    #[diagnostic(
        code("ORC-2183"),
        help(
            "ask the publisher for one made with `orchestrator plugin pack`; other tools write more than is taken"
        )
    )]
    Form {
        /// The entry.
        path: String,
        /// Which field differs first.
        field: &'static str,
    },
    /// Bytes between the entries that are not zero.
    #[error("there is something in the padding after `{path}`")]
    #[diagnostic(
        code("ORC-2184"),
        help(
            "ask the publisher for one made with `orchestrator plugin pack`; other tools write more than is taken"
        )
    )]
    Padding {
        /// The entry.
        path: String,
    },
    /// More after the end, where only some tools look.
    #[error("there is more after the end of the archive")]
    #[diagnostic(
        code("ORC-2185"),
        help(
            "ask the publisher for one made with `orchestrator plugin pack`; other tools write more than is taken"
        )
    )]
    AfterEnd,
    /// The archive is whole, and stops before its end marker.
    #[error("the archive ends within or right after {after}, without an end marker")]
    #[diagnostic(
        code("ORC-2186"),
        help(
            "ask the publisher for one made with `orchestrator plugin pack`; other tools write more than is taken"
        )
    )]
    Unfinished {
        /// The last entry.
        after: String,
    },
    /// More than a package may hold.
    #[error("`{path}` makes the package too large: {what} is limited to {max}")]
    #[diagnostic(
        code("ORC-2187"),
        help("leave out what the plugin can fetch or make itself")
    )]
    TooLarge {
        /// The entry.
        path: String,
        /// What is limited.
        what: &'static str,
        /// To how much.
        max: u64,
    },
    /// A small archive that becomes a huge package.
    #[error("the archive unpacks to more than {max} times its size")]
    #[diagnostic(
        code("ORC-2188"),
        help(
            "such an archive is mostly made to fill a disk; if it is yours, leave out the files of endless zeros"
        )
    )]
    Ratio {
        /// How many times it may.
        max: u64,
    },
    /// Something is where the package was to go.
    #[error("`{path}` exists already")]
    #[diagnostic(
        code("ORC-2189"),
        help("give a name that is free, or remove what is there")
    )]
    Exists {
        /// The file or folder.
        path: String,
    },
    /// The package or the archive cannot be written.
    #[error("`{path}` cannot be written")]
    #[diagnostic(
        code("ORC-2190"),
        help(
            "check that there is room and that the folder belongs to you; nothing is left behind"
        )
    )]
    Write {
        /// The file or folder.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}
