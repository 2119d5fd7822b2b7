//! Why there is no connection.

use std::{fmt, net::IpAddr};

use orchestrator_contract::DenialRule;

/// Why there is no connection. Its text is what the plugin is told: nothing about the
/// host's network but what was asked for.
#[derive(Clone, Debug)]
pub(super) enum Refusal {
    /// By a rule.
    Denied {
        rule: DenialRule,
        /// What was asked for, escaped and shortened.
        resource: String,
        /// Where it would have led to.
        address: Option<IpAddr>,
    },
    /// It is no request at all.
    Malformed(&'static str),
    TooLarge,
    TooSlow,
    /// Something of SOCKS that is not offered: the code that says so.
    NotOffered(u8),
    UnknownName,
    Unreachable,
    ConnectTimeout,
    /// As many names as may be are being looked up.
    Busy,
}

/// What of a text is shown.
const SHOWN_CHARS: usize = 300;

impl Refusal {
    pub(super) fn denied(rule: DenialRule, resource: impl fmt::Display) -> Self {
        let resource = resource.to_string();
        Self::Denied {
            rule,
            resource: resource.escape_debug().take(SHOWN_CHARS).collect(),
            address: None,
        }
    }

    /// `text` should have been host and port.
    pub(super) fn no_target(text: &str) -> Self {
        Self::denied(DenialRule::Malformed, text)
    }

    /// Status and phrase of HTTP.
    pub(super) fn status(&self) -> (u16, &'static str) {
        match self {
            Self::Denied {
                rule: DenialRule::Malformed,
                ..
            }
            | Self::Malformed(_) => (400, "Bad Request"),
            Self::Denied {
                rule: DenialRule::TooManyConnections,
                ..
            }
            | Self::Busy => (503, "Service Unavailable"),
            Self::Denied { .. } => (403, "Forbidden"),
            Self::TooLarge => (431, "Request Header Fields Too Large"),
            Self::TooSlow => (408, "Request Timeout"),
            Self::NotOffered(_) => (501, "Not Implemented"),
            Self::UnknownName | Self::Unreachable => (502, "Bad Gateway"),
            Self::ConnectTimeout => (504, "Gateway Timeout"),
        }
    }

    /// The reply code of SOCKS 5.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Denied { .. } => 2,
            Self::UnknownName | Self::ConnectTimeout => 4,
            Self::Unreachable => 5,
            Self::NotOffered(code) => *code,
            Self::Malformed(_) | Self::TooLarge | Self::TooSlow | Self::Busy => 1,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied { rule, resource, .. } => match rule {
                DenialRule::NotGranted => {
                    write!(out, "the plugin was not granted network:access={resource}")
                }
                DenialRule::NotPublic => write!(
                    out,
                    "{resource} leads to addresses that are not public, and were not granted \
                     themselves"
                ),
                DenialRule::Malformed => write!(out, "`{resource}` is no host and port"),
                DenialRule::TooManyConnections => {
                    out.write_str("the plugin has as many connections as it may have")
                }
                DenialRule::Vetoed => write!(out, "the host does not allow {resource}"),
                DenialRule::SystemCall => out.write_str("the kernel refuses it"),
            },
            Self::Malformed(reason) => out.write_str(reason),
            Self::TooLarge => out.write_str("the request has more, or longer, headers than it may"),
            Self::TooSlow => out.write_str("the request did not come in time"),
            Self::NotOffered(_) => out.write_str("this is not offered"),
            Self::UnknownName => out.write_str("the name has no address"),
            Self::Unreachable => out.write_str("the host cannot be connected to"),
            Self::ConnectTimeout => out.write_str("the host did not answer in time"),
            Self::Busy => out.write_str("too many names are being looked up"),
        }
    }
}
