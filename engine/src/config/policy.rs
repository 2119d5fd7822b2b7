//! The policies around a phase, and how overrides are laid over them.

use std::{num::NonZeroU32, time::Duration};

use figment::{Figment, providers::Serialized};
use orchestrator_plugin_runtime::byte_size;
use orchestrator_policies::{
    BreakerConfig, BulkheadConfig, LastGoodConfig, PolicyKind, RateLimitConfig, RetryConfig,
    ShedConfig,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ConfigError, PolicyStack};

/// The policies around a phase, in the order a call meets them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Which policies there are.
    pub stack: PolicyStack,
    /// What steps may fall back to.
    pub fallback: FallbackConfig,
    /// Time limits.
    #[serde(default)]
    pub deadline: DeadlineOverrides,
    /// Which calls are turned away first when there are too many.
    pub shed: ShedConfig,
    /// How often it may be called.
    pub rate_limit: RateLimitConfig,
    /// When a failed call is tried again.
    pub retry: RetryConfig,
    /// When it is given a rest.
    pub breaker: BreakerConfig,
    /// How many calls it may hold at once.
    pub bulkhead: BulkheadConfig,
}

/// What is kept so that steps may fall back to it.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FallbackConfig {
    /// Longer inputs and results have no last good result, in bytes.
    #[serde(with = "byte_size")]
    pub result_bytes_max: u64,
    /// How many results are kept of a plugin, and for how long.
    pub last_good: LastGoodConfig,
}

/// Time limits, where they are not the manifest's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeadlineOverrides {
    /// The whole call. Unset: the manifest's `timeout`.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub total: Option<Duration>,
    /// One attempt. Unset: as long as the whole call.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub attempt: Option<Duration>,
}

impl PolicyConfig {
    /// These policies with `layers` laid over them, later ones on top. `null`
    /// changes nothing.
    ///
    /// # Errors
    ///
    /// Names `place` and the key that does not fit.
    pub fn overridden<'a>(
        &self,
        place: &str,
        layers: impl IntoIterator<Item = &'a Value>,
    ) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(self));
        for layer in layers.into_iter().filter(|layer| !layer.is_null()) {
            figment = figment.merge(Serialized::defaults(layer));
        }
        let policy: Self = figment
            .extract()
            .map_err(|error| ConfigError::misfit_in(place, error))?;
        policy.validate(place)?;
        Ok(policy)
    }

    /// Tries at a call altogether: one where nothing is tried again.
    pub(crate) fn max_attempts(&self) -> NonZeroU32 {
        match self.stack.has(PolicyKind::Retry) {
            true => self.retry.max_attempts,
            false => NonZeroU32::MIN,
        }
    }

    /// Checks that the values can work together.
    pub(super) fn validate(&self, place: &str) -> Result<(), ConfigError> {
        let in_place = |section: &str, result: Result<(), orchestrator_policies::ConfigError>| {
            result.map_err(|error| ConfigError::Policy {
                section: format!("{place}.{section}"),
                error,
            })
        };
        self.stack.validate(&format!("{place}.stack"))?;
        in_place("fallback.last_good", self.fallback.last_good.validate())?;
        in_place("shed", self.shed.validate())?;
        in_place("rate_limit", self.rate_limit.validate())?;
        in_place("retry", self.retry.validate())?;
        in_place("breaker", self.breaker.validate())?;
        in_place("bulkhead", self.bulkhead.validate())?;
        let DeadlineOverrides { total, attempt } = self.deadline;
        if total.is_some_and(|total| total.is_zero()) || attempt.is_some_and(|one| one.is_zero()) {
            return Err(ConfigError::NoTime {
                section: format!("{place}.deadline"),
            });
        }
        match (total, attempt) {
            (Some(total), Some(attempt)) if attempt > total => {
                Err(ConfigError::AttemptOutlastsTotal {
                    section: format!("{place}.deadline"),
                    attempt,
                    total,
                })
            }
            _ => Ok(()),
        }
    }
}
