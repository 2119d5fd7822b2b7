use crate::harness::Home;

/// The names of the commands that a help text lists.
fn commands_in(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn walk(home: &Home, path: &[String], seen: &mut Vec<String>) {
    let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
    args.push("--help");
    let help = home.run(&args).ok().stdout;
    assert!(
        help.contains("Examples:\n  "),
        "{args:?} has no examples:\n{help}"
    );
    assert!(help.contains("Usage: "), "{args:?}");
    assert!(!help.contains('\u{1b}'), "{args:?}");
    seen.push(path.join(" "));
    for command in commands_in(&help) {
        let deeper = [path, &[command]].concat();
        walk(home, &deeper, seen);
    }
}

#[test]
fn every_command_has_help_with_examples() {
    let mut seen = Vec::new();
    walk(&Home::new(), &[], &mut seen);
    for path in ["run start", "plugin grant", "serve", "config show", "help"] {
        assert!(seen.iter().any(|it| it == path), "{path} in {seen:?}");
    }
    assert!(seen.len() > 30, "{seen:?}");
}

#[test]
fn the_exit_codes_are_documented() {
    let home = Home::new();
    let text = home.run(&["help", "exit-codes"]).ok().stdout;
    assert!(
        text.contains("  6  a signature or a trust rule failed"),
        "{text}"
    );
    let json = home.run(&["help", "exit-codes", "--json"]).ok().json();
    assert_eq!(json[9]["code"], 130);
    let unknown = home.run(&["help", "nonsense", "--json"]).with_code(4);
    assert_eq!(unknown.error()["code"], "ORC-5013");
    let deeper = home.run(&["help", "run", "start"]).ok().stdout;
    assert!(deeper.contains("orchestrator run start"), "{deeper}");
}

#[test]
fn a_wrong_command_line_is_status_2_and_says_what_is_near() {
    let home = Home::new();
    let done = home.run(&["plugin", "instal", "x"]).with_code(2);
    assert_eq!(done.stdout, "");
    assert!(done.stderr.contains("install"), "{}", done.stderr);
    let json = home.run(&["plugin", "instal", "x", "--json"]).with_code(2);
    assert_eq!(json.error()["code"], "ORC-5015");
}

#[test]
fn the_version_and_the_completions_are_printed() {
    let home = Home::new();
    let version = env!("CARGO_PKG_VERSION");
    let text = home.run(&["version"]).ok().stdout;
    assert_eq!(text, format!("orchestrator {version}\n"));
    assert_eq!(
        home.run(&["version", "--json"]).ok().json()["version"],
        version
    );
    assert!(home.run(&["--version"]).ok().stdout.contains(version));
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = home.run(&["completion", shell]).ok().stdout;
        assert!(script.contains("orchestrator"), "{shell}");
    }
}
