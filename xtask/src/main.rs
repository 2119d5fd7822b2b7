//! The tasks of the workspace. `cargo xtask help` lists them.
//!
//! The checks that keep `ARCHITECTURE.md` true are this package's tests.

mod demo;
mod process;
mod test;
mod tools;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask <task>

  demo [--repo PATH]   run the release-notes pipeline with freshly signed plugins
  deny                 check licences, sources and who uses which crate
  errors               write docs/errors.md from the error types of the crates
  peers                install what the benches compare with under target/tools
  test [ARGS…]         install what the tests need under target/tools, then run them all
  help                 this list
";

#[expect(clippy::print_stderr, reason = "a task tells the person who runs it")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["demo"] => demo::run(None),
        ["demo", "--repo", path] => demo::run(Some(path.into())),
        ["deny"] => deny(),
        ["errors"] => errors(),
        ["peers"] => tools::bubblewrap().map(drop),
        ["test", ref rest @ ..] => test::run(rest),
        ["help" | "--help" | "-h"] | [] => {
            eprint!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("unknown task `{}`\n\n{HELP}", words.join(" "));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("\nerror: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Advisories are left out: they need a database from the network, and change
/// without any change of ours.
fn deny() -> process::Result<()> {
    let checks = ["check", "bans", "licenses", "sources"];
    process::run(&tools::deny()?, &checks, &[])
}

fn errors() -> process::Result<()> {
    let root = process::root();
    let page = orchestrator_xtask::errors::Catalogue::read(&root)?.page()?;
    let path = root.join(orchestrator_xtask::errors::PAGE);
    std::fs::write(&path, page).map_err(|error| format!("{}: {error}", path.display()))
}
