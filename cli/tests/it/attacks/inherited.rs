//! What a plugin has from its host, and the ways around the filter of system calls.

use super::{by_grant::Furnished, *};

/// Has the host open what a plugin is not granted.
const OPENS: &str = "exec 7< @SECRET@/file 8>> @SECRET@/other";

#[test]
fn no_descriptor_of_the_host_is_there() {
    for user in users() {
        let scene = Furnished::new(user).with(&["descriptors"], &[]).scene;
        let opens = scene.filled(OPENS);
        let program = scene.home.work().join("attacker.out");
        let control = format!("{opens}\nexec {} execute descriptors", program.display());
        let control = Command::new("/bin/sh").args(["-c", &control]).output();
        assert_eq!(control.unwrap().stdout, b"\"open\"\n", "no attack at all");
        for level in ["1", "2", "3"] {
            scene.trust(level);
            let answers = scene.answers_after(&opens, &["descriptors"]);
            assert_eq!(answers, ["refused"], "level {level}, {user:?}");
        }
    }
}

/// It is the only refusal by the kernel that a host is told of.
#[test]
fn a_call_of_another_interface_ends_the_process_and_is_told() {
    for user in users() {
        let scene = Furnished::new(user).with(&["int80", "x32"], &[]).scene;
        for level in ["1", "2"] {
            scene.trust(level);
            for phase in ["int80", "x32"] {
                let step = format!("{{ id: a, plugin: attacker, phase: {phase}, input: {{}} }}");
                let text = format!("version: 1\nname: a\nsteps:\n  - {step}\n");
                let file = scene.home.write("call.yaml", &text);
                let done = scene.run(&["run", "start", &file, "--json"]).with_code(1);
                let error = &done.json()["steps"][0]["error"];
                assert_eq!(error["kind"], "crash", "{phase}, {user:?}: {error}");
            }
        }
        let shown = scene.run(&["audit", "show", "--json"]).ok().stdout;
        let records = shown
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let told = records.filter(|record| record["rule"] == "system_call");
        assert_eq!(told.count(), 4, "{user:?}: {shown}");
    }
}
