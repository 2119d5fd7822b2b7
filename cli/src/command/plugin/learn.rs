//! `orchestrator plugin learn`

mod manifest;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use orchestrator_engine::{EngineError, RunReport, RunRequest, pipeline::Pipeline};
use orchestrator_manifest::{Capability, Manifest, Token};
use orchestrator_plugin_runtime::{Lessons, Withheld};
use orchestrator_signing::{Package, requested_set};
use serde::Serialize;
use serde_json::{Value, json};

use super::grant;
use crate::{
    audit,
    command::run::follow::{self, Watch},
    context::Context,
    error::CliError,
    failure::Result,
    run_input::value_in,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A plugin, or a package's directory
    plugin: String,

    /// The phase to run; needed where there are several
    #[arg(long)]
    phase: Option<String>,

    /// Read the phase's input from this JSON file, `-` for standard input [default: {}]
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,

    /// Write what is proposed into the manifest, in place of what it asks for
    #[arg(long)]
    write: bool,
}

/// What was learned.
#[derive(Debug, Serialize)]
struct Learned {
    plugin: String,
    version: String,
    phase: String,
    /// How the phase ended.
    outcome: Option<&'static str>,
    error: Option<String>,
    /// What the manifest should ask for, and what is to be granted.
    capabilities: Vec<Capability>,
    /// Those of them that the manifest does not ask for.
    added: Vec<Capability>,
    /// What the manifest asks for and was not used, as far as that is seen.
    unused: Vec<Capability>,
    /// What was used and is not proposed.
    withheld: Vec<Withheld>,
    /// What grants it.
    command: String,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let home = context.home()?;
        let package = grant::package(context, &home, &self.plugin).await?;
        audit::about(context, audit::About::package(&package));
        let manifest = package.manifest();
        let phase = phase(manifest, self.phase.as_deref())?;
        let input = match &self.input {
            Some(path) => value_in(path)?,
            None => json!({}),
        };
        if self.write {
            // What is installed was signed, and stays as it is.
            let is_draft = self.plugin.contains('/');
            manifest::check(&directory(&package), is_draft)?;
        }
        context.out.warn(&format!(
            "{} runs with your rights to files and programs while it is observed",
            manifest.id
        ));
        let lessons = Lessons::of(directory(&package));
        let report = run(context, manifest, &phase, input, &lessons).await?;
        let learned = learned(manifest, phase, &report, &lessons);
        if let Some(error) = &learned.error {
            let text = format!("the phase failed, so it may want more than this: {error}");
            context.out.warn(&text);
        }
        if self.write {
            let path = manifest::write(&directory(&package), &learned.capabilities)?;
            let path = path.display();
            context
                .out
                .note(&format!("wrote {path}; sign the package again"));
        }
        context.out.show(&learned, text)?;
        follow::verdict(&report)
    }
}

fn directory(package: &Package) -> PathBuf {
    let path = Path::new(package.origin()).to_owned();
    std::path::absolute(&path).unwrap_or(path)
}

/// The phase to run.
fn phase(manifest: &Manifest, named: Option<&str>) -> Result<String> {
    let phases = manifest.callable_phases();
    let names: Vec<_> = phases.iter().map(|phase| phase.name.to_string()).collect();
    let chosen = match (named, names.as_slice()) {
        (Some(named), names) => names.iter().find(|name| *name == named),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let chosen = chosen.cloned();
    Ok(chosen.ok_or_else(|| CliError::LearnPhase {
        plugin: manifest.id.to_string(),
        named: named.map(ToOwned::to_owned),
        names,
    })?)
}

/// Runs the phase once, as a run of one step, and stops everything.
async fn run(
    context: &Context,
    manifest: &Manifest,
    phase: &str,
    input: Value,
    lessons: &Lessons,
) -> Result<RunReport> {
    let pipeline = json!({
        "version": 1,
        "name": "learn",
        "steps": [{
            "id": "learn",
            "plugin": manifest.id.as_str(),
            "phase": phase,
            "input": "${{ input.value }}",
        }],
    });
    let pipeline =
        Pipeline::parse(&pipeline.to_string(), "learn.json").map_err(EngineError::from)?;
    let engine = context.learning_engine(lessons).await?;
    let mut watch = Watch::new(&engine, context.out)?;
    let request = RunRequest::new(Arc::new(pipeline)).input(json!({ "value": input }));
    let handle = engine.submit(request).await?;
    watch.follow([&handle]);
    let waited = follow::wait(context, &engine, handle, &mut watch).await;
    follow::stop(context, &engine, Ok(())).await?;
    Ok(waited?.0)
}

fn learned(manifest: &Manifest, phase: String, report: &RunReport, lessons: &Lessons) -> Learned {
    let (asked, _) = requested_set(manifest);
    let interpreter = manifest.interpreter.as_deref();
    let interpreter =
        interpreter.and_then(|path| Capability::new(Token::ProcessSpawn, Some(path)).ok());
    let proposal = lessons.proposal(interpreter.as_slice());
    let used = &proposal.capabilities;
    let is_seen = |it: &Capability| SEEN.contains(&it.token()) && Some(it) != interpreter.as_ref();
    let is_used = |asked: &Capability| {
        let mut used = used.iter();
        used.any(|used| asked.covers(used) || (asked.is_open() && asked.token() == used.token()))
    };
    let (seen, kept): (Vec<_>, Vec<_>) = asked.iter().cloned().partition(is_seen);
    let is_asked = |it: &&Capability| asked.iter().any(|asked| asked.covers(it));
    let added = used.iter().filter(|it| !is_asked(it)).cloned().collect();
    let mut capabilities: Vec<_> = used.iter().chain(&kept).cloned().collect();
    capabilities.sort();
    let error = report.failed_step().and_then(|step| step.error.as_ref());
    Learned {
        plugin: manifest.id.to_string(),
        version: manifest.version.to_string(),
        phase,
        outcome: report.outcome.map(|outcome| outcome.as_str()),
        error: error.or(report.error.as_ref()).map(ToString::to_string),
        command: command(manifest, &capabilities),
        added,
        unused: seen.into_iter().filter(|it| !is_used(it)).collect(),
        withheld: proposal.withheld,
        capabilities,
    }
}

/// What is seen when it is used. The others are asked of the host, or are in the
/// environment.
const SEEN: &[Token] = &[
    Token::FileRead,
    Token::FileWrite,
    Token::NetworkAccess,
    Token::ProcessSpawn,
    Token::SystemInfo,
];

fn command(manifest: &Manifest, capabilities: &[Capability]) -> String {
    let mut command = format!("orchestrator plugin grant {}", manifest.id);
    let closed = capabilities.iter().filter(|it| !it.is_open());
    for capability in closed {
        let text = capability.to_string();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=@,+[]".contains(&byte);
        // Writing to a string cannot fail.
        let _ = match text.bytes().all(is_plain) && !text.contains('[') {
            true => write!(command, " {text}"),
            false => write!(command, " '{}'", text.replace('\'', "'\\''")),
        };
    }
    command
}

fn text(learned: &Learned) -> String {
    let Learned {
        plugin,
        version,
        phase,
        ..
    } = learned;
    let mut text = format!("# what phase {phase} of {plugin} {version} needs\n");
    text += &manifest::section(&learned.capabilities);
    for withheld in &learned.withheld {
        let Withheld {
            resource, reason, ..
        } = withheld;
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# not proposed: {resource}: {reason}");
    }
    for unused in &learned.unused {
        let _ = writeln!(text, "# asked for and not used: {unused}");
    }
    let _ = writeln!(text, "\n{}", learned.command);
    text
}
