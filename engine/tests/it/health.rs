//! Health checks of the plugins of an engine, and what follows from them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{Event, PhaseCall, PhaseReply, PluginState};
use orchestrator_engine::{
    Builtin, CallContext, Engine, Plugin, RunRequest,
    config::{Config, HealthAction},
};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::{BoxFuture, PluginStatus};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{Rig, eventually, pipeline};

const WELL: u8 = 0;
const SICK: u8 = 1;
const SILENT: u8 = 2;

/// As well as somebody wants it to be; a start makes it well.
#[derive(Default)]
struct Moody {
    mood: AtomicU8,
    starts: AtomicU32,
    asked: AtomicU32,
}

impl Moody {
    fn be(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }
}

struct Shared(Arc<Moody>);

impl Plugin for Shared {
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, orchestrator_contract::CallError>> {
        Box::pin(async { Ok(PhaseReply::new(call.input)) })
    }

    fn start(&self) -> BoxFuture<'_, Result<(), String>> {
        self.0.starts.fetch_add(1, Ordering::SeqCst);
        self.0.be(WELL);
        Box::pin(async { Ok(()) })
    }

    fn health(&self) -> BoxFuture<'_, Result<(), String>> {
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        let mood = self.0.mood.load(Ordering::SeqCst);
        Box::pin(async move {
            match mood {
                WELL => Ok(()),
                SICK => Err("the disk is gone".to_owned()),
                _ => std::future::pending().await,
            }
        })
    }
}

fn moody(id: &str) -> (Arc<Moody>, Builtin) {
    let manifest = json!({
        "id": id,
        "version": "1.0.0",
        "description": "Scripted.",
        "kind": "builtin",
        "entry_point": id,
        "phases": [{ "name": "now", "effect": "pure" }],
    });
    let manifest = Manifest::from_value(&manifest, id).unwrap();
    let moody = Arc::new(Moody::default());
    (Arc::clone(&moody), Builtin::new(manifest, Shared(moody)))
}

fn quick(config: &mut Config, action: HealthAction) {
    config.health.action = action;
    config.health.check.interval = Duration::from_millis(20);
    config.health.check.timeout = Duration::from_millis(200);
}

fn status(engine: &Engine, id: &str) -> PluginStatus {
    let plugins = engine.plugins().into_iter();
    plugins.filter(|it| it.id == id).last().unwrap()
}

async fn is_healthy(engine: &Engine, id: &str, healthy: bool) {
    let what = format!("{id} is healthy: {healthy}");
    eventually(&what, || status(engine, id).health.healthy == Some(healthy)).await;
}

fn told(rig: &Rig, id: &str, well: bool) -> usize {
    rig.told.count(|event| {
        matches!(event, Event::PluginHealthChanged { plugin, healthy, .. }
            if plugin.as_str() == id && *healthy == well)
    })
}

#[tokio::test]
async fn health_has_five_fields_and_needs_several_answers_to_change() {
    let (plugin, builtin) = moody("moody");
    let rig = Rig::new();
    let builder = rig.builder(|config| quick(config, HealthAction::Tell));
    let engine = builder.builtin(builtin).start().await.unwrap();
    is_healthy(&engine, "moody", true).await;
    plugin.be(SICK);
    is_healthy(&engine, "moody", false).await;
    let health = serde_json::to_value(status(&engine, "moody").health).unwrap();
    assert!(health["consecutive_fails"].as_u64() >= Some(3), "{health}");
    assert_eq!(health["last_error"], "the disk is gone");
    assert!(health["last_check"].is_i64() && health["metrics"]["failures"].is_u64());
    assert_eq!(
        (
            told(&rig, "moody", false),
            plugin.starts.load(Ordering::SeqCst)
        ),
        (1, 1)
    );
    let metrics = engine.telemetry().render();
    assert!(
        metrics.contains("orchestrator_plugin_healthy{plugin=\"moody\"} 0"),
        "{metrics}"
    );
    // Copies: what is done to one changes nothing.
    status(&engine, "moody").health.healthy = Some(true);
    assert_eq!(status(&engine, "moody").health.healthy, Some(false));

    plugin.be(WELL);
    is_healthy(&engine, "moody", true).await;
    let health = status(&engine, "moody").health;
    assert_eq!(health.consecutive_fails, 0);
    assert_eq!(told(&rig, "moody", true), 2);
    assert_eq!(status(&engine, "moody").state, PluginState::Running);
}

/// While one hangs, the other is asked many times.
#[tokio::test]
async fn a_check_that_hangs_is_late_and_holds_up_no_other() {
    let (silent, one) = moody("silent");
    let (well, other) = moody("well");
    let rig = Rig::new();
    let builder = rig.builder(|config| {
        quick(config, HealthAction::Tell);
        config.health.check.timeout = Duration::from_secs(2);
    });
    let engine = builder.builtin(one).builtin(other).start().await.unwrap();
    is_healthy(&engine, "silent", true).await;
    silent.be(SILENT);
    // At most one was on its way.
    let before = silent.asked.load(Ordering::SeqCst) + 2;
    let asked = well.asked.load(Ordering::SeqCst);
    eventually("the other is asked", || {
        well.asked.load(Ordering::SeqCst) > asked + 20
    })
    .await;
    assert!(silent.asked.load(Ordering::SeqCst) <= before);
    is_healthy(&engine, "silent", false).await;
    let health = status(&engine, "silent").health;
    assert_eq!(health.last_error.as_deref(), Some("timeout after 2s"));
    assert_eq!(status(&engine, "well").health.healthy, Some(true));
}

#[tokio::test]
async fn a_plugin_that_is_not_well_is_started_again_where_that_is_wanted() {
    let (plugin, builtin) = moody("moody");
    let rig = Rig::new();
    let builder = rig.builder(|config| quick(config, HealthAction::Restart));
    let engine = builder.builtin(builtin).start().await.unwrap();
    is_healthy(&engine, "moody", true).await;
    plugin.be(SICK);
    eventually("it is started again", || {
        plugin.starts.load(Ordering::SeqCst) == 2
    })
    .await;
    is_healthy(&engine, "moody", true).await;
    let seen = status(&engine, "moody");
    let why = "restarted because it is not well: the disk is gone";
    assert!(
        seen.history.iter().any(|it| it.reason.starts_with(why)),
        "{:?}",
        seen.history
    );
    assert_eq!(seen.state, PluginState::Running);
}

async fn outcome(engine: &Engine) -> Value {
    let steps = "steps: [{ id: s, plugin: moody, phase: now, input: 1 }]";
    let report = engine.run(RunRequest::new(pipeline(steps))).await.unwrap();
    serde_json::to_value(&report).unwrap()["steps"][0]["error"]["kind"].clone()
}

#[tokio::test]
async fn the_breaker_of_a_plugin_that_is_not_well_refuses_calls_where_that_is_wanted() {
    let (plugin, builtin) = moody("moody");
    let rig = Rig::new();
    let builder = rig.builder(|config| {
        quick(config, HealthAction::Breaker);
        config.policy.retry.max_attempts = 1.try_into().unwrap();
        config.policy.breaker.ramp = Duration::ZERO;
    });
    let engine = builder.builtin(builtin).start().await.unwrap();
    is_healthy(&engine, "moody", true).await;
    assert_eq!(outcome(&engine).await, Value::Null);
    plugin.be(SICK);
    is_healthy(&engine, "moody", false).await;
    assert_eq!(outcome(&engine).await, "circuit_open");
    plugin.be(WELL);
    is_healthy(&engine, "moody", true).await;
    assert_eq!(outcome(&engine).await, Value::Null);
    assert_eq!(plugin.starts.load(Ordering::SeqCst), 1);
}

/// Nobody is asked who is kept from running.
#[tokio::test]
async fn a_disabled_plugin_is_not_asked() {
    let (plugin, builtin) = moody("moody");
    let rig = Rig::new();
    let builder = rig.builder(|config| quick(config, HealthAction::Tell));
    let engine = builder.builtin(builtin).start().await.unwrap();
    is_healthy(&engine, "moody", true).await;
    engine.disable_plugin("moody", "tests").unwrap();
    eventually("it is unknown", || {
        status(&engine, "moody").health.healthy.is_none()
    })
    .await;
    sleep(Duration::from_millis(100)).await;
    let asked = plugin.asked.load(Ordering::SeqCst);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(plugin.asked.load(Ordering::SeqCst), asked);
    engine.enable_plugin("moody").unwrap();
    is_healthy(&engine, "moody", true).await;
}
