//! Ours: a signed plugin of kind `node`, written with the SDK, started and
//! called by the plugin runtime.

use std::{collections::BTreeMap, env, path::Path, process::ExitCode, sync::Arc, time::Duration};

use bytes::Bytes;
use orchestrator_benches::packages::{PHASE, Publisher, VERSION};
use orchestrator_contract::{
    Criticality, NoEvents, NoHost, Payload, PhaseCall, PhaseName, PluginId, RunId, SessionId,
    StepId, TraceContext,
};
use orchestrator_plugin_runtime::{
    PluginHandle, Runtime, RuntimePaths, RuntimeSettings, SearchPath,
};
use orchestrator_sdk::{Context, Error, Info, Input, Plugin, Reply, serve};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::load::Caller;

const ID: &str = "echo";
const TIMEOUT: Duration = Duration::from_secs(60);
/// As long as the engine's.
pub(crate) const IDEMPOTENCY_KEY: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const TRACEPARENT: &str = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
/// As many as the most callers here.
const CONCURRENT_CALLS: u32 = 16;

struct Echo;

impl Plugin for Echo {
    fn info(&self) -> Info {
        Info::new(ID, VERSION, [PHASE]).concurrent_calls(CONCURRENT_CALLS)
    }

    async fn call(&self, _phase: &str, input: Input, _: &Context) -> Result<Reply, Error> {
        Ok(input.into_payload().into())
    }
}

/// Whether a host started this process as its plugin.
pub(crate) fn is_plugin() -> bool {
    env::var_os("ORCHESTRATOR_NODE_FD").is_some()
}

pub(crate) fn plugin() -> ExitCode {
    serve(Echo)
}

/// The runtime's handle, and the runtime, which ends with the last clone.
#[derive(Clone)]
pub(crate) struct NodeCaller {
    handle: PluginHandle,
    call: PhaseCall,
    pid: u32,
    _runtime: Arc<Runtime>,
}

impl NodeCaller {
    /// Signs this very program as a plugin below `dir`, and starts it.
    pub(crate) async fn start(dir: &Path) -> Result<Self, String> {
        let paths = paths(dir).map_err(|error| error.to_string())?;
        let runtime = Runtime::start(
            RuntimeSettings::default(),
            paths,
            semver::Version::new(0, 1, 0),
            BTreeMap::new(),
            Vec::new(),
            Arc::new(NoEvents),
            Arc::new(NoHost),
        );
        let runtime = runtime.await.map_err(|error| error.to_string())?;
        let handle = runtime
            .resolve(ID, &semver::VersionReq::STAR)
            .map_err(|error| error.to_string())?;
        let mut caller = Self {
            handle,
            call: call(),
            pid: 0,
            _runtime: Arc::new(runtime),
        };
        // The first call starts the process.
        caller.call(Bytes::from_static(b"null")).await?;
        let status = caller._runtime.plugins();
        let pid = status.first().and_then(|plugin| plugin.pid);
        caller.pid = pid.ok_or("the plugin has no process")?;
        Ok(caller)
    }
}

fn paths(dir: &Path) -> Result<RuntimePaths, Box<dyn std::error::Error>> {
    let (plugins, trust_dir) = (dir.join("plugins"), dir.join("trust"));
    let program = env::current_exe()?;
    Publisher::trusted_in(&trust_dir)?.install(&plugins, ID, &program)?;
    let mut search = SearchPath::default();
    search.add(plugins, "bench");
    Ok(RuntimePaths {
        search,
        run_dir: dir.join("run"),
        trust_dir,
        grants_file: dir.join("grants.toml"),
        locked: None,
    })
}

/// A call as the engine makes it.
fn call() -> PhaseCall {
    PhaseCall {
        run: RunId::from_parts(1, 2),
        step: StepId::from(PHASE),
        plugin: PluginId::from(ID),
        phase: PhaseName::from(PHASE),
        attempt: 1,
        tenant: None,
        criticality: Criticality::Critical,
        deadline: None,
        idempotency_key: IDEMPOTENCY_KEY.into(),
        trace: TraceContext::from_random(3, 4, true),
        session: SessionId::from_parts(5, 6),
        input: Payload::null(),
    }
}

impl Caller for NodeCaller {
    async fn call(&self, input: Bytes) -> Result<Bytes, String> {
        let mut call = self.call.clone();
        call.input = Payload::from_json_bytes(input);
        // The policies' deadlines give every call one.
        call.deadline = Some((Instant::now() + TIMEOUT).into_std());
        let answer = self.handle.clone().oneshot(call);
        let reply = answer.await.map_err(|error| error.to_string())?;
        Ok(reply.output.bytes)
    }

    fn pid(&self) -> u32 {
        self.pid
    }
}
