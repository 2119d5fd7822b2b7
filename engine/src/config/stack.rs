//! Which policies a call meets.

use orchestrator_policies::{PolicyKind, check_order};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::ConfigError;
use crate::pipeline::words::{listed, quoted, suggest};

/// The policies that a call meets, outermost first. What is not named is not
/// used, whatever its section says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PolicyStack(Vec<PolicyKind>);

impl PolicyStack {
    /// Whether a call meets this policy.
    #[must_use]
    pub fn has(&self, kind: PolicyKind) -> bool {
        self.0.contains(&kind)
    }

    /// Leaves a policy out.
    pub fn leave_out(&mut self, kind: PolicyKind) {
        self.0.retain(|other| *other != kind);
    }

    /// Checks order and what must be there.
    pub(super) fn validate(&self, key: &str) -> Result<(), ConfigError> {
        check_order(&self.0).map_err(|error| ConfigError::StackOrder {
            key: key.to_owned(),
            source_name: None,
            error,
        })?;
        for (kind, consequence) in NEEDED {
            if !self.has(kind) {
                return Err(ConfigError::StackLacks {
                    key: key.to_owned(),
                    source_name: None,
                    kind,
                    consequence,
                });
            }
        }
        Ok(())
    }
}

/// What every run relies on, and what would happen without it.
const NEEDED: [(PolicyKind, &str); 2] = [
    (
        PolicyKind::TotalDeadline,
        "a plugin that hangs would keep its run from ever ending",
    ),
    (
        PolicyKind::CatchPanic,
        "a panic of a plugin that is compiled in would end the whole run, and not only its step",
    ),
];

impl<'de> Deserialize<'de> for PolicyStack {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let kinds = names.iter().map(|name| named(name));
        kinds
            .collect::<Result<_, _>>()
            .map(Self)
            .map_err(D::Error::custom)
    }
}

fn named(name: &str) -> Result<PolicyKind, String> {
    let all = || PolicyKind::ALL.map(PolicyKind::as_str);
    let found = PolicyKind::ALL
        .into_iter()
        .find(|kind| kind.as_str() == name);
    found.ok_or_else(|| {
        let hint = suggest(name, all(), || format!("there is {}", listed(all())));
        format!("{} is no policy, {hint}", quoted(name))
    })
}
