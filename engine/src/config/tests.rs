//! The configuration as an operator meets it.

use std::{fs, path::PathBuf};

use super::*;

fn load(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("typo.toml");
    fs::write(&file, text).unwrap();
    Config::load(&Sources {
        file: Some(file),
        ..Sources::default()
    })
}

/// `default.toml` is the one place for a default; where a crate stands on its
/// own and has a `Default` as well, the two say the same. Only how many calls may
/// be under way differs: those of an engine belong to runs that were accepted.
#[test]
fn the_defaults_are_those_of_the_crates() {
    let config = Config::defaults().unwrap();
    let policy = config.policy;
    let shed = orchestrator_policies::ShedConfig {
        max_in_flight: policy.shed.max_in_flight,
        ..orchestrator_policies::ShedConfig::default()
    };
    assert_eq!(policy.shed, shed);
    assert_eq!(
        policy.rate_limit,
        orchestrator_policies::RateLimitConfig::default()
    );
    assert_eq!(policy.retry, orchestrator_policies::RetryConfig::default());
    let last_good = orchestrator_policies::LastGoodConfig::default();
    assert_eq!(policy.fallback.last_good, last_good);
    assert_eq!(
        policy.breaker,
        orchestrator_policies::BreakerConfig::default()
    );
    let bulkhead = orchestrator_policies::BulkheadConfig {
        max_queue: policy.bulkhead.max_queue,
        max_wait: policy.bulkhead.max_wait,
        ..orchestrator_policies::BulkheadConfig::default()
    };
    assert_eq!(policy.bulkhead, bulkhead);
    assert_eq!(config.runtime, RuntimeSettings::default());
}

/// Whoever adds a configuration to the policies says here where its defaults
/// are compared, or why the engine has none of its keys.
#[test]
fn every_configuration_of_a_policy_is_compared_or_exempt() {
    let compared = [
        "BreakerConfig",
        "BulkheadConfig",
        "LastGoodConfig",
        "RateLimitConfig",
        "RetryBudgetConfig", // as part of `RetryConfig`
        "RetryConfig",
        "ShedConfig",
    ];
    let exempt = [
        "DeadlineConfig", // how long a phase may take, its manifest says
        "HealthConfig",   // the engine asks no plugin how it is; a breaker learns it from the calls
    ];
    let policies = concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/src");
    let mut folders = vec![PathBuf::from(policies)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(path).unwrap();
            let names = text.lines().filter_map(|line| {
                let name = line
                    .strip_prefix("pub struct ")?
                    .split([' ', '(', ';'])
                    .next()?;
                name.ends_with("Config").then(|| name.to_owned())
            });
            found.extend(names);
        }
    }
    let mut known: Vec<&str> = compared.into_iter().chain(exempt).collect();
    known.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, known);
}

/// With the limits as they are, no run that was accepted is turned away for
/// want of room.
#[test]
fn there_is_room_for_the_steps_of_all_runs() {
    let config = Config::defaults().unwrap();
    let calls = config.run.in_flight_max.get() * config.run.concurrency.get();
    let bulkhead = &config.policy.bulkhead;
    assert!(bulkhead.max_concurrent.get() + bulkhead.max_queue >= calls);
    let json = serde_json::to_value(&config.policy.shed).unwrap();
    let open = json["max_in_flight"].as_f64().unwrap() * json["critical"].as_f64().unwrap();
    assert!(open >= calls as f64, "{open}");
}

#[test]
fn a_misspelt_key_is_named_with_its_file() {
    let message = load("[run]\nconcurency = 4\n").unwrap_err().to_string();
    assert!(message.contains("concurency"), "{message}");
    assert!(message.contains("typo.toml"), "{message}");
}

#[test]
fn a_missing_file_is_not_an_empty_one() {
    let sources = Sources {
        file: Some(PathBuf::from("/nowhere/config.toml")),
        ..Sources::default()
    };
    assert!(matches!(
        Config::load(&sources),
        Err(ConfigError::Missing { .. })
    ));
}

#[test]
fn what_is_no_file_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let user_file = Some(dir.path().to_owned());
    let in_the_way = Config::load(&Sources {
        user_file,
        ..Sources::default()
    });
    let message = in_the_way.unwrap_err().to_string();
    assert!(message.contains("no regular file"), "{message}");
    assert!(message.contains(&dir.path().display().to_string()));
    let beyond_a_file = Config::load(&Sources {
        user_file: Some(PathBuf::from("/dev/null/config.toml")),
        ..Sources::default()
    });
    beyond_a_file.unwrap();
    let named = Config::load(&Sources {
        file: Some(dir.path().to_owned()),
        ..Sources::default()
    });
    assert!(matches!(named, Err(ConfigError::Unreadable { .. })));
    let long = load(&"# long\n".repeat(200_000));
    assert!(matches!(long, Err(ConfigError::Unreadable { .. })));
}

#[test]
fn an_override_deep_in_a_plugin_is_checked_at_load() {
    let unknown = load("[plugins.a.phases.b.retry]\nattempts = 4\n")
        .unwrap_err()
        .to_string();
    assert!(unknown.contains("plugins.a.phases.b"), "{unknown}");
    assert!(unknown.contains("attempts"), "{unknown}");
    let zero = load("[plugins.a.policy.breaker]\nmax_probes = 0\n");
    assert!(zero.is_err());
    let outlasts = load("[policy.deadline]\ntotal = \"1s\"\nattempt = \"2s\"\n");
    assert!(matches!(
        outlasts,
        Err(ConfigError::AttemptOutlastsTotal { .. })
    ));
}

#[test]
fn the_narrower_override_wins() {
    let config = load(
        "[policy.retry]\nmax_attempts = 2\n\
         [plugins.a.policy.retry]\nmax_attempts = 5\nmax_delay = \"1s\"\n\
         [plugins.a.phases.b.retry]\nmax_attempts = 7\n",
    )
    .unwrap();
    let a = &config.plugins["a"];
    let plugin = config.policy.overridden("a", [&a.policy]).unwrap();
    let phase = config
        .policy
        .overridden("b", [&a.policy, &a.phases["b"]])
        .unwrap();
    assert_eq!(config.policy.retry.max_attempts.get(), 2);
    assert_eq!(plugin.retry.max_attempts.get(), 5);
    assert_eq!(phase.retry.max_attempts.get(), 7);
    assert_eq!(phase.retry.max_delay, std::time::Duration::from_secs(1));
    assert!(config.has_own_policies("a", "b"));
    assert!(!config.has_own_policies("a", "c"));
}

#[test]
fn every_value_has_an_origin() {
    let dir = tempfile::tempdir().unwrap();
    let user_file = dir.path().join("config.toml");
    fs::write(&user_file, "[run]\nconcurrency = 3\n").unwrap();
    let sources = Sources {
        user_file: Some(user_file.clone()),
        overrides: vec![("log.level".into(), "debug".into())],
        ..Sources::default()
    };
    let (_, origins) = Config::load_with_origins(&sources).unwrap();
    let of = |key: &str| origins.iter().find(|origin| origin.key == key).unwrap();
    assert_eq!(of("run.concurrency").value, "3");
    assert_eq!(
        of("run.concurrency").source,
        user_file.display().to_string()
    );
    assert_eq!(of("log.level").source, "command line");
    assert_eq!(of("journal.retention").source, "default");
    assert!(origins.len() > 50, "only {} keys", origins.len());
}

/// Some of them would stop a task in the background, and others every request.
#[test]
fn values_that_cannot_work_are_refused_at_load() {
    for (section, key, value) in [
        ("journal", "cancel_poll", "\"0s\""),
        ("journal", "readers_max", "0"),
        ("session", "sweep_interval", "\"0s\""),
        ("runtime.monitor", "interval", "\"0s\""),
        ("server", "event_heartbeat", "\"0s\""),
        ("log", "level", "\"loud\""),
        ("log", "level", "\"\""),
    ] {
        let refused = load(&format!("[{section}]\n{key} = {value}\n"));
        let message = refused.expect_err(key).to_string();
        assert!(message.contains(&format!("`{section}.{key}`")), "{message}");
    }
    load("[log]\nlevel = \"info,orchestrator_engine=debug\"\n").unwrap();
}

fn refused(text: &str) -> (String, String) {
    use miette::Diagnostic as _;

    let error = load(text).unwrap_err();
    let code = error.code().map(|code| code.to_string());
    (error.to_string(), code.unwrap_or_default())
}

/// With the explanation of what it would do, the key and the file.
#[test]
fn policies_in_a_wrong_order_are_refused() {
    let right = "\"total_deadline\", \"retry\", \"breaker\", \"catch_panic\"";
    let wrong = "\"total_deadline\", \"breaker\", \"retry\", \"catch_panic\"";
    for (section, key) in [
        ("policy", "policy.stack"),
        ("plugins.a.policy", "plugins.a.policy.stack"),
        ("plugins.a.phases.b", "plugins.a.phases.b.stack"),
    ] {
        load(&format!("[{section}]\nstack = [{right}]\n")).unwrap();
        let (message, code) = refused(&format!("[{section}]\nstack = [{wrong}]\n"));
        assert_eq!(code, "ORC-1291");
        assert!(message.contains(&format!("`{key}`")), "{message}");
        assert!(message.contains("typo.toml"), "{message}");
        let consequence = "the breaker would see one failure for a whole chain of attempts";
        assert!(message.contains(consequence), "{message}");
    }
}

#[test]
fn a_policy_is_named_once_and_by_its_name() {
    let (message, code) = refused("[policy]\nstack = [\"retry\", \"retry\"]\n");
    assert_eq!(code, "ORC-1292", "{message}");
    for section in ["policy", "plugins.a.policy"] {
        let (message, code) = refused(&format!("[{section}]\nstack = [\"brekaer\"]\n"));
        assert_eq!(code, "ORC-1211");
        assert!(message.contains("did you mean `breaker`?"), "{message}");
        assert!(message.contains(&format!("{section}.stack")), "{message}");
        assert!(message.contains("typo.toml"), "{message}");
    }
}

#[test]
fn what_every_run_relies_on_cannot_be_left_out() {
    for (stack, missing) in [
        ("", "total_deadline"),
        ("\"total_deadline\", \"retry\"", "catch_panic"),
    ] {
        let (message, code) = refused(&format!("[policy]\nstack = [{stack}]\n"));
        assert_eq!(code, "ORC-1230");
        assert!(message.contains(missing), "{message}");
        assert!(message.contains("typo.toml"), "{message}");
    }
}

/// All are there unless something says otherwise, and one sees so.
#[test]
fn the_stack_is_shown() {
    use orchestrator_policies::PolicyKind;

    let (config, origins) = Config::load_with_origins(&Sources::default()).unwrap();
    let shown = origins.iter().find(|origin| origin.key == "policy.stack");
    let all = serde_json::to_string(&PolicyKind::ALL).unwrap();
    assert_eq!(shown.unwrap().value, all);
    assert!(
        PolicyKind::ALL
            .iter()
            .all(|kind| config.policy.stack.has(*kind))
    );
}

/// How a breaker works and how waits are spread is set as everything else is.
#[test]
fn mode_and_jitter_are_overridden_for_a_plugin_and_a_phase() {
    use orchestrator_policies::{BreakerMode, Jitter};

    let config = load(
        "[plugins.a.policy.breaker]\nmode = \"observe_only\"\n\
         [plugins.a.policy.retry]\njitter = \"decorrelated\"\n\
         [plugins.a.phases.b.breaker]\nmode = \"disabled\"\n\
         [plugins.a.phases.b.retry]\njitter = \"full\"\n",
    )
    .unwrap();
    let a = &config.plugins["a"];
    let of = |layers: &[&serde_json::Value]| {
        let layers = layers.iter().copied();
        let policy = config.policy.overridden("a", layers).unwrap();
        (policy.breaker.mode, policy.retry.jitter)
    };
    assert_eq!(of(&[]), (BreakerMode::Enforce, Jitter::Full));
    let plugin = of(&[&a.policy]);
    assert_eq!(plugin, (BreakerMode::ObserveOnly, Jitter::Decorrelated));
    let phase = of(&[&a.policy, &a.phases["b"]]);
    assert_eq!(phase, (BreakerMode::Disabled, Jitter::Full));
}
