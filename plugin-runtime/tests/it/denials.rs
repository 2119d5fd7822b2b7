//! What a plugin is refused is told: who, what, and by which rule.

use std::fs;

use orchestrator_contract::{DenialRule, Event};
use orchestrator_signing::TrustLevel;
use serde_json::{Value, json};

use crate::support::{File, Home, call, eventually, handle, output};

pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Every denial: capability, resource and rule.
fn denials(home: &Home, plugin: &str) -> Vec<(String, String, DenialRule)> {
    let of_plugin = |event: Event| match event {
        Event::CapabilityDenied {
            plugin: of,
            capability,
            resource,
            rule,
            ..
        } if of.as_str() == plugin => Some((capability.to_string(), resource.to_string(), rule)),
        _ => None,
    };
    home.events
        .all()
        .into_iter()
        .filter_map(of_plugin)
        .collect()
}

/// Tries to have a tunnel to each, and tells the answers.
pub(crate) const TUNNELS: &str = r#"
import json, socket, sys
if sys.argv[-1] == "info":
    print(json.dumps({"id": "tunneler", "version": "1.0.0", "phases": ["run"]}))
if "execute" in sys.argv:
    answers = []
    for target in json.load(sys.stdin):
        it = socket.create_connection(("127.0.0.1", 3128), 20)
        it.sendall(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
        answers.append(it.recv(12).decode())
    print(json.dumps(answers))
"#;

#[tokio::test]
async fn what_the_proxy_refuses_is_told() {
    if !std::path::Path::new(PYTHON).exists() {
        return;
    }
    let home = Home::trusting(TrustLevel::Untrusted);
    let file = File {
        path: "main.sh",
        content: TUNNELS,
    };
    let manifest = json!({
        "interpreter": PYTHON,
        // The one leads to an address that is not public.
        "capabilities": ["network:access=localhost:443"],
    });
    home.package("tunneler", manifest, &[file]);
    let runtime = home.start().await;
    let targets = json!([
        "evil.example:443",
        "localhost:80",
        "localhost:443",
        "127.1:443"
    ]);
    let answers = output(&handle(&runtime, "tunneler"), "run", targets).await;
    let [forbidden, bad] = ["HTTP/1.1 403", "HTTP/1.1 400"];
    assert_eq!(answers, json!([forbidden, forbidden, forbidden, bad]));
    let network = "network:access".to_owned();
    let expected = [
        ("evil.example:443", DenialRule::NotGranted),
        ("localhost:80", DenialRule::NotGranted),
        ("localhost:443", DenialRule::NotPublic),
        ("127.1:443", DenialRule::Malformed),
    ]
    .map(|(resource, rule)| (network.clone(), resource.to_owned(), rule));
    assert_eq!(denials(&home, "tunneler"), expected);
}

/// A system call by way of the 32-bit interface.
const OTHER_INTERFACE: &str = r#"
#include <stdio.h>
#include <string.h>
int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "validate")) return 0;
    if (count > 1 && !strcmp(arguments[1], "info"))
        return !printf("{\"id\":\"caller\",\"version\":\"1.0.0\",\"phases\":[\"run\"]}");
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory");
    return !printf("%ld", result);
}
"#;

/// Builds `source` with the compiler of this machine.
pub(crate) fn compiled(source: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("it.c"), directory.path().join("it"));
    fs::write(&from, source).unwrap();
    #[expect(clippy::disallowed_types, reason = "a compiler is no plugin")]
    let built = std::process::Command::new("cc")
        .args(["-O0", "-w", "-o"])
        .args([&to, &from])
        .output()
        .expect("cc is installed");
    assert!(built.status.success(), "{built:?}");
    fs::read(to).unwrap()
}

/// Signs and grants a package whose program is `binary`.
pub(crate) fn binary_package(home: &Home, id: &str, mut manifest: Value, binary: &[u8]) {
    manifest["interpreter"] = Value::Null;
    let file = File {
        path: "main.sh",
        content: "",
    };
    let dir = home.unsigned_package(id, manifest, &[file]);
    fs::write(dir.join("main.sh"), binary).unwrap();
    home.sign(&dir);
    home.grant_all(&dir);
}

#[tokio::test]
async fn whom_the_kernel_ends_for_a_call_that_nothing_grants_is_told() {
    let binary = compiled(OTHER_INTERFACE);
    for kind in ["exec", "node"] {
        let home = Home::trusting(TrustLevel::Untrusted);
        binary_package(&home, "caller", json!({ "kind": kind }), &binary);
        let runtime = home.start().await;
        call(&handle(&runtime, "caller"), "run", json!({}))
            .await
            .expect_err("it was killed");
        eventually("it is told", || !denials(&home, "caller").is_empty()).await;
        let (capability, resource, rule) = denials(&home, "caller").remove(0);
        assert_eq!((&*capability, rule), ("", DenialRule::SystemCall), "{kind}");
        assert!(resource.contains("another interface"), "{resource}");
    }
}

/// It may have its own reasons to end like that.
#[tokio::test]
async fn whom_nothing_holds_is_not_said_to_be_refused() {
    let home = Home::new();
    home.shell("itself", &["run"], "run) kill -SYS $$;;");
    let runtime = home.start().await;
    call(&handle(&runtime, "itself"), "run", json!({}))
        .await
        .expect_err("it ended itself");
    assert_eq!(denials(&home, "itself"), []);
}
