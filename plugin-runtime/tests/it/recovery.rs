//! A builtin that is not well is started again as a process is: later each time, and
//! not for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{CallError, Event, PhaseCall, PhaseReply, PluginState};
use orchestrator_manifest::Manifest;
use orchestrator_plugin_runtime::{
    BoxFuture, Builtin, CallContext, Plugin, PluginHandle, RestartSettings, Runtime,
};
use serde_json::json;
use tokio::time::{Instant, advance, pause};

use crate::support::{Home, call, handle, output, status};

const SECOND: Duration = Duration::from_secs(1);

/// Says that it is well right after its start, and then what it was told.
#[derive(Clone, Default)]
struct Sickly {
    is_new: Arc<AtomicBool>,
    is_well: Arc<AtomicBool>,
}

impl Plugin for Sickly {
    fn call(
        self: Arc<Self>,
        call: PhaseCall,
        _: CallContext,
    ) -> BoxFuture<'static, Result<PhaseReply, CallError>> {
        Box::pin(async move { Ok(PhaseReply::new(call.input)) })
    }

    fn start(&self) -> BoxFuture<'_, Result<(), String>> {
        self.is_new.store(true, Ordering::Relaxed);
        Box::pin(async { Ok(()) })
    }

    fn health(&self) -> BoxFuture<'_, Result<(), String>> {
        let is_new = self.is_new.swap(false, Ordering::Relaxed);
        let is_well = is_new || self.is_well.load(Ordering::Relaxed);
        Box::pin(async move { is_well.then_some(()).ok_or_else(|| "sick".to_owned()) })
    }
}

/// It runs, and time stands still but for who waits.
async fn started(home: &Home) -> (Runtime, PluginHandle, Sickly) {
    let manifest = json!({
        "id": "sickly", "version": "1.0.0", "description": "Falls ill.", "kind": "builtin",
        "entry_point": "sickly", "phases": [{ "name": "echo" }],
    });
    let manifest = Manifest::from_value(&manifest, "sickly").unwrap();
    let sickly = Sickly::default();
    let builtin = Builtin::new(manifest, sickly.clone());
    let runtime = home.start_with(vec![builtin]).await.unwrap();
    let plugin = handle(&runtime, "sickly");
    pause();
    (runtime, plugin, sickly)
}

async fn is_well(plugin: &PluginHandle) -> bool {
    let found = plugin.check_health(SECOND).await;
    found.expect("it runs").is_ok()
}

/// How long it took until it took calls again.
async fn recovered(plugin: &PluginHandle) -> Duration {
    let began = Instant::now();
    plugin.restart(Duration::ZERO, "sick").await.unwrap();
    began.elapsed()
}

#[tokio::test]
async fn one_that_is_never_well_is_started_later_each_time_and_not_for_ever() {
    let mut home = Home::new();
    home.settings.restart = RestartSettings::default();
    let (runtime, plugin, _) = started(&home).await;
    for attempt in 0..5 {
        assert!(!is_well(&plugin).await);
        let delay = recovered(&plugin).await.as_secs_f64();
        let full = f64::from(1 << attempt);
        // The clock of tests goes in milliseconds.
        let bounds = full / 2.0..=full + 0.01;
        assert!(bounds.contains(&delay), "{attempt}: {delay}");
    }
    assert!(!is_well(&plugin).await);
    plugin.restart(Duration::ZERO, "sick").await.unwrap_err();
    let seen = status(&runtime, "sickly");
    assert_eq!(seen.state, PluginState::CrashLoop);
    assert_eq!(seen.error.unwrap().code, "ORC-3043");
    assert_eq!(seen.restarts, 5);
    let told = home.events.all().into_iter();
    let told = told.filter(|event| matches!(event, Event::PluginRestarted { .. }));
    assert_eq!(told.count(), 5);
    call(&plugin, "echo", json!(1)).await.unwrap_err();

    // Whoever has it tried again begins anew.
    runtime.restart("sickly", Duration::ZERO).await.unwrap();
    assert_eq!(output(&plugin, "echo", json!(1)).await, json!(1));
    assert!(recovered(&plugin).await <= SECOND + SECOND / 100);
}

/// Not by the machine's clock, which goes on by itself meanwhile.
#[tokio::test]
async fn one_that_was_well_for_a_while_has_a_clean_record() {
    let mut home = Home::new();
    home.settings.restart = RestartSettings::default();
    let (runtime, plugin, sickly) = started(&home).await;
    for _ in 0..10 {
        sickly.is_well.store(true, Ordering::Relaxed);
        advance(60 * SECOND).await;
        assert!(is_well(&plugin).await);
        sickly.is_well.store(false, Ordering::Relaxed);
        assert!(!is_well(&plugin).await);
        assert!(recovered(&plugin).await <= SECOND + SECOND / 100);
    }
    assert_eq!(status(&runtime, "sickly").state, PluginState::Running);
}

#[tokio::test]
async fn calls_wait_for_the_end_of_a_rest_and_the_end_of_the_host_does_not() {
    let mut home = Home::new();
    home.settings.restart.first = 1000 * SECOND;
    home.settings.restart.max = 1000 * SECOND;
    let (runtime, plugin, _) = started(&home).await;
    let again = plugin.uncounted();
    let restart = tokio::spawn(async move { again.restart(Duration::ZERO, "sick").await });
    while status(&runtime, "sickly").state != PluginState::Loaded {
        tokio::task::yield_now().await;
    }
    let began = Instant::now();
    let waiting = plugin.clone();
    let waiting = tokio::spawn(async move { call(&waiting, "echo", json!(1)).await });
    advance(SECOND).await;
    assert!(!waiting.is_finished());
    runtime.shutdown(30 * SECOND).await.unwrap();
    assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
    waiting.await.unwrap().unwrap_err();
    restart.await.unwrap().unwrap_err();
}
