//! The program that embeds the engine.

use serde_json::Value;

use crate::process;

#[test]
fn it_runs_and_prints_its_events() {
    let finished = process::run(env!("CARGO_BIN_EXE_embed"), &["good morning"], &[], b"");

    let output = String::from_utf8(finished.output).unwrap();
    assert_eq!(finished.code, Some(0), "{output}{}", finished.stderr);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.last(), Some(&"GOOD MORNING!"));
    let events: Vec<Value> = lines[..lines.len() - 1]
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!(
        (
            count("run.started"),
            count("step.finished"),
            count("run.finished")
        ),
        (1, 2, 1)
    );
}
