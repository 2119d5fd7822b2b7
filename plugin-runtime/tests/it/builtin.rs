//! Plugins compiled into the host.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use orchestrator_contract::{
    CallError, Event, HostFuture, HostOperation, HostService, LogLevel, Payload, PhaseCall,
    PhaseReply, PluginId, PluginState, SessionId,
};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::{BoxFuture, Builtin, CallContext, Plugin, RuntimeError};
use serde_json::{Value, json};
use tokio::time::sleep;
use tower::Service as _;

use crate::support::{Home, call, eventually, handle, output, phase_call, status};

fn echo(id: &str) -> Builtin {
    Builtin::phase(id, "1.0.0", "echo", async |call: PhaseCall, _| {
        Ok(call.input)
    })
    .unwrap()
}

/// A plugin that writes down what is asked of it.
struct Recorder {
    id: String,
    journal: Arc<Mutex<Vec<String>>>,
    fails_at: &'static str,
}

impl Recorder {
    fn note(&self, hook: &str) -> BoxFuture<'_, Result<(), String>> {
        self.journal
            .lock()
            .unwrap()
            .push(format!("{} {hook}", self.id));
        let failed = hook == self.fails_at;
        let hangs = self.fails_at == "hangs" && hook == "start";
        Box::pin(async move {
            if hangs {
                sleep(Duration::from_secs(3600)).await;
            }
            if failed {
                Err("as told".to_owned())
            } else {
                Ok(())
            }
        })
    }
}

impl Plugin for Recorder {
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        context: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        Box::pin(async move {
            let config = Payload::json(context.config()).unwrap();
            Ok(PhaseReply::new(if call.phase.as_str() == "config" {
                config
            } else {
                call.input
            }))
        })
    }

    fn init<'a>(&'a self, _: &'a Value) -> BoxFuture<'a, Result<(), String>> {
        self.note("init")
    }

    fn start(&self) -> BoxFuture<'_, Result<(), String>> {
        self.note("start")
    }

    fn health(&self) -> BoxFuture<'_, Result<(), String>> {
        self.note("health")
    }

    fn stop(&self) -> BoxFuture<'_, Result<(), String>> {
        self.note("stop")
    }

    fn destroy(&self) -> BoxFuture<'_, Result<(), String>> {
        self.note("destroy")
    }
}

fn recorder(
    id: &str,
    needs: &[&str],
    fails_at: &'static str,
    journal: &Arc<Mutex<Vec<String>>>,
) -> Builtin {
    let needs: HashMap<_, _> = needs.iter().map(|need| (*need, "*")).collect();
    let manifest = json!({
        "id": id, "version": "1.0.0", "description": "Writes down.", "kind": "builtin",
        "entry_point": id, "phases": [{ "name": "echo" }, { "name": "config" }],
        "dependencies": needs,
    });
    let manifest = Manifest::from_value(&manifest, id).unwrap();
    let (id, journal) = (id.to_owned(), Arc::clone(journal));
    Builtin::new(
        manifest,
        Recorder {
            id,
            journal,
            fails_at,
        },
    )
}

#[tokio::test]
async fn a_closure_is_a_plugin() {
    let home = Home::new();
    let runtime = home.start_with(vec![echo("echo")]).await.unwrap();
    let plugin = handle(&runtime, "echo");
    assert_eq!(output(&plugin, "echo", json!([1, 2])).await, json!([1, 2]));
    let seen = status(&runtime, "echo");
    assert_eq!(
        (seen.kind, seen.trust_level, seen.state),
        ("builtin", Some(3), PluginState::Running)
    );
    assert_eq!(plugin.phase("echo").unwrap().name, "echo");
    assert!(plugin.phase("other").is_none());
    assert_eq!(plugin.digest().len(), 64);
}

#[tokio::test]
async fn hooks_run_in_order_dependencies_first_and_backwards_at_the_end() {
    let home = Home::new();
    let journal = Arc::default();
    let builtins = vec![
        recorder("a-user", &["base"], "", &journal),
        recorder("base", &[], "", &journal),
    ];
    let runtime = home.start_with(builtins).await.unwrap();
    assert_eq!(
        output(&handle(&runtime, "base"), "echo", json!(1)).await,
        json!(1)
    );
    runtime.shutdown(Duration::from_secs(1)).await.unwrap();
    let expected = [
        "base init",
        "base start",
        "base health",
        "a-user init",
        "a-user start",
        "a-user health",
        "a-user stop",
        "a-user destroy",
        "base stop",
        "base destroy",
    ];
    assert_eq!(*journal.lock().unwrap(), expected);
}

/// Starts a plugin whose hook fails, one that needs it and one that does not.
async fn failing(fails_at: &'static str, code: &str, text: &str, expected: &[&str]) {
    let home = Home::new();
    let journal = Arc::default();
    let builtins = vec![
        recorder("user", &["base"], "", &journal),
        recorder("base", &[], fails_at, &journal),
        echo("other"),
    ];
    let runtime = home.start_with(builtins).await.unwrap();
    let base = status(&runtime, "base");
    assert_eq!(base.state, PluginState::Error, "{fails_at}");
    let problem = base.error.unwrap();
    assert_eq!((&*problem.code, &*problem.message), (code, text));
    assert_eq!(*journal.lock().unwrap(), expected);
    let error = call(&handle(&runtime, "user"), "echo", json!(1))
        .await
        .unwrap_err();
    let message = "dependency base not running for plugin user";
    assert!(error.to_string().contains(message), "{error}");
    let answer = output(&handle(&runtime, "other"), "echo", json!(1)).await;
    assert_eq!(answer, json!(1));
    runtime.shutdown(Duration::from_secs(1)).await.unwrap();
    assert_eq!(
        *journal.lock().unwrap(),
        expected,
        "what never ran is not stopped"
    );
}

#[tokio::test]
async fn a_failed_hook_is_undone_named_and_stops_dependants_only() {
    failing(
        "init",
        "ORC-3032",
        "initializing plugin base: as told",
        &["base init"],
    )
    .await;
    let done = ["base init", "base start", "base destroy"];
    failing("start", "ORC-3032", "starting plugin base: as told", &done).await;
    let done = [
        "base init",
        "base start",
        "base health",
        "base stop",
        "base destroy",
    ];
    failing(
        "health",
        "ORC-3033",
        "plugin base health check failed: as told",
        &done,
    )
    .await;
}

/// Nobody else wants what was started for it, and what comes later is not touched.
#[tokio::test]
async fn where_the_middle_of_a_chain_fails_what_came_before_is_undone_backwards() {
    for (fails_at, of_the_third) in [
        ("init", &["c init"][..]),
        ("start", &["c init", "c start", "c destroy"]),
    ] {
        let home = Home::new();
        let journal = Arc::default();
        let chain = [("a", ""), ("b", "a"), ("c", "b"), ("d", "c")].map(|(id, needed)| {
            let fails_at = if id == "c" { fails_at } else { "" };
            let needed: Vec<_> = [needed].into_iter().filter(|it| !it.is_empty()).collect();
            recorder(id, &needed, fails_at, &journal)
        });
        let runtime = home.load_with(chain.into()).await.unwrap();
        let refused = call(&handle(&runtime, "d"), "echo", json!(1)).await;
        let message = "dependency c not running for plugin d";
        assert!(refused.unwrap_err().to_string().contains(message));
        let before = [
            "a init", "a start", "a health", "b init", "b start", "b health",
        ];
        let undone = ["b stop", "b destroy", "a stop", "a destroy"];
        let expected = [&before[..], of_the_third, &undone].concat();
        assert_eq!(*journal.lock().unwrap(), expected, "{fails_at}");
        let states = ["a", "b", "c", "d"].map(|id| status(&runtime, id).state);
        use PluginState::{Error, Loaded};
        assert_eq!(states, [Loaded, Loaded, Error, Loaded]);
    }
}

#[tokio::test]
async fn a_start_hook_that_hangs_ends_at_its_limit() {
    let mut home = Home::new();
    home.settings.start_timeout = Duration::from_millis(200);
    let journal = Arc::default();
    let runtime = home
        .start_with(vec![recorder("slow", &[], "hangs", &journal)])
        .await
        .unwrap();
    let seen = status(&runtime, "slow");
    let problem = seen.error.unwrap();
    assert_eq!(
        (&*problem.code, &*problem.message),
        (
            "ORC-3034",
            "plugin slow did not start within 200ms: timeout"
        )
    );
    assert_eq!(seen.state, PluginState::Error);
    assert_eq!(
        *journal.lock().unwrap(),
        ["slow init", "slow start", "slow destroy"]
    );
}

/// A caller that gives up does not cut a start off, and the hooks run once.
#[tokio::test]
async fn a_start_goes_on_when_its_caller_gives_up() {
    let mut home = Home::new();
    home.settings.start_timeout = Duration::from_millis(300);
    let journal = Arc::default();
    let runtime = home
        .start_with(vec![recorder("slow", &[], "hangs", &journal)])
        .await
        .unwrap();
    journal.lock().unwrap().clear();
    runtime.enable("slow").unwrap();
    for _ in 0..3 {
        let mut hasty = phase_call("slow", "echo", json!(1));
        hasty.deadline = Some((tokio::time::Instant::now() + Duration::from_millis(20)).into_std());
        let error = handle(&runtime, "slow").call(hasty).await.unwrap_err();
        assert!(
            error.to_string().contains("did not start in time"),
            "{error}"
        );
    }
    eventually("the start has failed", || {
        status(&runtime, "slow").state == PluginState::Error
    })
    .await;
    assert_eq!(
        *journal.lock().unwrap(),
        ["slow init", "slow start", "slow destroy"]
    );
}

#[tokio::test]
async fn a_stop_that_fails_is_reported_and_the_others_are_stopped() {
    let home = Home::new();
    let journal = Arc::default();
    let builtins = vec![
        recorder("one", &[], "stop", &journal),
        recorder("two", &[], "destroy", &journal),
        recorder("three", &[], "", &journal),
    ];
    let runtime = home.start_with(builtins).await.unwrap();
    let error = runtime.shutdown(Duration::from_secs(1)).await.unwrap_err();
    let RuntimeError::Stop { mut failures } = error else {
        panic!("{error}")
    };
    failures.sort_by(|one, other| one.message.cmp(&other.message));
    let messages: Vec<_> = failures.iter().map(|problem| &*problem.message).collect();
    assert_eq!(
        messages,
        [
            "destroying plugin two: as told",
            "stopping plugin one: as told"
        ]
    );
    let stops = journal
        .lock()
        .unwrap()
        .iter()
        .filter(|line| line.ends_with("destroy"))
        .count();
    assert_eq!(stops, 3);
}

#[tokio::test]
async fn the_same_builtin_twice_and_a_builtin_of_another_kind_are_refused() {
    let home = Home::new();
    let twice = home
        .start_with(vec![echo("echo"), echo("echo")])
        .await
        .unwrap_err();
    assert_eq!(twice.to_string(), "plugin echo 1.0.0 already registered");
    let manifest = json!({
        "id": "x", "version": "1.0.0", "description": "d", "kind": "exec", "entry_point": "x",
        "phases": [{ "name": "echo" }],
    });
    let manifest = Manifest::from_value(&manifest, "x").unwrap();
    let plugin = Recorder {
        id: String::new(),
        journal: Arc::default(),
        fails_at: "",
    };
    let wrong = Builtin::new(manifest, plugin);
    let wrong = home.start_with(vec![wrong]).await.unwrap_err();
    assert!(matches!(wrong, RuntimeError::NotBuiltin { .. }), "{wrong}");
}

/// A host with one shared map.
#[derive(Default)]
struct Shelf(Mutex<HashMap<String, Value>>);

impl HostService for Shelf {
    fn answer<'a>(
        &'a self,
        _: &'a PluginId,
        _: SessionId,
        operation: HostOperation,
    ) -> HostFuture<'a> {
        let mut shelf = self.0.lock().unwrap();
        let answer = match operation {
            HostOperation::SessionGet { key } => shelf.get(&key).cloned().unwrap_or(Value::Null),
            HostOperation::SessionSet { key, value } => {
                shelf.insert(key, value);
                Value::Null
            }
            HostOperation::SessionDelete { key } => json!(shelf.remove(&key).is_some()),
            _ => json!(shelf.keys().collect::<Vec<_>>()),
        };
        Box::pin(async move { Ok(answer) })
    }
}

#[tokio::test]
async fn the_context_gives_progress_log_session_and_configuration() {
    let mut home = Home::new();
    home.host = Arc::new(Shelf::default());
    home.config.insert("ctx".to_owned(), json!({ "depth": 2 }));
    let answer = async |_: PhaseCall, context: CallContext| {
        context.progress(Some(200), "nearly\ndone");
        context.log(LogLevel::Warn, "careful");
        let session = context.session();
        session.set("colour", json!("red")).await.unwrap();
        assert_eq!(session.get("colour").await.unwrap(), json!("red"));
        assert_eq!(session.keys().await.unwrap(), ["colour"]);
        assert!(session.delete("colour").await.unwrap());
        assert!(!session.delete("colour").await.unwrap());
        let config: HashMap<String, u32> = context.config_as().unwrap();
        Ok(Payload::json(&config["depth"]).unwrap())
    };
    let plugin = Builtin::phase("ctx", "1.0.0", "run", answer).unwrap();
    let runtime = home.start_with(vec![plugin]).await.unwrap();
    assert_eq!(
        output(&handle(&runtime, "ctx"), "run", json!(0)).await,
        json!(2)
    );
    assert!(home.events.has_line(LogLevel::Warn, "careful"));
    assert!(home.events.all().iter().any(|event| matches!(
        event,
        Event::StepProgress { percent: Some(100), message, .. } if &**message == "nearly\\ndone"
    )));
}

#[tokio::test]
async fn dropping_the_runtime_refuses_calls_and_shutdown_waits_for_those_in_flight() {
    let home = Home::new();
    let slow = Builtin::phase("slow", "1.0.0", "run", async |call: PhaseCall, _| {
        sleep(Duration::from_millis(200)).await;
        Ok(call.input)
    });
    let runtime = home
        .start_with(vec![slow.unwrap(), echo("echo")])
        .await
        .unwrap();
    let (plugin, other) = (handle(&runtime, "slow"), handle(&runtime, "echo"));
    let in_flight = tokio::spawn(plugin.clone().call(phase_call("slow", "run", json!(7))));
    tokio::task::yield_now().await;
    runtime.shutdown(Duration::from_secs(5)).await.unwrap();
    assert!(
        in_flight.is_finished(),
        "shutdown came back before the call"
    );
    in_flight.await.unwrap().unwrap();
    assert!(
        call(&other, "echo", json!(1))
            .await
            .unwrap_err()
            .not_started()
    );

    let runtime = home.start_with(vec![echo("echo")]).await.unwrap();
    let plugin = handle(&runtime, "echo");
    drop(runtime);
    assert!(
        call(&plugin, "echo", json!(1))
            .await
            .unwrap_err()
            .not_started()
    );
}
