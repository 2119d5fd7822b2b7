//! A host in a temporary directory: keys, trust, grants, packages, events.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use orchestrator_contract::{
    CallError, Criticality, Event, EventSink, HostService, LogLevel, NoHost, Payload, PhaseCall,
    PhaseReply, RunId, SessionId, TraceContext,
};
use orchestrator_plugin_runtime::{
    Builtin, PluginHandle, PluginStatus, Reloaded, Runtime, RuntimeError, RuntimePaths,
    RuntimeSettings, SearchPath,
};
use orchestrator_signing::{
    Delegation, Grant, GrantStore, NamePattern, SecretKey, SignOptions, TrustLevel, TrustStore,
    requested_set, sign, verify,
};
use orchestrator_testkit::{Signal, keeper, send};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tower::Service as _;

/// Longer than anything a test waits for on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A host in a temporary directory.
pub(crate) struct Home {
    dir: TempDir,
    key: SecretKey,
    /// Unlike that of any other test, for telling processes apart.
    pub(crate) unique: String,
    pub(crate) events: Arc<Events>,
    pub(crate) settings: RuntimeSettings,
    pub(crate) config: BTreeMap<String, Value>,
    pub(crate) host: Arc<dyn HostService>,
    /// Searched after `plugins`.
    pub(crate) development: Option<PathBuf>,
    /// Whether only what `orchestrator.lock` names is loaded.
    pub(crate) locked: bool,
}

/// One file of a package.
pub(crate) struct File<'a> {
    pub(crate) path: &'a str,
    pub(crate) content: &'a str,
}

impl Home {
    /// A host that trusts one key at level 3.
    pub(crate) fn new() -> Self {
        Self::trusting(TrustLevel::Internal)
    }

    pub(crate) fn trusting(level: TrustLevel) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = SecretKey::generate("tests").unwrap();
        let mut trust = TrustStore::open(&dir.path().join("trust")).unwrap();
        let names = vec![NamePattern::parse("*").unwrap()];
        trust
            .add(Delegation::new(key.public().clone(), level, names))
            .unwrap();
        let unique = format!("t{:08x}", rand_u32());
        let mut settings = RuntimeSettings::default();
        settings.restart.first = Duration::from_millis(50);
        settings.restart.max = Duration::from_millis(200);
        Self {
            dir,
            key,
            unique,
            events: Arc::default(),
            settings,
            config: BTreeMap::new(),
            host: Arc::new(NoHost),
            development: None,
            locked: false,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes, signs and grants a package. `manifest` is put over the defaults.
    pub(crate) fn package(&self, id: &str, manifest: Value, files: &[File<'_>]) -> PathBuf {
        let dir = self.unsigned_package(id, manifest, files);
        self.sign(&dir);
        self.grant_all(&dir);
        dir
    }

    pub(crate) fn unsigned_package(
        &self,
        id: &str,
        manifest: Value,
        files: &[File<'_>],
    ) -> PathBuf {
        let mut whole = json!({
            "id": id,
            "version": "1.0.0",
            "description": "A plugin of the tests.",
            "kind": "exec",
            "entry_point": "main.sh",
            "interpreter": "/bin/sh",
            "phases": [{ "name": "run" }],
        });
        merge(&mut whole, manifest);
        let version = whole["version"].as_str().unwrap().to_owned();
        let dir = self.path("plugins").join(id).join(version);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("plugin.json"), whole.to_string()).unwrap();
        for file in files {
            let path = dir.join(file.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, file.content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        dir
    }

    pub(crate) fn sign(&self, dir: &Path) {
        self.sign_as_release(dir, next_serial());
    }

    pub(crate) fn sign_as_release(&self, dir: &Path, serial: u64) {
        sign(dir, &self.key, &SignOptions::new(serial)).unwrap();
    }

    /// Signs with a key that is trusted as much and is another.
    pub(crate) fn sign_as_another(&self, dir: &Path) {
        let key = SecretKey::generate("another").unwrap();
        let mut trust = TrustStore::open(&self.path("trust")).unwrap();
        let names = vec![NamePattern::parse("*").unwrap()];
        let terms = Delegation::new(key.public().clone(), TrustLevel::Internal, names);
        trust.add(terms).unwrap();
        sign(dir, &key, &SignOptions::new(next_serial())).unwrap();
    }

    pub(crate) fn grant_all(&self, dir: &Path) {
        let trust = TrustStore::open(&self.path("trust")).unwrap();
        let package = verify(dir, &trust.root()).unwrap();
        let requested = requested_set(package.manifest()).0;
        let mut grants = GrantStore::open(&self.path("grants.toml")).unwrap();
        grants
            .grant(Grant::for_package(&package, requested, "tests"))
            .unwrap();
    }

    /// A package of kind `exec` whose phases are the branches of a shell `case`.
    pub(crate) fn shell(&self, id: &str, phases: &[&str], branches: &str) -> PathBuf {
        let listed: Vec<_> = phases.iter().map(|name| json!({ "name": name })).collect();
        let script = shell_script(id, phases, branches);
        let file = File {
            path: "main.sh",
            content: &script,
        };
        self.package(id, json!({ "phases": listed }), &[file])
    }

    pub(crate) fn paths(&self) -> RuntimePaths {
        let mut paths = paths(self.dir.path());
        if let Some(development) = self.development.clone() {
            paths.search.add_development(development, "development");
        }
        paths.locked = self.locked.then(|| self.path("orchestrator.lock"));
        paths
    }

    /// What another process has laid out in `dir`.
    pub(crate) async fn start_at(dir: &Path, settings: RuntimeSettings) -> Runtime {
        let started = Runtime::start(
            settings,
            paths(dir),
            "1.2.3".parse().unwrap(),
            BTreeMap::new(),
            Vec::new(),
            Arc::new(Events::default()),
            Arc::new(NoHost),
        );
        timeout(PATIENCE, started).await.unwrap().unwrap()
    }

    pub(crate) async fn start(&self) -> Runtime {
        self.start_with(Vec::new()).await.unwrap()
    }

    pub(crate) async fn start_with(&self, builtins: Vec<Builtin>) -> Result<Runtime, RuntimeError> {
        let runtime = self.load_with(builtins).await?;
        timeout(PATIENCE, runtime.start_all()).await.unwrap();
        Ok(runtime)
    }

    /// Starts nothing that is not called.
    pub(crate) async fn load_with(&self, builtins: Vec<Builtin>) -> Result<Runtime, RuntimeError> {
        let loaded = Runtime::load(
            self.settings.clone(),
            self.paths(),
            "1.2.3".parse().unwrap(),
            self.config.clone(),
            builtins,
            Arc::clone(&self.events) as Arc<dyn EventSink>,
            Arc::clone(&self.host),
        );
        timeout(PATIENCE, loaded).await.unwrap()
    }

    /// Fails unless every process of the plugin is gone soon.
    pub(crate) async fn no_process_left(&self, plugin: &str) {
        let wanted = format!("ORCHESTRATOR_PLUGIN={plugin}");
        eventually(&format!("a process of {plugin} is left"), || {
            processes(&wanted).is_empty()
        })
        .await;
    }

    /// A plugin id that no other test has.
    pub(crate) fn id(&self, name: &str) -> String {
        format!("{name}-{}", self.unique)
    }
}

fn paths(dir: &Path) -> RuntimePaths {
    let mut search = SearchPath::default();
    search.add(dir.join("plugins"), "tests");
    RuntimePaths {
        search,
        run_dir: dir.join("run"),
        trust_dir: dir.join("trust"),
        grants_file: dir.join("grants.toml"),
        locked: None,
    }
}

fn merge(whole: &mut Value, over: Value) {
    for (key, value) in over.as_object().unwrap() {
        match value {
            Value::Null => {
                whole.as_object_mut().unwrap().remove(key);
            }
            value => whole[key] = value.clone(),
        }
    }
}

/// A release has a number of its own.
fn next_serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn shell_script(id: &str, phases: &[&str], branches: &str) -> String {
    let info = json!({ "id": id, "version": "1.0.0", "phases": phases });
    format!(
        "case \"$1\" in validate) exit 0;; info) echo '{info}'; exit 0;; esac\n\
         case \"$2\" in\n{branches}\nesac\n"
    )
}

/// Processes with `wanted` in their environment.
pub(crate) fn processes(wanted: &str) -> Vec<u32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|variable| variable == wanted.as_bytes())
    })
    .collect()
}

/// To the process that is the parent of this one's plugins.
pub(crate) fn signal_the_keeper(signal: Signal) {
    let keeper = keeper(std::process::id()).expect("something was started");
    send(keeper, signal);
}

/// Waits until `holds`, and fails with `message` when that takes too long.
pub(crate) async fn eventually(message: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{message}");
        sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn handle(runtime: &Runtime, id: &str) -> PluginHandle {
    runtime.resolve(id, &"*".parse().unwrap()).unwrap()
}

pub(crate) fn status(runtime: &Runtime, id: &str) -> PluginStatus {
    let plugins = runtime.plugins().into_iter();
    plugins.filter(|plugin| plugin.id == id).last().unwrap()
}

/// A reload that goes on beside the test.
pub(crate) fn reloading(
    runtime: &Arc<Runtime>,
    id: &str,
) -> JoinHandle<Result<Reloaded, RuntimeError>> {
    let (runtime, id) = (Arc::clone(runtime), id.to_owned());
    tokio::spawn(async move { runtime.reload(&id).await })
}

/// Waits until the plugin's name leads to this version, which may not serve yet.
pub(crate) async fn leads_to(runtime: &Runtime, id: &str, version: &str) {
    let version = version.parse().unwrap();
    eventually("names lead to another version", || {
        *handle(runtime, id).version() == version
    })
    .await;
}

/// A call with everything set.
pub(crate) fn phase_call(plugin: &str, phase: &str, input: Value) -> PhaseCall {
    PhaseCall {
        run: RunId::from_parts(1, 2),
        step: "step".into(),
        plugin: plugin.into(),
        phase: phase.into(),
        attempt: 1,
        tenant: Some("acme".into()),
        criticality: Criticality::Critical,
        deadline: Some((Instant::now() + PATIENCE).into_std()),
        idempotency_key: "key-1".into(),
        trace: TraceContext::from_random(7, 8, true),
        session: SessionId::from_parts(3, 4),
        input: Payload::json(&input).unwrap(),
    }
}

/// Makes a call and waits for its end.
pub(crate) async fn call(
    plugin: &PluginHandle,
    phase: &str,
    input: Value,
) -> Result<PhaseReply, CallError> {
    let call = phase_call(plugin.id().as_str(), phase, input);
    timeout(PATIENCE, plugin.clone().call(call))
        .await
        .expect("the call should end")
}

pub(crate) async fn output(plugin: &PluginHandle, phase: &str, input: Value) -> Value {
    call(plugin, phase, input)
        .await
        .unwrap()
        .output
        .decode()
        .unwrap()
}

/// The broken rule, for a protocol fault.
pub(crate) fn rule(error: &CallError) -> &str {
    match error {
        CallError::Protocol { rule, .. } => rule,
        other => panic!("no protocol fault: {other:?}"),
    }
}

/// Every event that was emitted.
#[derive(Default)]
pub(crate) struct Events(Mutex<Vec<Event>>);

impl EventSink for Events {
    fn emit(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Events {
    pub(crate) fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// Levels and lines that plugins wrote.
    pub(crate) fn lines(&self) -> Vec<(LogLevel, String)> {
        let events = self.all().into_iter();
        events
            .filter_map(|event| match event {
                Event::PluginLog { level, message, .. } => Some((level, message.to_string())),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn has_line(&self, level: LogLevel, text: &str) -> bool {
        self.lines()
            .iter()
            .any(|line| *line == (level, text.to_owned()))
    }
}

fn rand_u32() -> u32 {
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    nanos.subsec_nanos() ^ std::process::id().rotate_left(16)
}
