//! Why a plugin may not run, or a grant was not stored.

use std::io;

use miette::Diagnostic;
use orchestrator_manifest::{Capability, PluginName};

/// Why a plugin may not run, or a grant was not stored.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum GrantError {
    /// Asked for and not granted. The message names the capabilities. Nothing
    /// is granted by default, so a plugin that asks for any starts with this.
    #[error("{}", not_allowed(plugin, missing))]
    #[diagnostic(
        code("ORC-2120"),
        help("if it should have them: {}", command(plugin, missing))
    )]
    NotGranted {
        /// The plugin.
        plugin: PluginName,
        /// What is missing.
        missing: Vec<Capability>,
    },
    /// This release asks for more than the one the grant was given for. Mostly
    /// an upgrade; `+` stands before what it asks for and did not before.
    #[error("plugin `{plugin}` now asks for more: {}", difference(added, dropped))]
    #[diagnostic(
        code("ORC-2121"),
        help("it stays disabled until you grant that: {}", command(plugin, added))
    )]
    AsksForMore {
        /// The plugin.
        plugin: PluginName,
        /// What it asks for now and did not before.
        added: Vec<Capability>,
        /// What it no longer asks for.
        dropped: Vec<Capability>,
    },
    /// The name is known from another publisher. A grant belongs to the
    /// publisher it was given for, so that nobody inherits it by taking a name.
    #[error(
        "plugin `{plugin}` was granted capabilities as published by {granted}, and this one is published by {present}"
    )]
    #[diagnostic(
        code("ORC-2122"),
        help(
            "find out why the publisher changed before you grant anything: {}",
            command(plugin, missing)
        )
    )]
    OtherPublisher {
        /// The plugin.
        plugin: PluginName,
        /// The publisher of the grant.
        granted: String,
        /// The publisher of the package.
        present: String,
        /// What it asks for.
        missing: Vec<Capability>,
    },
    /// A grant that does not say how far it goes.
    #[error("`{capability}` does not say how far it goes")]
    #[diagnostic(
        code("ORC-2123"),
        help("write it with a scope, such as `file:read=/data/in`")
    )]
    Unscoped {
        /// The capability.
        capability: Capability,
    },
    /// No such grant. It never was granted anything, or what it was granted was
    /// taken back.
    #[error("plugin `{plugin}` has no grant")]
    #[diagnostic(code("ORC-2124"), help("`orchestrator plugin grants` shows all"))]
    NoSuchGrant {
        /// The plugin.
        plugin: String,
    },
    /// The file holds something else than grants. It was edited by hand, cut
    /// off, or written by a newer version.
    #[error("the grants in `{path}` cannot be used: {reason}")]
    #[diagnostic(
        code("ORC-2125"),
        help("no plugin gets anything until it is restored from a copy or removed")
    )]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There are only grants of an earlier version, which are no longer read.
    #[error("the grants are kept in `{path}` now, and there is only `{old}` of an earlier version")]
    #[diagnostic(
        code("ORC-2128"),
        help(
            "move it away and grant what it lists anew with `orchestrator plugin grant`; no plugin gets anything before"
        )
    )]
    OldFile {
        /// The file that is read.
        path: String,
        /// The file that is there.
        old: String,
    },
    /// Others could change what plugins may do.
    #[error("`{path}` can be changed by others")]
    #[diagnostic(
        code("ORC-2129"),
        help("`chmod go-w {path}`, and make it belong to you")
    )]
    Exposed {
        /// The file, or its folder.
        path: String,
    },
    /// Another process is changing the grants.
    #[error("another process is changing the grants in `{path}`")]
    #[diagnostic(code("ORC-2126"), help("wait for it and try again"))]
    Busy {
        /// The file.
        path: String,
    },
    /// The file cannot be read or written.
    #[error("the grants in `{path}` cannot be read or written")]
    #[diagnostic(
        code("ORC-2127"),
        help("check that the folder exists and belongs to you")
    )]
    Io {
        /// The file.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
}

fn not_allowed(plugin: &PluginName, missing: &[Capability]) -> String {
    let lines = missing
        .iter()
        .map(|capability| format!("capability {capability} not allowed"));
    format!(
        "plugin `{plugin}`: {}",
        lines.collect::<Vec<_>>().join(", ")
    )
}

fn difference(added: &[Capability], dropped: &[Capability]) -> String {
    let added = added.iter().map(|capability| format!("+ {capability}"));
    let dropped = dropped.iter().map(|capability| format!("- {capability}"));
    added.chain(dropped).collect::<Vec<_>>().join(", ")
}

/// The command that grants `missing`; the operator fills in open scopes.
fn command(plugin: &PluginName, missing: &[Capability]) -> String {
    let arguments = missing.iter().map(|capability| match capability.is_open() {
        true => format!(" {capability}=SCOPE"),
        false => format!(" {capability}"),
    });
    format!(
        "`orchestrator plugin grant {plugin}{}`",
        arguments.collect::<String>()
    )
}
