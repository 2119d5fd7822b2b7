//! What a plugin asks for and what an operator gives.
//!
//! Both are written `resource:action[=scope]`. A *request* stands in the
//! manifest and may leave the scope to the operator; a *grant* is given by
//! the operator and always says how far it goes. Nothing is granted by
//! default, and [`Capability::covers`] decides by parts (folders, host
//! labels, topic words), never by comparing the beginning or end of text.

mod host;
mod scope;

use std::{fmt, path::Path, str::FromStr};

use miette::Diagnostic;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    host::{AddressRange, Destination, DestinationError, Host, Target},
    scope::{Scope, ScopeError},
};
use crate::text::{nearest, quoted};

/// A resource and what is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Token {
    /// Read files and list folders beneath a path.
    FileRead,
    /// Create, change and remove files beneath a path. Reading is separate.
    FileWrite,
    /// Open connections to a host and port.
    NetworkAccess,
    /// Start one program, or with the scope `*` any that it can read.
    ProcessSpawn,
    /// Read the plugin's own storage.
    StorageRead,
    /// Change the plugin's own storage.
    StorageWrite,
    /// Publish events on a topic.
    EventPublish,
    /// Receive events of a topic.
    EventSubscribe,
    /// See one environment variable of the host.
    EnvRead,
    /// See facts about the machine: processors, memory, load.
    SystemInfo,
    /// Read the console's pages.
    UiRead,
    /// Add to the console's pages.
    UiWrite,
    /// Run commands of the console.
    UiExecute,
}

/// What kind of scope a token takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScopeKind {
    None,
    OptionalAll,
    Folder,
    Program,
    Host,
    Topic,
    Variable,
}

impl Token {
    /// Every token, in the order they are documented.
    pub const ALL: [Self; 13] = [
        Self::FileRead,
        Self::FileWrite,
        Self::NetworkAccess,
        Self::ProcessSpawn,
        Self::StorageRead,
        Self::StorageWrite,
        Self::EventPublish,
        Self::EventSubscribe,
        Self::EnvRead,
        Self::SystemInfo,
        Self::UiRead,
        Self::UiWrite,
        Self::UiExecute,
    ];

    /// The token as it is written: `file:read`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FileRead => "file:read",
            Self::FileWrite => "file:write",
            Self::NetworkAccess => "network:access",
            Self::ProcessSpawn => "process:spawn",
            Self::StorageRead => "storage:read",
            Self::StorageWrite => "storage:write",
            Self::EventPublish => "event:publish",
            Self::EventSubscribe => "event:subscribe",
            Self::EnvRead => "env:read",
            Self::SystemInfo => "system:info",
            Self::UiRead => "ui:read",
            Self::UiWrite => "ui:write",
            Self::UiExecute => "ui:execute",
        }
    }

    /// The part before the colon.
    pub fn resource(self) -> &'static str {
        self.as_str().split(':').next().unwrap_or_default()
    }

    /// The part after the colon.
    pub fn action(self) -> &'static str {
        self.as_str().split(':').nth(1).unwrap_or_default()
    }

    /// Returns whether a grant of this token must say how far it goes.
    pub fn needs_scope(self) -> bool {
        !matches!(self.scope_kind(), ScopeKind::None | ScopeKind::OptionalAll)
    }

    pub(crate) fn scope_kind(self) -> ScopeKind {
        match self {
            Self::FileRead | Self::FileWrite => ScopeKind::Folder,
            Self::ProcessSpawn => ScopeKind::Program,
            Self::NetworkAccess => ScopeKind::Host,
            Self::EventPublish | Self::EventSubscribe => ScopeKind::Topic,
            Self::EnvRead => ScopeKind::Variable,
            Self::StorageRead | Self::StorageWrite => ScopeKind::OptionalAll,
            Self::SystemInfo | Self::UiRead | Self::UiWrite | Self::UiExecute => ScopeKind::None,
        }
    }

    /// The scope as an example, for help texts.
    fn example(self) -> &'static str {
        match self.scope_kind() {
            ScopeKind::None => "",
            ScopeKind::OptionalAll => "=all",
            ScopeKind::Folder => "=/data/in",
            ScopeKind::Program => "=/usr/bin/git",
            ScopeKind::Host => "=api.example.com:443",
            ScopeKind::Topic => "=orders.*",
            ScopeKind::Variable => "=AWS_REGION",
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Token {
    type Err = CapabilityError;

    fn from_str(text: &str) -> Result<Self, CapabilityError> {
        Self::ALL
            .into_iter()
            .find(|token| token.as_str() == text)
            .ok_or_else(|| CapabilityError::UnknownToken {
                given: quoted(text),
                help: match nearest(text, Self::ALL.map(Self::as_str)) {
                    Some(word) => format!("did you mean `{word}`?"),
                    None => format!("one of {}", Self::ALL.map(Self::as_str).join(", ")),
                },
            })
    }
}

/// One capability: a [`Token`] and, mostly, how far it goes.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(try_from = "String", into = "String")]
pub struct Capability(#[schemars(with = "String")] Inner);

/// Kept apart so that a `Capability` can only be made by its parsers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Inner {
    token: Token,
    scope: Option<Scope>,
}

/// Why a text is no capability.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum CapabilityError {
    /// No such resource and action.
    ///
    /// Use the nearest word, which the help line names, or one of all that it
    /// lists.
    #[error("unknown capability {given}")]
    #[diagnostic(code("ORC-1021"), help("{help}"))]
    UnknownToken {
        /// The text, shortened and escaped.
        given: String,
        /// The nearest known token, or all of them.
        help: String,
    },
    /// The scope does not suit the token.
    #[error("{given}: {source}")]
    #[diagnostic(code("ORC-1021"), help("written for example `{token}{}`", token.example()))]
    Scope {
        /// The text, shortened and escaped.
        given: String,
        /// The token that was understood.
        token: Token,
        /// What is wrong with the scope.
        source: ScopeError,
    },
    /// A grant that does not say how far it goes.
    #[error("a grant of `{token}` must say how far it goes")]
    #[diagnostic(code("ORC-1021"), help("written for example `{token}{}`", token.example()))]
    Unscoped {
        /// The token that was understood.
        token: Token,
    },
}

impl Capability {
    /// Reads a request, which may leave the scope to the operator.
    ///
    /// # Errors
    ///
    /// [`CapabilityError`] for an unknown token or a scope that does not suit.
    pub fn parse_request(text: &str) -> Result<Self, CapabilityError> {
        let (token, scope) = match text.split_once('=') {
            Some((token, scope)) => (token, Some(scope)),
            None => (text, None),
        };
        Self::new(token.parse()?, scope)
    }

    /// Reads a grant, which says how far it goes.
    ///
    /// # Errors
    ///
    /// As [`Self::parse_request`], and [`CapabilityError::Unscoped`] when a
    /// token that needs a scope has none.
    pub fn parse_grant(text: &str) -> Result<Self, CapabilityError> {
        let capability = Self::parse_request(text)?;
        if capability.is_open() {
            return Err(CapabilityError::Unscoped {
                token: capability.token(),
            });
        }
        Ok(capability)
    }

    /// Puts a token and a scope together.
    ///
    /// # Errors
    ///
    /// [`CapabilityError::Scope`] when the scope does not suit the token.
    pub fn new(token: Token, scope: Option<&str>) -> Result<Self, CapabilityError> {
        let scope = scope
            .map(|scope| Scope::parse(token.scope_kind(), scope))
            .transpose()
            .map_err(|source| CapabilityError::Scope {
                given: quoted(scope.unwrap_or_default()),
                token,
                source,
            })?;
        Ok(Self(Inner { token, scope }))
    }

    /// The resource and action.
    pub fn token(&self) -> Token {
        self.0.token
    }

    /// The resource: `file` of `file:read=/data`.
    pub fn resource(&self) -> &'static str {
        self.0.token.resource()
    }

    /// The action: `read` of `file:read=/data`.
    pub fn action(&self) -> &'static str {
        self.0.token.action()
    }

    /// How far it goes.
    pub fn scope(&self) -> Option<&Scope> {
        self.0.scope.as_ref()
    }

    /// The path of a file or process scope.
    pub fn path(&self) -> Option<&Path> {
        match self.scope()? {
            Scope::Folder(path) | Scope::Program(path) => Some(Path::new(path)),
            _ => None,
        }
    }

    /// Returns whether this is a request whose scope the operator decides.
    pub fn is_open(&self) -> bool {
        self.0.scope.is_none() && self.0.token.needs_scope()
    }

    /// Returns whether this grant allows what `request` asks for.
    ///
    /// A request without a scope is covered by any grant of its token. An
    /// open capability (see [`Self::is_open`]) is no grant and covers nothing.
    pub fn covers(&self, request: &Self) -> bool {
        if self.token() != request.token() || self.is_open() {
            return false;
        }
        match (self.scope(), request.scope()) {
            (_, None) => true,
            (Some(grant), Some(request)) => grant.covers(request),
            (None, Some(_)) => false,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.token.as_str())?;
        match &self.0.scope {
            Some(scope) => write!(f, "={scope}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for Capability {
    type Error = CapabilityError;

    fn try_from(text: String) -> Result<Self, CapabilityError> {
        Self::parse_request(&text)
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> Self {
        capability.to_string()
    }
}

impl FromStr for Capability {
    type Err = CapabilityError;

    fn from_str(text: &str) -> Result<Self, CapabilityError> {
        Self::parse_request(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(grant: &str, request: &str) -> bool {
        let grant = Capability::parse_grant(grant).unwrap();
        // What cannot be asked for is refused, which is what the tables mean.
        Capability::parse_request(request).is_ok_and(|request| grant.covers(&request))
    }

    #[test]
    fn every_token_reads_back_and_unknown_ones_name_the_nearest() {
        for token in Token::ALL {
            assert_eq!(token.as_str().parse::<Token>().unwrap(), token);
            let text = format!("{token}{}", token.example());
            assert_eq!(Capability::parse_grant(&text).unwrap().to_string(), text);
        }
        for (wrong, right) in [
            ("file:exec", "file:"),
            ("netwrok:access", "network:access"),
            ("FILE:READ", "file:read"),
        ] {
            let error = Capability::parse_request(wrong).unwrap_err();
            let help = Diagnostic::help(&error).unwrap().to_string();
            assert!(help.contains(right), "{wrong}: {help}");
        }
        for wrong in [
            "",
            ":",
            "file",
            "file:",
            "constructor:read",
            "__proto__:read",
            " file:read",
            "file:read ",
        ] {
            assert!(Capability::parse_request(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_grant_says_how_far_it_goes() {
        for text in [
            "file:read",
            "file:write",
            "network:access",
            "process:spawn",
            "event:publish",
            "env:read",
        ] {
            Capability::parse_request(text).unwrap();
            let error = Capability::parse_grant(text).unwrap_err();
            assert!(matches!(error, CapabilityError::Unscoped { .. }), "{text}");
        }
        for text in ["system:info", "storage:read", "storage:write=all"] {
            Capability::parse_grant(text).unwrap();
        }
        assert!(Capability::parse_grant("system:info=all").is_err());
        assert!(Capability::parse_grant("storage:read=plugin-b").is_err());
    }

    #[test]
    fn only_the_same_token_covers() {
        assert!(covers("file:read=/data", "file:read"));
        assert!(!covers("file:read=/data", "file:write=/data"));
        assert!(!covers("file:write=/data", "file:read=/data"));
        assert!(covers("storage:read", "storage:read"));
        assert!(covers("storage:read=all", "storage:read"));
        assert!(!covers("storage:read", "storage:read=all"));
        let open = Capability::parse_request("file:read").unwrap();
        assert!(!open.covers(&open));
    }
}
