//! Plugins of kind `exec`, as shell scripts.

use std::time::Duration;

use orchestrator_contract::{CallError, ErrorKind, Event, LogLevel, LogStream, PluginState};
use serde_json::json;
use tokio::time::timeout;
use tower::Service as _;

use crate::support::{File, Home, call, eventually, handle, output, phase_call, processes, status};

#[tokio::test]
async fn input_and_output_are_the_bytes_of_stdin_and_stdout() {
    let home = Home::new();
    let id = home.id("echo");
    home.shell(&id, &["run"], "run) cat;;");
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let input = json!({ "text": "äöü \u{1f600}", "n": [1, 2.5, null] });
    assert_eq!(output(&plugin, "run", input.clone()).await, input);
    // Longer than any pipe's buffer.
    let long = json!("x".repeat(1 << 20));
    assert_eq!(output(&plugin, "run", long.clone()).await, long);
    assert_eq!(status(&runtime, &id).state, PluginState::Running);
    home.no_process_left(&id).await;
}

#[tokio::test]
async fn the_environment_is_what_is_documented_and_nothing_else() {
    let mut home = Home::new();
    let id = home.id("env");
    home.config.insert(id.clone(), json!({ "level": 3 }));
    // `env` is started by a clean shell, so PWD and _ are the shell's own.
    home.shell(&id, &["run"], "run) env -u PWD -u _ -u OLDPWD -u SHLVL | sort | \
        awk '{ gsub(/\\\\/,\"\\\\\\\\\"); gsub(/\"/,\"\\\\\\\"\"); printf \"%s\\\"%s\\\"\", (NR==1?\"[\":\",\"), $0 } END { print \"]\" }';;");
    let runtime = home.start().await;
    let seen = output(&handle(&runtime, &id), "run", json!({})).await;
    let seen: Vec<String> = serde_json::from_value(seen).unwrap();
    let remaining = seen
        .iter()
        .find_map(|it| it.strip_prefix("ORCHESTRATOR_TIMEOUT_MS="));
    assert!((1..=20_000).contains(&remaining.unwrap().parse::<u64>().unwrap()));
    let seen: Vec<_> = seen
        .iter()
        .filter(|it| !it.starts_with("ORCHESTRATOR_TIMEOUT_MS="))
        .collect();
    let expected = [
        "LANG=C.UTF-8".to_owned(),
        "ORCHESTRATOR_ATTEMPT=1".to_owned(),
        "ORCHESTRATOR_CONFIG={\"level\":3}".to_owned(),
        "ORCHESTRATOR_CONTENT_TYPE=application/json".to_owned(),
        "ORCHESTRATOR_CRITICALITY=critical".to_owned(),
        "ORCHESTRATOR_GRANTS=process:spawn=/bin/sh".to_owned(),
        "ORCHESTRATOR_IDEMPOTENCY_KEY=key-1".to_owned(),
        "ORCHESTRATOR_PHASE=run".to_owned(),
        format!("ORCHESTRATOR_PLUGIN={id}"),
        "ORCHESTRATOR_PROTOCOL=1".to_owned(),
        "ORCHESTRATOR_RUN=0000000001".to_owned() + "0000000000000002",
        "ORCHESTRATOR_SESSION=0000000003".to_owned() + "0000000000000004",
        "ORCHESTRATOR_STEP=step".to_owned(),
        "ORCHESTRATOR_TENANT=acme".to_owned(),
        "ORCHESTRATOR_VERSION=1.0.0".to_owned(),
        "PATH=/usr/bin:/bin".to_owned(),
        format!("TRACEPARENT=00-{:032x}-{:016x}-01", 7, 8),
    ];
    assert_eq!(seen, expected.iter().collect::<Vec<_>>());
}

#[tokio::test]
async fn every_way_to_fail_is_a_distinct_error() {
    let home = Home::new();
    let id = home.id("fail");
    let phases = [
        "three", "one", "data", "temp", "unavail", "perm", "garbage", "empty", "killed", "null",
    ];
    home.shell(
        &id,
        &phases,
        "three) echo 'it broke' >&2; exit 3;;\n one) exit 1;;\n data) echo 'no text' >&2; exit 65;;\n\
         temp) echo busy >&2; exit 75;;\n unavail) exit 69;;\n perm) echo 'no spawn' >&2; exit 77;;\n\
         garbage) head -c 64 /dev/urandom;;\n empty) ;;\n killed) echo dying >&2; kill -SEGV $$;;\n\
         null) echo null;;",
    );
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    let permanent = |message: &str| CallError::permanent(message);
    let cases = [
        ("three", permanent("exited with status 3: it broke")),
        ("one", permanent("exited with status 1")),
        ("data", CallError::invalid_input("no text")),
        ("temp", CallError::transient("busy")),
        ("unavail", CallError::transient("exited with status 69")),
        (
            "perm",
            CallError::Permission {
                message: "no spawn".into(),
            },
        ),
        (
            "killed",
            CallError::Crash {
                status: "was killed by signal 11".into(),
                output: "dying".into(),
            },
        ),
    ];
    for (phase, expected) in cases {
        assert_eq!(
            call(&plugin, phase, json!({})).await,
            Err(expected),
            "{phase}"
        );
    }
    for phase in ["garbage", "empty"] {
        let error = call(&plugin, phase, json!({})).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidOutput, "{phase}: {error}");
    }
    // A process that never reads its input is free to.
    let unread = call(&plugin, "null", json!("x".repeat(1 << 20))).await;
    assert_eq!(unread.unwrap().output.bytes, "null\n");
    let unknown = call(&plugin, "absent", json!({})).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::InvalidInput);
    home.no_process_left(&id).await;
}

#[tokio::test]
async fn output_without_end_is_cut_off_and_its_process_killed() {
    let mut home = Home::new();
    home.settings.exec.output_bytes_max = 1 << 20;
    let id = home.id("big");
    home.shell(&id, &["run"], "run) head -c 1000000000 /dev/zero;;");
    let runtime = home.start().await;
    let error = call(&handle(&runtime, &id), "run", json!({}))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "limit of output exceeded: stdout is longer than 1048576 bytes"
    );
    let reported = home.events.all().into_iter().any(|event| {
        matches!(event, Event::ResourceViolation { resource, limit: 1_048_576, .. } if &*resource == "output")
    });
    assert!(reported);
    home.no_process_left(&id).await;
}

#[tokio::test]
async fn a_call_that_is_given_up_takes_its_whole_process_group_with_it() {
    let mut home = Home::new();
    home.settings.exec.kill_grace = Duration::from_millis(100);
    let id = home.id("hang");
    home.shell(
        &id,
        &["polite", "stubborn"],
        "polite) sleep 999 & echo started >&2; wait;;\n\
         stubborn) trap '' TERM; sleep 999 & echo started >&2; wait; sleep 999;;",
    );
    let runtime = home.start().await;
    for phase in ["polite", "stubborn"] {
        let mut plugin = handle(&runtime, &id);
        let hanging = tokio::spawn(plugin.call(phase_call(&id, phase, json!({}))));
        let pattern = format!("ORCHESTRATOR_PHASE={phase}");
        // The shell and its child.
        eventually("two processes", || {
            let of_plugin = processes(&format!("ORCHESTRATOR_PLUGIN={id}"));
            processes(&pattern)
                .iter()
                .filter(|pid| of_plugin.contains(pid))
                .count()
                >= 2
        })
        .await;
        hanging.abort();
        home.no_process_left(&id).await;
    }
    let waited = timeout(
        Duration::from_millis(200),
        handle(&runtime, &id).call(phase_call(&id, "polite", json!({}))),
    );
    assert!(waited.await.is_err());
    home.no_process_left(&id).await;
}

#[tokio::test]
async fn stderr_is_the_log_with_levels_and_the_call_it_belongs_to() {
    let home = Home::new();
    let id = home.id("log");
    home.shell(
        &id,
        &["run"],
        "run) printf 'one\\ntwo\\nth' >&2; sleep 0.05; printf 'ree\\n' >&2; echo 'WARN careful' >&2;\n\
         echo '{\"level\":\"debug\",\"msg\":\"detail\"}' >&2; printf '\\033[31mred' >&2; echo 1;;",
    );
    let runtime = home.start().await;
    output(&handle(&runtime, &id), "run", json!({})).await;
    let lines = home.events.lines();
    let expected = [
        (LogLevel::Error, "one"),
        (LogLevel::Error, "two"),
        (LogLevel::Error, "three"),
        (LogLevel::Warn, "careful"),
        (LogLevel::Debug, "detail"),
        (LogLevel::Error, "\\x1b[31mred"),
    ];
    let expected: Vec<_> = expected
        .iter()
        .map(|(level, line)| (*level, (*line).to_owned()))
        .collect();
    assert_eq!(lines, expected);
    let attributed = home.events.all().into_iter().any(|event| match event {
        Event::PluginLog {
            stream, run, trace, ..
        } => {
            let call = phase_call(&id, "run", json!({}));
            (stream, run, trace) == (LogStream::Stderr, Some(call.run), Some(call.trace))
        }
        _ => false,
    });
    assert!(attributed);
}

#[tokio::test]
async fn a_flood_of_log_lines_is_bounded_and_counted() {
    let mut home = Home::new();
    home.settings.log.burst = 50;
    home.settings.log.lines_per_second = 1;
    let id = home.id("flood");
    home.shell(
        &id,
        &["run"],
        "run) yes 'a line of the flood' | head -n 2000000 >&2; echo 1;;",
    );
    let runtime = home.start().await;
    output(&handle(&runtime, &id), "run", json!({})).await;
    let lines = home.events.lines();
    assert!(lines.len() < 200, "{}", lines.len());
    let suppressed: u64 = lines
        .iter()
        .filter_map(|(_, line)| line.strip_suffix(" lines suppressed: the plugin wrote too fast"))
        .map(|count| count.parse::<u64>().unwrap())
        .sum();
    let shown = lines
        .iter()
        .filter(|(_, line)| line == "a line of the flood")
        .count() as u64;
    assert_eq!(shown + suppressed, 2_000_000);
}

#[tokio::test]
async fn validate_refuses_with_its_stderr_and_info_must_agree() {
    let home = Home::new();
    let (refused, wrong) = (home.id("refused"), home.id("wrong"));
    let script = "case $1 in validate) echo 'no database' >&2; exit 1;; esac";
    home.package(
        &refused,
        json!({}),
        &[File {
            path: "main.sh",
            content: script,
        }],
    );
    let script = "case $1 in validate) ;; info) echo '{\"name\":\"x\",\"version\":\"1.0.0\",\"phases\":[\"run\"]}';; esac";
    home.package(
        &wrong,
        json!({}),
        &[File {
            path: "main.sh",
            content: script,
        }],
    );
    let runtime = home.start().await;
    for (id, code, text) in [
        (&refused, "ORC-3040", "no database"),
        (&wrong, "ORC-3041", "id x instead of"),
    ] {
        let error = call(&handle(&runtime, id), "run", json!({}))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PluginPermanent);
        assert!(error.to_string().contains(text), "{error}");
        let status = status(&runtime, id);
        assert_eq!(status.state, PluginState::Error);
        assert_eq!(status.error.unwrap().code, code);
        let refused = runtime.resolve(id, &"*".parse().unwrap()).unwrap_err();
        assert_eq!(
            miette::Diagnostic::code(&refused).unwrap().to_string(),
            code
        );
    }
}

#[tokio::test]
async fn assets_are_below_the_plugin_directory_and_read_only() {
    let home = Home::new();
    let id = home.id("assets");
    let branches = "run) printf '\"'; cat \"$ORCHESTRATOR_PLUGIN_DIR/data/name.txt\"; printf '\"'; \
         stat -c %a \"$ORCHESTRATOR_PLUGIN_DIR\" \"$ORCHESTRATOR_PLUGIN_DIR/data/name.txt\" >&2;;";
    let script = crate::support::shell_script(&id, &["run"], branches);
    home.package(
        &id,
        json!({}),
        &[
            File {
                path: "main.sh",
                content: &script,
            },
            File {
                path: "data/name.txt",
                content: "an asset",
            },
        ],
    );
    let runtime = home.start().await;
    assert_eq!(
        output(&handle(&runtime, &id), "run", json!({})).await,
        json!("an asset")
    );
    let modes: Vec<_> = home
        .events
        .lines()
        .into_iter()
        .map(|(_, line)| line)
        .collect();
    assert_eq!(modes, ["500", "555"]);
    runtime.shutdown(Duration::from_secs(1)).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(home.path("run"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(left.is_empty(), "{left:?} outlived the runtime");
}

#[tokio::test]
async fn calls_beyond_the_concurrency_wait_for_their_turn() {
    let mut home = Home::new();
    home.settings.exec.concurrency_max = 2;
    home.settings.exec.waiting_max = 4;
    let id = home.id("queue");
    home.shell(&id, &["run"], "run) sleep 0.2; echo 1;;");
    let runtime = home.start().await;
    let plugin = handle(&runtime, &id);
    output(&plugin, "run", json!({})).await;
    let calls: Vec<_> = (0..6)
        .map(|_| tokio::spawn(plugin.clone().call(phase_call(&id, "run", json!({})))))
        .collect();
    eventually("four calls wait", || status(&runtime, &id).waiting == 4).await;
    let refused = call(&plugin, "run", json!({})).await;
    assert_eq!(refused, Err(CallError::Overloaded { limit: 4 }));
    let mut most = 0;
    let mut waited = 0;
    while calls.iter().any(|call| !call.is_finished()) {
        most = most.max(processes(&format!("ORCHESTRATOR_PLUGIN={id}")).len());
        waited = waited.max(status(&runtime, &id).waiting);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Each call is a shell and its `sleep`.
    assert!(most <= 4, "{most} processes");
    assert_eq!(waited, 4, "calls that waited at once");
    for call in calls {
        call.await.unwrap().unwrap();
    }
}
