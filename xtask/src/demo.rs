//! The main job on real input: sign three plugins, trust them, run a pipeline,
//! and show how a tampered plugin is refused.
#![expect(clippy::print_stdout, reason = "the demo is there to be read")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::process::{self, Result};

/// The pipeline's plugins: name, and the program to put beside the manifest.
const PLUGINS: [(&str, Option<&str>); 3] = [
    ("git-history", Some("git-history")),
    ("commit-classifier", Some("commit-classifier")),
    ("author-stats", None),
];
/// What `orchestrator help exit-codes` calls a signature or trust failure.
const TRUST_FAILURE: i32 = 6;

/// Runs the demo on `repo`, or on this repository.
pub(crate) fn run(repo: Option<PathBuf>) -> Result<()> {
    let repo = fs::canonicalize(repo.unwrap_or_else(process::root))
        .map_err(|error| format!("the repository: {error}"))?;
    let git = process::find("git").ok_or("the demo reads a git log: install git")?;

    heading("Build the command and the example plugins");
    let build = [
        "build",
        "--package",
        "orchestrator-cli",
        "--package",
        "orchestrator-examples",
        "--bins",
    ];
    process::run(&process::cargo(), &build, &[])?;
    let demo = Demo::prepare(repo, git)?;

    heading("Make a release key, sign three plugins with it, and trust it");
    demo.ok(&["key", "generate", "demo", "--no-passphrase"])?;
    for (name, _) in PLUGINS {
        demo.ok(&["plugin", "sign", &demo.package(name), "--key", "demo"])?;
    }
    demo.ok(&[
        "trust",
        "add",
        "demo",
        "--level",
        "3",
        "--names",
        "git-history,commit-classifier,author-stats",
    ])?;

    heading("Install them and grant what each asks for");
    for (name, _) in PLUGINS {
        demo.ok(&["plugin", "install", &demo.package(name)])?;
    }
    demo.grant()?;

    heading("Run the pipeline on the repository's history");
    demo.start()?;
    let notes = demo.dir.join("RELEASE_NOTES.md");
    show_beginning(&notes)?;

    heading("Flip one byte of an installed plugin and run again");
    demo.refuse_tampered()?;

    heading("Try next");
    let (home, binary) = (demo.home(), shown(&demo.binary));
    println!("  {binary} --home {home} run list");
    println!("  {binary} --home {home} plugin info git-history");
    println!("  {binary} --home {home} serve");
    Ok(())
}

struct Demo {
    dir: PathBuf,
    binary: PathBuf,
    repo: PathBuf,
    git: PathBuf,
}

impl Demo {
    /// Starts from nothing: an empty home and packages that nobody has signed.
    fn prepare(repo: PathBuf, git: PathBuf) -> Result<Self> {
        let dir = process::target().join("demo");
        let failed = |what: &Path| {
            let what = what.display().to_string();
            move |error: std::io::Error| format!("{what}: {error}")
        };
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(failed(&dir))?;
        }
        for (name, program) in PLUGINS {
            let source = process::root()
                .join("examples/release-notes/plugins")
                .join(name);
            let package = dir.join("packages").join(name);
            copy_tree(&source, &package).map_err(failed(&source))?;
            if let Some(program) = program {
                let built = process::target().join("debug").join(program);
                fs::copy(&built, package.join(program)).map_err(failed(&built))?;
            }
        }
        let binary = process::target().join("debug/orchestrator");
        Ok(Self {
            dir,
            binary,
            repo,
            git,
        })
    }

    fn home(&self) -> String {
        shown(&self.dir.join("home"))
    }

    fn package(&self, name: &str) -> String {
        shown(&self.dir.join("packages").join(name))
    }

    /// Says what is run, then runs it.
    fn code(&self, args: &[&str]) -> Result<i32> {
        println!("\n$ orchestrator {}", args.join(" "));
        let home = self.dir.join("home").display().to_string();
        let all: Vec<&str> = ["--home", &home].iter().chain(args).copied().collect();
        process::run_for_code(&self.binary, &all, &[])
    }

    fn ok(&self, args: &[&str]) -> Result<()> {
        match self.code(args)? {
            0 => Ok(()),
            code => Err(format!(
                "`orchestrator {}` ended with status {code}",
                args.join(" ")
            )),
        }
    }

    /// A plugin asks for a kind of access; the operator decides which git and
    /// which repository that means here.
    fn grant(&self) -> Result<()> {
        let git = format!("process:spawn={}", self.git.display());
        let repo = format!("file:read={}", self.repo.display());
        self.ok(&["plugin", "grant", "git-history", &git, &repo])?;
        self.ok(&[
            "plugin",
            "grant",
            "author-stats",
            "process:spawn=/bin/sh",
            "process:spawn=/usr/bin/awk",
        ])?;
        self.ok(&["plugin", "list"])
    }

    fn start_args(&self) -> Vec<String> {
        let repo = format!("repo={}", self.repo.display());
        let dir = shown(&self.dir);
        [
            "run",
            "start",
            "examples/release-notes/pipeline.yaml",
            "--input",
            &repo,
            "--output-dir",
            &dir,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn start(&self) -> Result<()> {
        let args = self.start_args();
        self.ok(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The file is put back also when the refusal does not come.
    fn refuse_tampered(&self) -> Result<()> {
        let entry = self.installed_entry("commit-classifier")?;
        let failed = |error: std::io::Error| format!("{}: {error}", entry.display());
        let original = fs::read(&entry).map_err(failed)?;
        let mut tampered = original.clone();
        let middle = tampered.len() / 2;
        tampered[middle] ^= 1;
        write_over(&entry, &tampered).map_err(failed)?;
        println!("flipped one bit at byte {middle} of {}", shown(&entry));
        let args = self.start_args();
        let code = self.code(&args.iter().map(String::as_str).collect::<Vec<_>>());
        write_over(&entry, &original).map_err(failed)?;
        println!("\nput the byte back");
        match code? {
            TRUST_FAILURE => {
                println!(
                    "the run was refused with status {TRUST_FAILURE}, before the plugin's first instruction"
                );
                Ok(())
            }
            code => Err(format!(
                "a tampered plugin must be refused with status {TRUST_FAILURE}, not {code}"
            )),
        }
    }

    fn installed_entry(&self, name: &str) -> Result<PathBuf> {
        let versions = self.dir.join("home/plugins").join(name);
        fs::read_dir(&versions)
            .map_err(|error| format!("{}: {error}", versions.display()))?
            .filter_map(|entry| Some(entry.ok()?.path().join(name)))
            .find(|entry| entry.is_file())
            .ok_or_else(|| format!("`{name}` is not installed below {}", versions.display()))
    }
}

fn heading(text: &str) {
    println!("\n== {text}");
}

/// Paths below the workspace are shown from there.
fn shown(path: &Path) -> String {
    path.strip_prefix(process::root())
        .unwrap_or(path)
        .display()
        .to_string()
}

fn show_beginning(notes: &Path) -> Result<()> {
    let text =
        fs::read_to_string(notes).map_err(|error| format!("{}: {error}", notes.display()))?;
    println!("\n{} begins:\n", shown(notes));
    for line in text.lines().take(12) {
        println!("  {line}");
    }
    Ok(())
}

/// Installed files are read-only; their owner may still replace the content.
fn write_over(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let permissions = fs::metadata(path)?.permissions();
    let mut writable = permissions.clone();
    std::os::unix::fs::PermissionsExt::set_mode(&mut writable, 0o755);
    fs::set_permissions(path, writable)?;
    fs::write(path, bytes)?;
    fs::set_permissions(path, permissions)
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_tree(&entry.path(), &target)?,
            false => {
                fs::copy(entry.path(), &target)?;
            }
        }
    }
    Ok(())
}
