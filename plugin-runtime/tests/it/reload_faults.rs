//! What goes wrong while a plugin is reloaded: the old version serves on, with its state
//! where it has any left, and nothing stays behind.

use std::{path::Path, sync::Arc, time::Duration};

use miette::Diagnostic as _;
use orchestrator_contract::{CallError, PhaseReply};
use orchestrator_plugin_runtime::{PluginHandle, Runtime, RuntimeError};
use orchestrator_signing::{GrantStore, LockFile, TrustStore, verify};
use orchestrator_testkit::{Signal, send};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::timeout};
use tower::Service as _;

use crate::{
    counter_plugin::release,
    support::{
        Home, PATIENCE, call, eventually, handle, leads_to, output, phase_call, processes,
        reloading,
    },
};

pub(crate) fn code(error: &RuntimeError) -> String {
    error.code().unwrap().to_string()
}

async fn count(runtime: &Runtime, id: &str) -> Value {
    output(&handle(runtime, id), "count", json!(0)).await
}

pub(crate) async fn serves(runtime: &Runtime, id: &str, version: &str) {
    let answer = output(&handle(runtime, id), "version", json!(0)).await;
    assert_eq!(answer, json!(version));
}

pub(crate) async fn processes_are(id: &str, wanted: usize) {
    let own = format!("ORCHESTRATOR_PLUGIN={id}");
    eventually(&format!("there are {wanted} processes"), || {
        processes(&own).len() == wanted
    })
    .await;
}

/// Calls the plugin by its name until the reload has ended; how that ended, and what
/// went wrong with the calls.
async fn called_while_it_reloads(
    runtime: &Arc<Runtime>,
    id: &str,
) -> (RuntimeError, Vec<CallError>) {
    let reloading = reloading(runtime, id);
    let mut failed = Vec::new();
    while !reloading.is_finished() {
        let called = call(&handle(runtime, id), "version", json!(0)).await;
        failed.extend(called.err());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    (reloading.await.unwrap().unwrap_err(), failed)
}

/// Both before anybody waits for it and while calls do.
#[tokio::test]
async fn a_new_version_that_hangs_over_a_state_fails_no_call() {
    for (old, new) in [
        ("counts", "hangs"),
        ("counts", "hangs-later"),
        ("silent-later", "counts"),
    ] {
        let mut home = Home::new();
        home.settings.reload.hold_max = Duration::from_secs(1);
        let id = home.id("counter");
        release(&home, &id, "1.0.0", old, 1);
        let runtime = Arc::new(home.start().await);
        assert_eq!(count(&runtime, &id).await, json!(1));
        release(&home, &id, "1.1.0", new, 2);
        let (refused, failed) = called_while_it_reloads(&runtime, &id).await;
        assert_eq!(code(&refused), "ORC-3056", "{old}, {new}: {refused}");
        assert!(refused.to_string().contains("longer than 1s"), "{refused}");
        assert_eq!(failed, [], "{old}, {new}");
        assert_eq!(count(&runtime, &id).await, json!(2), "{old}, {new}");
        serves(&runtime, &id, "1.0.0").await;
        processes_are(&id, 1).await;
    }
}

/// Its state is gone with it; it is started again, and the new version is not tried on.
#[tokio::test]
async fn an_old_version_that_ends_over_its_state_is_started_again() {
    for mode in ["dies", "dies-later"] {
        let home = Home::new();
        let id = home.id("counter");
        release(&home, &id, "1.0.0", mode, 1);
        let runtime = Arc::new(home.start().await);
        assert_eq!(count(&runtime, &id).await, json!(1));
        release(&home, &id, "1.1.0", "counts", 2);
        let (refused, failed) = called_while_it_reloads(&runtime, &id).await;
        assert_eq!(code(&refused), "ORC-3056", "{mode}: {refused}");
        assert!(refused.to_string().contains("status 5"), "{refused}");
        let is_told = |error: &CallError| {
            matches!(
                error,
                CallError::Crash { .. } | CallError::Unavailable { .. }
            )
        };
        assert!(failed.iter().all(is_told), "{failed:?}");
        eventually("it is started again", || {
            handle(&runtime, &id).is_available()
        })
        .await;
        assert_eq!(count(&runtime, &id).await, json!(1), "{mode}");
        serves(&runtime, &id, "1.0.0").await;
        processes_are(&id, 1).await;
    }
}

/// A reload that waits for a call of the old version, while names lead to the new one.
struct Waiting {
    home: Home,
    id: String,
    runtime: Arc<Runtime>,
    old: PluginHandle,
    later: JoinHandle<Result<PhaseReply, CallError>>,
    reloading: JoinHandle<Result<orchestrator_plugin_runtime::Reloaded, RuntimeError>>,
    /// A call that waits for the new version.
    waits: JoinHandle<Result<PhaseReply, CallError>>,
    package: std::path::PathBuf,
}

impl Waiting {
    async fn begin() -> Self {
        let mut home = Home::new();
        home.settings.reload.settle = Duration::from_millis(10);
        // Longer than any of these tests may take.
        home.settings.reload.hold_max = 4 * PATIENCE;
        let id = home.id("counter");
        release(&home, &id, "1.0.0", "counts", 1);
        let runtime = Arc::new(home.start().await);
        assert_eq!(count(&runtime, &id).await, json!(1));
        let old = handle(&runtime, &id);
        let later = tokio::spawn(old.clone().call(phase_call(&id, "later", json!(0))));
        output(&old, "version", json!(0)).await;
        let package = release(&home, &id, "1.1.0", "counts", 2);
        let reloading = reloading(&runtime, &id);
        leads_to(&runtime, &id, "1.1.0").await;
        let waits = handle(&runtime, &id).call(phase_call(&id, "count", json!(0)));
        let waits = tokio::spawn(waits);
        Self {
            home,
            id,
            runtime,
            old,
            later,
            reloading,
            waits,
            package,
        }
    }

    /// The process of the new version.
    fn new_process(&self) -> u32 {
        let all = processes(&format!("ORCHESTRATOR_PLUGIN={}", self.id));
        let plugins = self.runtime.plugins().into_iter();
        let new = plugins.filter(|it| it.version.to_string() == "1.1.0");
        let pid = new.last().unwrap().pid.unwrap();
        assert!(all.contains(&pid) && all.len() == 2, "{pid} of {all:?}");
        pid
    }

    /// Why the reload failed, once the old version has answered the call that waited
    /// and serves on.
    async fn refused(self) -> (Home, Arc<Runtime>, String, RuntimeError) {
        let ended = timeout(PATIENCE, self.reloading).await;
        let refused = ended.expect("it waits on").unwrap().unwrap_err();
        let waited = timeout(PATIENCE, self.waits).await.unwrap().unwrap();
        assert_eq!(waited.unwrap().output.bytes, "2");
        assert_eq!(count(&self.runtime, &self.id).await, json!(3));
        serves(&self.runtime, &self.id, "1.0.0").await;
        output(&self.old, "now", json!(0)).await;
        timeout(PATIENCE, self.later)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        processes_are(&self.id, 1).await;
        (self.home, self.runtime, self.id, refused)
    }
}

/// The statement of a package that is refused from now on.
fn revoke(home: &Home, package: &Path) {
    let mut trust = TrustStore::open(&home.path("trust")).unwrap();
    let verified = verify(package, &trust.root()).unwrap();
    let statement = verified.statement_digest().unwrap();
    trust
        .edit(|next| next.revoke_digest(statement, "does harm"))
        .unwrap();
}

#[tokio::test]
async fn a_release_that_is_revoked_before_it_takes_over_does_not() {
    let waiting = Waiting::begin().await;
    revoke(&waiting.home, &waiting.package);
    let (_home, runtime, id, refused) = waiting.refused().await;
    let why = code(&refused);
    assert!(refused.to_string().contains("does harm"), "{refused}");
    let again = runtime.reload(&id).await.unwrap_err();
    assert_eq!(code(&again), why, "{again}");
    serves(&runtime, &id, "1.0.0").await;
}

#[tokio::test]
async fn a_new_version_that_ends_before_it_takes_over_does_not() {
    let waiting = Waiting::begin().await;
    send(waiting.new_process(), Signal::KILL);
    let (_home, runtime, id, refused) = waiting.refused().await;
    assert_eq!(code(&refused), "ORC-3056", "{refused}");
    // Another try may do better.
    let done = runtime.reload(&id).await.unwrap();
    assert!(done.state.kept, "{done:?}");
    assert_eq!(count(&runtime, &id).await, json!(4));
    serves(&runtime, &id, "1.1.0").await;
}

/// Writes down what the home has now.
fn lock(home: &Home) {
    let trust = TrustStore::open(&home.path("trust")).unwrap();
    let grants = GrantStore::open(&home.path("grants.toml")).unwrap();
    let now = LockFile::of_store(&home.path("plugins"), &trust.root(), &grants).unwrap();
    now.write(&home.path("orchestrator.lock")).unwrap();
}

#[tokio::test]
async fn what_the_lock_file_does_not_name_does_not_take_over() {
    let mut home = Home::new();
    home.locked = true;
    let id = home.id("counter");
    release(&home, &id, "1.0.0", "counts", 1);
    lock(&home);
    let runtime = home.start().await;
    assert_eq!(count(&runtime, &id).await, json!(1));
    release(&home, &id, "1.1.0", "counts", 2);
    // Neither does another plugin's difference change what runs.
    for name in [&id, &home.id("other")] {
        release(&home, name, "1.1.0", "counts", 2);
        let refused = runtime.reload(&id).await.unwrap_err();
        assert_eq!(code(&refused), "ORC-2161", "{refused}");
        let named = format!("{name} 1.1.0 is not in the lock file");
        assert!(refused.to_string().contains(&named), "{refused}");
        assert_eq!(processes(&format!("ORCHESTRATOR_PLUGIN={id}")).len(), 1);
    }
    assert_eq!(count(&runtime, &id).await, json!(2));
    serves(&runtime, &id, "1.0.0").await;
    lock(&home);
    runtime.reload(&id).await.unwrap();
    assert_eq!(count(&runtime, &id).await, json!(3));
    serves(&runtime, &id, "1.1.0").await;
}
