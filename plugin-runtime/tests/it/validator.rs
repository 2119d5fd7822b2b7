//! Rules of the embedding program, beside what was granted.

use std::sync::{Arc, Mutex};

use orchestrator_contract::{DenialRule, ErrorKind, Event, PhaseCall, PluginId, PluginState};
use orchestrator_manifest::{Capability, Token};
use orchestrator_plugin_runtime::{Operation, SecurityValidator, Validator, Veto};
use orchestrator_signing::TrustLevel;
use serde_json::json;

use crate::{
    denials::{PYTHON, TUNNELS},
    support::{File, Home, call, handle, output, shell_script, status},
};

/// Lets one capability, one port and inputs without a word through, and writes down what it
/// was asked.
#[derive(Default)]
struct Rules {
    asked: Mutex<Vec<String>>,
}

impl SecurityValidator for Rules {
    fn validate_capability(&self, plugin: &PluginId, capability: &Capability) -> Result<(), Veto> {
        self.asked
            .lock()
            .unwrap()
            .push(format!("{plugin} {capability}"));
        match capability.token() {
            Token::SystemInfo => Err("not on this host".into()),
            _ => Ok(()),
        }
    }

    fn validate_operation(&self, plugin: &PluginId, operation: Operation<'_>) -> Result<(), Veto> {
        let (asked, denied) = match operation {
            Operation::Call(PhaseCall { phase, input, .. }) => {
                let is_secret = input.bytes.windows(6).any(|word| word == b"secret");
                (format!("{plugin} {phase}"), is_secret)
            }
            Operation::Connect(target) => (format!("{plugin} {target}"), target.port == 81),
            _ => return Err("unknown".into()),
        };
        self.asked.lock().unwrap().push(asked);
        if denied {
            Err("not today".into())
        } else {
            Ok(())
        }
    }
}

fn vetoed(home: &Home) -> Vec<(String, String)> {
    let vetoed = home
        .events
        .all()
        .into_iter()
        .filter_map(|event| match event {
            Event::CapabilityDenied {
                rule: DenialRule::Vetoed,
                plugin,
                resource,
                ..
            } => Some((plugin.to_string(), resource.to_string())),
            _ => None,
        });
    vetoed.collect()
}

#[tokio::test]
async fn one_operation_is_denied_and_others_go_on() {
    if !std::path::Path::new(PYTHON).exists() {
        return;
    }
    let mut home = Home::trusting(TrustLevel::Untrusted);
    let rules = Arc::new(Rules::default());
    home.settings.sandbox.validator = Some(Validator::new(rules.clone()));
    let file = File {
        path: "main.sh",
        content: TUNNELS,
    };
    let manifest = json!({
        "interpreter": PYTHON,
        "capabilities": ["network:access=127.0.0.1:80-82"],
    });
    home.package("tunneler", manifest, &[file]);
    let runtime = home.start().await;
    let tunneler = handle(&runtime, "tunneler");
    // Nobody listens there, which is another answer than that it is forbidden.
    let targets = json!(["127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:82"]);
    let [forbidden, unreachable] = ["HTTP/1.1 403", "HTTP/1.1 502"];
    let answers = output(&tunneler, "run", targets).await;
    assert_eq!(answers, json!([unreachable, forbidden, unreachable]));
    let error = call(&tunneler, "run", json!(["secret"])).await;
    let error = error.expect_err("it is denied");
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(
        error
            .to_string()
            .contains("phase run of plugin tunneler is not allowed: not today")
    );
    assert_eq!(output(&tunneler, "run", json!([])).await, json!([]));
    let denied = ["127.0.0.1:81", "phase run"].map(|it| ("tunneler".to_owned(), it.to_owned()));
    assert_eq!(vetoed(&home), denied);
    let asked = rules.asked.lock().unwrap().clone();
    assert!(
        asked
            .iter()
            .any(|it| it.starts_with("tunneler network:access=")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_capability_that_is_denied_keeps_a_plugin_from_being_loaded() {
    let mut home = Home::trusting(TrustLevel::Untrusted);
    home.settings.sandbox.validator = Some(Validator::new(Arc::new(Rules::default())));
    for (id, capabilities) in [("curious", json!(["system:info"])), ("modest", json!([]))] {
        let content = &shell_script(id, &["run"], "");
        let file = File {
            path: "main.sh",
            content,
        };
        home.package(id, json!({ "capabilities": capabilities }), &[file]);
    }
    let runtime = home.start().await;
    let curious = status(&runtime, "curious");
    assert_eq!(curious.state, PluginState::Error);
    let problem = curious.error.expect("it is said");
    assert_eq!(problem.code, "ORC-3081");
    let expected = "capability system:info not allowed: not on this host";
    assert!(problem.to_string().contains(expected), "{problem}");
    assert_ne!(status(&runtime, "modest").state, PluginState::Error);
}
