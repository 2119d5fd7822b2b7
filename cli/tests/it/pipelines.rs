use crate::harness::{Home, pipeline};

#[test]
fn a_pipeline_is_checked_with_and_without_its_plugins() {
    let home = Home::new();
    let file = home.pipeline("greet");
    home.run(&["pipeline", "validate", &file, "--offline"]).ok();
    home.run(&["pipeline", "validate", &file]).with_code(3);
    let home = Home::with_greeter();
    let file = home.pipeline("greet");
    let valid = home.run(&["pipeline", "validate", &file, "--json"]).ok();
    assert_eq!(valid.json()["pipeline"], "greet");
    let file = home.pipeline("sing");
    let done = home
        .run(&["pipeline", "validate", &file, "--json"])
        .with_code(3);
    let text = done.error().to_string();
    assert!(text.contains("sing"), "{text}");
}

#[test]
fn a_pipeline_that_would_be_refused_is_not_valid() {
    let home = Home::with_greeter();
    for policy in [
        "{ bulkhead: { max_concurrent: 9 } }",
        "{ retry: { budget: { ratio: 1.0 } } }",
        "{ deadline: { total: soon } }",
    ] {
        let text = pipeline("greet").replace(
            "phase: greet",
            &format!("phase: greet\n    policy: {policy}"),
        );
        let file = home.write("policy.yaml", &text);
        let refused = home.run(&["run", "start", &file, "--json"]).with_code(3);
        let done = home.run(&["pipeline", "validate", &file, "--json"]);
        assert_eq!(done.with_code(3).error(), refused.error(), "{policy}");
    }
    assert_eq!(home.run(&["run", "list"]).ok().stdout, "no runs\n");
}

#[test]
fn every_fault_is_told_with_its_place() {
    let home = Home::new();
    let text = pipeline("greet")
        .replace("plugin: greeter", "plugn: greeter")
        .replace("input.who", "input.whom");
    let file = home.write("broken.yaml", &text);
    let done = home.run(&["pipeline", "validate", &file, "--offline", "--json"]);
    let error = done.with_code(3).error();
    let faults = error["faults"].as_array().unwrap();
    assert!(faults.iter().any(|fault| fault["line"] == 7), "{error}");
}

#[test]
fn steps_and_schema_are_shown() {
    let home = Home::new();
    let file = home.pipeline("greet");
    let shown = home.run(&["pipeline", "show", &file, "--json"]).ok().json();
    assert_eq!(shown["steps"][0]["plugin"], "greeter");
    let schema = home.run(&["pipeline", "show", "--schema"]).ok().json();
    assert!(schema["properties"]["steps"].is_object(), "{schema}");
}

#[test]
fn a_pipeline_is_found_by_its_name_and_nowhere_else() {
    let home = Home::new();
    let dir = home.root().join("pipelines");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("nightly.yaml"), pipeline("greet")).unwrap();
    home.run(&["pipeline", "show", "nightly"]).ok();
    let unknown = home
        .run(&["pipeline", "show", "weekly", "--json"])
        .with_code(4);
    assert_eq!(unknown.error()["code"], "ORC-5003");
    let missing = home.run(&["pipeline", "show", "./weekly.yaml", "--json"]);
    assert_eq!(missing.with_code(4).error()["code"], "ORC-5001");
}
