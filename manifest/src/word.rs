//! The closed sets of words a manifest uses: kinds, roles, effects, channels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A closed set of words, each with its meaning.
pub(crate) trait Word: Copy + 'static {
    /// Every word. A meaning may have several; the first is the canonical one.
    const WORDS: &'static [(&'static str, Self)];

    fn from_word(text: &str) -> Option<Self> {
        let found = Self::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, meaning)| *meaning)
    }
}

/// How a plugin runs.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Compiled into the host.
    Builtin,
    /// A program started for each call.
    Exec,
    /// A long-lived process that speaks Orchestrator's frames.
    Node,
    /// A long-lived process that speaks HashiCorp's go-plugin protocol.
    Grpc,
    /// A WebAssembly component.
    Wasm,
    /// A dynamic library loaded into the host.
    Dylib,
}

impl Kind {
    /// The word used in manifests, commands and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Builtin => "builtin",
            Self::Exec => "exec",
            Self::Node => "node",
            Self::Grpc => "grpc",
            Self::Wasm => "wasm",
            Self::Dylib => "dylib",
        }
    }

    /// Returns whether the plugin is a native process of its own.
    pub const fn is_process(self) -> bool {
        matches!(self, Self::Exec | Self::Node | Self::Grpc)
    }

    /// Returns whether the plugin's native code runs inside the host.
    pub const fn is_in_process(self) -> bool {
        matches!(self, Self::Builtin | Self::Dylib)
    }
}

impl Word for Kind {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("builtin", Self::Builtin),
        ("exec", Self::Exec),
        ("node", Self::Node),
        ("grpc", Self::Grpc),
        ("wasm", Self::Wasm),
        ("dylib", Self::Dylib),
    ];
}

/// What a plugin is for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Phases of a pipeline.
    Domain,
    /// Resources that are created, read, updated, deleted and listed.
    Resource,
    /// Credentials.
    Auth,
    /// Commands.
    Command,
}

impl Role {
    /// The word used in manifests, commands and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Resource => "resource",
            Self::Auth => "auth",
            Self::Command => "command",
        }
    }

    /// The phases that every plugin of this role has, declared or not, with
    /// the effect that is assumed until the manifest declares another.
    pub const fn operations(self) -> &'static [(&'static str, Effect)] {
        match self {
            Self::Domain | Self::Command => &[],
            Self::Auth => &[("authenticate", Effect::Idempotent)],
            Self::Resource => &[
                ("create", Effect::AtMostOnce),
                ("read", Effect::Pure),
                ("update", Effect::AtMostOnce),
                ("delete", Effect::AtMostOnce),
                ("list", Effect::Pure),
                ("status", Effect::Pure),
            ],
        }
    }
}

impl Word for Role {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("domain", Self::Domain),
        ("resource", Self::Resource),
        ("auth", Self::Auth),
        ("command", Self::Command),
    ];
}

/// What happens in the world when a phase runs twice for one step.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Nothing; it only computes.
    Pure,
    /// The same as when it runs once.
    Idempotent,
    /// Its effect is committed together with the step's result, or not at all.
    Transactional,
    /// Something worse: after a crash, a person or `reconcile` decides.
    AtMostOnce,
    /// It may repeat, and another phase can take it back.
    Compensatable,
}

impl Effect {
    /// The word used in manifests and journals.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Idempotent => "idempotent",
            Self::Transactional => "transactional",
            Self::AtMostOnce => "at_most_once",
            Self::Compensatable => "compensatable",
        }
    }

    /// Returns whether an attempt that may have started can be repeated.
    pub const fn is_retry_safe(self) -> bool {
        !matches!(self, Self::AtMostOnce)
    }
}

impl Word for Effect {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("pure", Self::Pure),
        ("idempotent", Self::Idempotent),
        ("transactional", Self::Transactional),
        ("at_most_once", Self::AtMostOnce),
        ("compensatable", Self::Compensatable),
    ];
}

/// Which users a version is meant for.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Everybody.
    #[default]
    Stable,
    /// Whoever asks for it.
    Beta,
    /// Whoever has not moved on yet.
    Deprecated,
}

impl Channel {
    /// The word used in manifests and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Beta => "beta",
            Self::Deprecated => "deprecated",
        }
    }
}

impl Word for Channel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("stable", Self::Stable),
        ("beta", Self::Beta),
        ("deprecated", Self::Deprecated),
    ];
}

macro_rules! shown_as_its_word {
    ($($word:ty),*) => {$(
        impl std::fmt::Display for $word {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

shown_as_its_word!(Kind, Role, Effect, Channel);

#[cfg(test)]
mod tests {
    use super::*;

    fn check<W: Word + Serialize + std::fmt::Display + PartialEq + std::fmt::Debug>() {
        for (word, meaning) in W::WORDS {
            assert_eq!(meaning.to_string(), *word);
            assert_eq!(serde_json::to_value(meaning).unwrap(), *word);
            assert_eq!(W::from_word(word), Some(*meaning));
        }
    }

    #[test]
    fn a_word_is_the_same_wherever_it_is_written() {
        check::<Kind>();
        check::<Role>();
        check::<Effect>();
        check::<Channel>();
    }
}
