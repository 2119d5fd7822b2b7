//! What `benches/` measures. Not an API: it changes without notice.

use orchestrator_contract::{CallError, PhaseCall, PhaseReply};
use orchestrator_plugin_runtime::PluginHandle;
use semver::VersionReq;
use tower::{Service, ServiceExt};

use crate::{Engine, stack::StackCall};

/// A plugin's phase with all its policies, and the plugin alone.
///
/// # Panics
///
/// When the engine has no such plugin or phase.
#[expect(
    clippy::expect_used,
    reason = "a bench with the wrong name has nothing to measure"
)]
pub fn phase(
    engine: &Engine,
    plugin: &str,
    phase: &str,
) -> (
    impl Service<PhaseCall, Response = PhaseReply, Error = CallError, Future: Send> + Clone + use<>,
    PluginHandle,
) {
    let handle = engine
        .runtime()
        .resolve(plugin, &VersionReq::STAR)
        .expect("the plugin is there");
    let shared = engine.shared();
    let manifest = handle.phase(phase).expect("the phase is there");
    let stack = shared
        .stacks
        .stack(&handle, manifest, &serde_json::Value::Null, None)
        .expect("the policies fit");
    let service = stack.service;
    (
        service.map_request(|call| StackCall::new(call, true)),
        handle,
    )
}
