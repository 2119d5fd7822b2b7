//! Configurations as an operator writes them.

use std::time::Duration;

use orchestrator_policies::{
    BreakerConfig, BulkheadConfig, DeadlineConfig, HealthConfig, LastGoodConfig, RateLimitConfig,
    Ratio, RetryConfig, ShedConfig,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Policies {
    deadline: DeadlineConfig,
    rate_limit: RateLimitConfig,
    retry: RetryConfig,
    breaker: BreakerConfig,
    bulkhead: BulkheadConfig,
    health: HealthConfig,
    last_good: LastGoodConfig,
    shed: ShedConfig,
}

fn refused<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
    toml::from_str::<T>(text).unwrap_err().message().to_owned()
}

#[test]
fn what_is_left_out_keeps_its_default() {
    assert_eq!(toml::from_str::<Policies>("").unwrap(), Policies::default());
}

#[test]
fn the_defaults_survive_being_written_down() {
    let text = toml::to_string(&Policies::default()).unwrap();

    assert!(
        text.contains(r#"open = "5s""#),
        "times are written with their unit:\n{text}"
    );
    assert_eq!(
        toml::from_str::<Policies>(&text).unwrap(),
        Policies::default()
    );
}

#[test]
fn the_defaults_can_work() {
    let policies = Policies::default();

    assert_eq!(policies.deadline.validate(), Ok(()));
    assert_eq!(policies.rate_limit.validate(), Ok(()));
    assert_eq!(policies.retry.validate(), Ok(()));
    assert_eq!(policies.breaker.validate(), Ok(()));
    assert_eq!(policies.health.validate(), Ok(()));
    assert_eq!(policies.last_good.validate(), Ok(()));
    assert_eq!(policies.bulkhead.validate(), Ok(()));
    assert_eq!(policies.shed.validate(), Ok(()));
}

#[test]
fn every_setting_can_be_written() {
    let text = r#"
        [deadline]
        total = "5m"
        attempt = "250ms"
        [rate_limit]
        overall = { calls = 100 }
        per_tenant = { calls = 600, per = "1m", burst = 5 }
        max_tenants = 7
        max_wait = "2s"
        max_queue = 8
        [retry]
        max_attempts = 4
        base_delay = "1s"
        max_delay = "1m"
        budget = { ratio = 0.2, reserve = 3, ttl = "20s" }
        [breaker]
        mode = "observe_only"
        window = "10s"
        min_requests = 20
        failure_ratio = 0.5
        consecutive_failures = 7
        slow_after = "1s"
        slow_ratio = 0.8
        short_deadline = "100ms"
        open = "1s"
        max_open = "30s"
        backoff_reset = "2m"
        max_probes = 2
        success_threshold = 4
        probe_lease = "3s"
        ramp = "10s"
        [health]
        interval = "5s"
        jitter = 0.2
        timeout = "1s"
        unhealthy_after = 2
        healthy_after = 1
        max_checks = 9
        [last_good]
        max_keys = 100
        max_age = "1m"
        [bulkhead]
        max_concurrent = 8
        max_queue = 16
        max_wait = "1s"
        [shed]
        max_in_flight = 100
        critical = 0.9
        sheddable_plus = 0.6
        sheddable = 0.5
    "#;

    let policies: Policies = toml::from_str(text).unwrap();

    assert_eq!(policies.deadline.total, Duration::from_secs(300));
    assert_eq!(policies.breaker.slow_ratio, Ratio::new(0.8));
    let per_tenant = policies.rate_limit.per_tenant.as_ref().unwrap();
    assert_eq!(
        (per_tenant.calls.get(), per_tenant.per),
        (600, Duration::from_secs(60))
    );
    let written = toml::to_string(&policies).unwrap();
    assert_eq!(toml::from_str::<Policies>(&written).unwrap(), policies);
}

#[test]
fn unknown_settings_and_impossible_values_are_refused() {
    assert!(refused::<DeadlineConfig>("totl = \"1s\"").contains("unknown field `totl`"));
    assert!(refused::<RetryConfig>("budget = { ration = 0.1 }").contains("unknown field `ration`"));
    assert!(
        refused::<RateLimitConfig>("overall = { calls = 1, every = \"1s\" }")
            .contains("unknown field `every`")
    );
    assert!(refused::<BulkheadConfig>("max_concurrent = 0").contains("nonzero"));
    assert!(refused::<ShedConfig>("sheddable = 0").contains("not a ratio"));
    assert!(refused::<BreakerConfig>("failure_ratio = 1.5").contains("1.5 is not a ratio"));
    assert!(refused::<BreakerConfig>("failure_ratio = nan").contains("is not a ratio"));
    assert!(
        refused::<DeadlineConfig>("total = 5").contains("invalid type"),
        "a time needs its unit"
    );
}
