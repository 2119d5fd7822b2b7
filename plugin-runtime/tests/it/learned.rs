//! What is proposed for a plugin is what it used, and with just that it runs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    thread,
    time::Duration,
};

use orchestrator_contract::Event;
use orchestrator_manifest::Capability;
use orchestrator_plugin_runtime::{Lessons, Proposal};
use orchestrator_signing::TrustLevel;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    denials::{binary_package, compiled},
    support::{File, Home, call, handle, output, shell_script, status},
};

/// What plugins work with: directories `in`, `many` and `out`.
struct Data(TempDir);

impl Data {
    fn new() -> Self {
        let data = Self(tempfile::tempdir().unwrap());
        for name in ["in", "many", "out"] {
            fs::create_dir(data.0.path().join(name)).unwrap();
        }
        fs::write(data.path("in/file"), "word\n").unwrap();
        fs::write(data.path("in/other"), "other\n").unwrap();
        for number in 0..6 {
            fs::write(data.path(&format!("many/{number}")), "x\n").unwrap();
        }
        data
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

/// Runs the plugin once with nothing granted but its interpreter, and proposes.
async fn learned(package: &impl Fn(&Home, &[String]), id: &str, input: &Value) -> Proposal {
    let mut home = Home::trusting(TrustLevel::Untrusted);
    package(&home, &[]);
    let refused = home.start().await;
    call(&handle(&refused, id), "run", input.clone())
        .await
        .expect_err("nothing was granted");
    drop(refused);
    let lessons = Lessons::of(home.path("plugins").join(id).join("1.0.0"));
    home.settings.sandbox.learn = Some(lessons.clone());
    let runtime = home.start().await;
    output(&handle(&runtime, id), "run", input.clone()).await;
    drop(runtime);
    lessons.proposal(&["process:spawn=/bin/sh", "process:spawn=/usr/bin/python3"].map(grant))
}

fn grant(text: &str) -> Capability {
    Capability::parse_grant(text).unwrap()
}

fn texts(proposal: &Proposal) -> Vec<String> {
    proposal
        .capabilities
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// Runs it with what was proposed, and nothing else.
async fn runs(
    package: &impl Fn(&Home, &[String]),
    id: &str,
    input: &Value,
    proposal: &Proposal,
) -> Value {
    let home = Home::trusting(TrustLevel::Untrusted);
    package(&home, &texts(proposal));
    let runtime = home.start().await;
    output(&handle(&runtime, id), "run", input.clone()).await
}

#[tokio::test]
async fn a_shell_plugin_runs_with_just_what_was_learned() {
    let data = Data::new();
    let [read, many, out] = ["in/file", "many", "out"].map(|name| data.path(name));
    let steps = format!(
        "run) read -r x < {read} || exit 1; test -e /nonexistent; cat {many}/* > /dev/null || exit 1
         /usr/bin/mkdir -p {out}/deep || exit 1; echo $x > {out}/deep/new || exit 1
         : > /dev/null; read -r y < /proc/self/status; echo '\"done\"';;"
    );
    let package = |home: &Home, capabilities: &[String]| {
        let file = File {
            path: "main.sh",
            content: &shell_script("learner", &["run"], &steps),
        };
        home.package("learner", json!({ "capabilities": capabilities }), &[file]);
    };
    let proposal = learned(&package, "learner", &json!({})).await;
    let expected = [
        format!("file:read={read}"),
        format!("file:read={many}"),
        format!("file:write={out}"),
        "process:spawn=/usr/bin/cat".to_owned(),
        "process:spawn=/usr/bin/mkdir".to_owned(),
    ];
    assert_eq!(texts(&proposal), expected, "{proposal:?}");
    assert_eq!(proposal.withheld, []);
    fs::remove_dir_all(data.path("out/deep")).unwrap();
    assert_eq!(
        runs(&package, "learner", &json!({}), &proposal).await,
        "done"
    );
    assert_eq!(
        fs::read_to_string(data.path("out/deep/new")).unwrap(),
        "word\n"
    );
}

const PYTHON: &str = r#"
import json, os, sys
if sys.argv[-1] == "info":
    print(json.dumps({"id": "learner", "version": "1.0.0", "phases": ["run"]}))
if "execute" in sys.argv:
    import urllib.request
    given = json.load(sys.stdin)
    with open(given["read"]) as it, open(given["out"] + "/new", "w") as out:
        out.write(it.read())
    os.rename(given["out"] + "/new", given["out"] + "/renamed")
    page = urllib.request.urlopen(f"http://localhost:{given['port']}/", timeout=20).read()
    load = open("/proc/loadavg").read() != ""
    print(json.dumps([page.decode(), load]))
"#;

/// Answers every request, for ever.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            // All of a request comes at once.
            let _ = client.read(&mut [0; 4096]);
            let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage");
        }
    });
    port
}

#[tokio::test]
async fn a_python_plugin_runs_with_just_what_was_learned() {
    if !Path::new("/usr/bin/python3").exists() {
        return;
    }
    let data = Data::new();
    let [read, out] = ["in/file", "out"].map(|name| data.path(name));
    let package = |home: &Home, capabilities: &[String]| {
        let file = File {
            path: "main.sh",
            content: PYTHON,
        };
        let manifest = json!({ "interpreter": "/usr/bin/python3", "capabilities": capabilities });
        home.package("learner", manifest, &[file]);
    };
    let port = server();
    let input = json!({ "read": read, "out": out, "port": port });
    let proposal = learned(&package, "learner", &input).await;
    let texts = texts(&proposal);
    for expected in [
        format!("file:read={read}"),
        format!("file:write={out}"),
        format!("network:access=localhost:{port}"),
        format!("network:access=127.0.0.1:{port}"),
        "system:info".to_owned(),
    ] {
        assert!(texts.contains(&expected), "{expected}: {proposal:?}");
    }
    assert!(
        !texts.iter().any(|text| text.starts_with("process:")),
        "{texts:?}"
    );
    let said = runs(&package, "learner", &input, &proposal).await;
    assert_eq!(said, json!(["page", true]));
}

const C: &str = r#"
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **arguments) {
    if (!strcmp(arguments[1], "validate")) return 0;
    if (!strcmp(arguments[1], "info"))
        return !printf("{\"id\":\"learner\",\"version\":\"1.0.0\",\"phases\":[\"run\"]}");
    char read[500], made[500];
    struct sysinfo machine;
    if (scanf("{\"made\":\"%499[^\"]\",\"read\":\"%499[^\"]\"}", made, read) != 2) return 2;
    FILE *file = fopen(read, "r");
    if (!file || mkdir(made, 0700) || rmdir(made) || sysinfo(&machine)) return 3;
    if (!vfork()) _exit(execl("/usr/bin/test", "test", "-r", read, (char *)0));
    int status = -1;
    wait(&status);
    return !printf("%d", status);
}
"#;

#[tokio::test]
async fn a_c_plugin_runs_with_just_what_was_learned() {
    let data = Data::new();
    let [read, made, out] = ["in/file", "out/made", "out"].map(|name| data.path(name));
    let binary = compiled(C);
    let package = |home: &Home, capabilities: &[String]| {
        binary_package(
            home,
            "learner",
            json!({ "capabilities": capabilities }),
            &binary,
        );
    };
    let input = json!({ "made": made, "read": read });
    let proposal = learned(&package, "learner", &input).await;
    let expected = [
        format!("file:read={read}"),
        format!("file:write={out}"),
        "process:spawn=/usr/bin/test".to_owned(),
        "system:info".to_owned(),
    ];
    assert_eq!(texts(&proposal), expected, "{proposal:?}");
    assert_eq!(runs(&package, "learner", &input, &proposal).await, json!(0));
}

/// Of what nobody means to grant as a whole it is said that it was used.
#[tokio::test]
async fn what_would_be_too_much_is_not_proposed() {
    let steps = "run) ls / /etc > /dev/null; : > /tmp/learner-$$; rm /tmp/learner-$$
        echo '\"done\"';;";
    let mut home = Home::trusting(TrustLevel::Untrusted);
    home.shell("learner", &["run"], steps);
    let lessons = Lessons::of(home.path("plugins/learner/1.0.0"));
    home.settings.sandbox.learn = Some(lessons.clone());
    let runtime = home.start().await;
    output(&handle(&runtime, "learner"), "run", json!({})).await;
    drop(runtime);
    let programs = ["process:spawn=/usr/bin/ls", "process:spawn=/usr/bin/rm"];
    let proposal = lessons.proposal(&programs.map(grant));
    assert_eq!(texts(&proposal), Vec::<String>::new());
    let withheld: Vec<_> = proposal.withheld.iter().map(|it| &*it.resource).collect();
    assert_eq!(withheld, ["/", "/etc", "/tmp"]);
}

/// What it writes to the directory that it has for itself needs no grant.
#[tokio::test]
async fn its_own_temporary_directory_is_not_proposed() {
    let steps = "run) : > $TMPDIR/learner-$$; mkdir $TMPDIR/learner-d$$; : > $TMPDIR/learner-d$$/x
        rm -r $TMPDIR/learner-*$$; echo '\"done\"';;";
    let mut home = Home::trusting(TrustLevel::Untrusted);
    let file = File {
        path: "main.sh",
        content: &shell_script("learner", &["run"], steps),
    };
    home.package(
        "learner",
        json!({ "resources": { "max_disk_mb": 8 } }),
        &[file],
    );
    let lessons = Lessons::of(home.path("plugins/learner/1.0.0"));
    home.settings.sandbox.learn = Some(lessons.clone());
    let runtime = home.start().await;
    output(&handle(&runtime, "learner"), "run", json!({})).await;
    drop(runtime);
    let proposal = lessons.proposal(&[]);
    let programs = ["mkdir", "rm"].map(|name| format!("process:spawn=/usr/bin/{name}"));
    assert_eq!(
        (texts(&proposal), proposal.withheld),
        (programs.to_vec(), vec![])
    );
}

/// It has the machine's `/tmp` then, and what others keep there is none of its doing.
#[tokio::test]
async fn what_others_keep_is_not_taken_for_the_files_of_who_is_observed() {
    let mut others = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    others.write_all(&vec![0; 2 << 20]).unwrap();
    let mut home = Home::trusting(TrustLevel::Untrusted);
    home.settings.monitor.interval = Duration::from_millis(20);
    let manifest = json!({
        "resources": { "max_disk_mb": 1 },
        "capabilities": ["process:spawn=/usr/bin/sleep"],
    });
    let file = File {
        path: "main.sh",
        content: &shell_script("frugal", &["run"], "run) sleep 0.5; echo 1;;"),
    };
    let package = home.package("frugal", manifest, &[file]);
    home.settings.sandbox.learn = Some(Lessons::of(package));
    let runtime = home.start().await;
    output(&handle(&runtime, "frugal"), "run", json!({})).await;
    let events = home.events.all();
    let is_sample = |event: &&Event| matches!(event, Event::PluginSampled { .. });
    assert!(
        events.iter().any(|event| is_sample(&event)),
        "nobody looked"
    );
    let is_violation = |event: &&Event| matches!(event, Event::ResourceViolation { .. });
    let violations: Vec<_> = events.iter().filter(is_violation).collect();
    assert!(violations.is_empty(), "{violations:?}");
    let held = status(&runtime, "frugal").limits_held;
    let disk = held.iter().find(|it| it.resource == "disk").unwrap();
    assert_eq!(disk.by, ["rlimit"]);
}
