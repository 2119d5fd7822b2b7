//! Releases that ask for more than was granted, and what goes on meanwhile.

use orchestrator_contract::PluginState;
use orchestrator_manifest::PluginName;
use orchestrator_plugin_runtime::Runtime;
use orchestrator_signing::GrantStore;
use serde_json::{Value, json};

use crate::support::{File, Home, output, shell_script};

const MORE: &str = "process:spawn=/usr/bin/env";

/// Signs a version of `tool` that answers with its number.
fn release(home: &Home, version: &str, capabilities: &[&str]) -> std::path::PathBuf {
    let script = shell_script("tool", &["run"], &format!("run) echo '\"{version}\"';;")).replace(
        "\"version\":\"1.0.0\"",
        &format!("\"version\":\"{version}\""),
    );
    let file = File {
        path: "main.sh",
        content: &script,
    };
    let manifest = json!({ "version": version, "capabilities": capabilities });
    let dir = home.unsigned_package("tool", manifest, &[file]);
    home.sign(&dir);
    dir
}

async fn answer(runtime: &Runtime) -> Value {
    let tool = runtime.resolve("tool", &"*".parse().unwrap()).unwrap();
    output(&tool, "run", json!({})).await
}

fn problem(runtime: &Runtime, version: &str) -> Option<(PluginState, String, String, String)> {
    let plugins = runtime.plugins().into_iter();
    let mut versions = plugins.filter(|it| it.version.to_string() == version);
    let seen = versions.next().unwrap();
    let error = seen.error?;
    Some((seen.state, error.code, error.message, error.help))
}

#[tokio::test]
async fn an_upgrade_that_asks_for_more_waits_and_the_old_version_goes_on() {
    let home = Home::new();
    home.grant_all(&release(&home, "1.0.0", &[]));
    let upgrade = release(&home, "1.1.0", &[MORE]);
    let runtime = home.start().await;
    assert_eq!(answer(&runtime).await, json!("1.0.0"));
    let (state, code, message, help) = problem(&runtime, "1.1.0").unwrap();
    assert_eq!((state, &*code), (PluginState::Error, "ORC-2121"));
    assert!(message.contains(&format!("+ {MORE}")), "{message}");
    assert!(
        help.contains(&format!("orchestrator plugin grant tool {MORE}")),
        "{help}"
    );
    let asked = runtime.resolve("tool", &"=1.1.0".parse().unwrap());
    assert!(asked.is_err(), "named, it is not quietly another");

    home.grant_all(&upgrade);
    assert_eq!(answer(&home.start().await).await, json!("1.1.0"));
    // What is taken back stops the new version and does not bring the old one back.
    let mut grants = GrantStore::open(&home.path("grants.toml")).unwrap();
    let name = PluginName::parse("tool").unwrap();
    let more = orchestrator_manifest::Capability::parse_request(MORE).unwrap();
    grants.revoke(&name, Some(&more)).unwrap();
    let runtime = home.start().await;
    let refused = runtime.resolve("tool", &"*".parse().unwrap()).unwrap_err();
    assert_eq!(
        miette::Diagnostic::code(&refused).unwrap().to_string(),
        "ORC-2120"
    );
}

#[tokio::test]
async fn a_version_that_asks_for_less_keeps_its_grants() {
    let home = Home::new();
    home.grant_all(&release(&home, "1.0.0", &[MORE]));
    release(&home, "1.1.0", &[]);
    let runtime = home.start().await;
    assert_eq!(answer(&runtime).await, json!("1.1.0"));
}

/// The same name from somebody else has no grant, and takes nothing away.
#[tokio::test]
async fn another_publishers_upgrade_has_no_grant_and_stops_nothing() {
    let home = Home::new();
    home.grant_all(&release(&home, "1.0.0", &[]));
    let foreign = release(&home, "2.0.0", &[]);
    home.sign_as_another(&foreign);
    let runtime = home.start().await;
    assert_eq!(answer(&runtime).await, json!("1.0.0"));
    let (_, code, _, help) = problem(&runtime, "2.0.0").unwrap();
    assert_eq!(code, "ORC-2122");
    assert!(help.contains("publisher"), "{help}");
}

/// A second directory cannot take a name over, whoever signed what is there.
#[tokio::test]
async fn a_copy_of_another_publisher_in_a_later_directory_is_shadowed() {
    let mut home = Home::new();
    let foreign = release(&home, "1.0.0", &[]);
    home.sign_as_another(&foreign);
    std::fs::create_dir_all(home.path("here")).unwrap();
    std::fs::rename(&foreign, home.path("here/tool")).unwrap();
    home.grant_all(&release(&home, "1.0.0", &[]));
    home.development = Some(home.path("here"));
    let runtime = home.start().await;
    assert_eq!(answer(&runtime).await, json!("1.0.0"));
    let seen = crate::support::status(&runtime, "tool");
    assert_eq!(seen.location, Some(home.path("plugins/tool/1.0.0")));
    assert_eq!(seen.shadowed, [home.path("here/tool")]);
}
