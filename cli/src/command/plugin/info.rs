//! `orchestrator plugin info`

use std::{fmt::Write as _, path::Path};

use orchestrator_plugin_runtime::{PluginStatus, Runtime};
use orchestrator_signing::TrustStore;
use semver::{Version, VersionReq};
use serde_json::{Value, json};

use super::{pack, verify};
use crate::{
    context::Context,
    error::CliError,
    failure::Result,
    held::{Holder, layers_in_words},
    output::harmless,
    progress::duration,
    run_view::{size, time},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The plugin, one version of it as NAME@VERSION, or a `.opkg` file; without
    /// it, every plugin
    name: Option<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: &Context) -> Result {
        let path = self.name.as_deref().map(Path::new);
        let archive = path.filter(|path| path.extension().is_some_and(|it| it == "opkg"));
        if let Some(archive) = archive {
            return of_archive(context, archive);
        }
        let runtime = context.plugins().await?;
        let plugins = runtime.plugins();
        let Some(name) = self.name else {
            return context.out.show(&plugins, |plugins| {
                let texts: Vec<_> = plugins.iter().map(text).collect();
                texts.join("\n")
            });
        };
        let Some((plugin, others)) = chosen(&runtime, &plugins, &name) else {
            let names = plugins.iter().map(|plugin| plugin.id.as_str());
            return Err(CliError::unknown_plugin(&name, names).into());
        };
        let mut value = serde_json::to_value(plugin).map_err(std::io::Error::from)?;
        if let Value::Object(fields) = &mut value {
            let versions = others.iter().map(|other| other.version.to_string());
            fields.insert("other_versions".to_owned(), Value::from_iter(versions));
            let problems = others.iter().filter_map(|other| {
                let (version, error) = (&other.version, other.error.as_ref()?);
                Some(json!({ "version": version, "error": error }))
            });
            fields.insert("other_problems".to_owned(), Value::from_iter(problems));
        }
        let carried = carried(context, plugin);
        value["attestations"] = carried.clone();
        context.out.show(&value, |_| {
            let mut text = text(plugin);
            for other in others {
                let _ = writeln!(text, "other version {}", other.version);
                if let Some(problem) = &other.error {
                    let (code, message) = (&problem.code, harmless(&problem.message));
                    let _ = writeln!(text, "  error       {code}: {message}");
                    let _ = writeln!(text, "  help        {}", harmless(&problem.help));
                }
            }
            for attestation in carried.as_array().into_iter().flatten() {
                let of = |name: &str| attestation[name].as_str().unwrap_or("cannot be read");
                let (path, what) = (of("path"), harmless(of("predicate_type")));
                let _ = writeln!(text, "carries       {path}: {what}");
            }
            text
        })
    }
}

/// The attestations that travel with a signed plugin.
fn carried(context: &Context, plugin: &PluginStatus) -> Value {
    let home = context.home().ok();
    let trust = home.and_then(|home| TrustStore::open(&home.trust()).ok());
    let package = trust
        .zip(plugin.location.as_ref())
        .and_then(|(trust, dir)| orchestrator_signing::verify(dir, &trust.root()).ok());
    package.map_or(json!([]), |package| {
        verify::as_json(&package)["attestations"].take()
    })
}

/// What a package says that nobody has installed yet.
fn of_archive(context: &Context, path: &Path) -> Result {
    let trust = TrustStore::open(&context.home()?.trust())?;
    let (unpacked, package) = pack::open(context, path, &trust)?;
    for warning in package.warnings() {
        context.out.warn(warning);
    }
    let manifest = package.manifest();
    let mut value = verify::as_json(&package);
    if let Value::Object(fields) = &mut value {
        fields.insert("description".to_owned(), json!(manifest.description));
        fields.insert("files".to_owned(), json!(unpacked.files()));
        fields.insert("bytes".to_owned(), json!(unpacked.bytes()));
    }
    context.out.show(&value, |_| {
        let mut lines = Lines(String::new());
        lines.line("name", manifest.id.as_str());
        lines.line("version", manifest.version.to_string());
        lines.line("description", &manifest.description);
        lines.maybe("author", manifest.author.as_ref());
        lines.maybe("license", manifest.license.as_ref());
        lines.line("kind", manifest.kind.as_str());
        lines.line("state", "not installed from here");
        lines.line("trust level", package.trust_level().to_string());
        lines.line("signed by", package.publisher().to_string());
        let release = package.release();
        lines.maybe("release", release.map(|release| release.serial));
        lines.maybe("digest", package.statement_digest());
        for phase in &manifest.phases {
            lines.line("phase", &phase.name);
        }
        for capability in &manifest.capabilities {
            lines.line("asks for", capability.to_string());
        }
        lines.line("files", unpacked.files().to_string());
        lines.line("size", size(unpacked.bytes()));
        lines.0
    })
}

/// The version that was named, else the one that pipelines get which name none,
/// else the highest; and the other versions there are.
fn chosen<'p>(
    runtime: &Runtime,
    plugins: &'p [PluginStatus],
    name: &str,
) -> Option<(&'p PluginStatus, Vec<&'p PluginStatus>)> {
    let (id, named) = match name.split_once('@') {
        Some((id, version)) => (id, Some(Version::parse(version).ok()?)),
        None => (name, None),
    };
    let versions: Vec<_> = plugins.iter().filter(|plugin| plugin.id == id).collect();
    let of = |version: &Version| versions.iter().find(|it| it.version == *version);
    let plugin = match &named {
        Some(version) => of(version)?,
        None => {
            let resolved = runtime.resolve(id, &VersionReq::STAR).ok();
            let resolved = resolved.and_then(|handle| of(handle.version()));
            resolved.or(versions.iter().max_by_key(|it| &it.version))?
        }
    };
    let others = versions.iter().copied();
    let others = others.filter(|other| other.version != plugin.version);
    Some((plugin, others.collect()))
}

/// One line for each thing there is to say, its name in front.
struct Lines(String);

impl Lines {
    fn line(&mut self, name: &str, value: impl AsRef<str>) {
        if !value.as_ref().is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(self.0, "{name:<13} {}", harmless(value.as_ref()));
        }
    }

    fn maybe(&mut self, name: &str, value: Option<impl ToString>) {
        self.line(
            name,
            value.map_or_else(String::new, |value| value.to_string()),
        );
    }
}

fn text(plugin: &PluginStatus) -> String {
    let mut lines = Lines(String::new());
    lines.line("name", &plugin.id);
    lines.line("version", plugin.version.to_string());
    lines.line("description", &plugin.description);
    lines.maybe("author", plugin.author.as_ref());
    lines.maybe("license", plugin.license.as_ref());
    lines.line("kind", plugin.kind);
    lines.line("roles", plugin.roles.join(", "));
    let since = plugin.history.last().map(|change| time(change.at_ms));
    let since = since.map_or_else(String::new, |since| format!(" since {since}"));
    lines.line("state", format!("{}{since}", plugin.state.as_str()));
    lines.maybe("trust level", plugin.trust_level);
    match plugin.unsigned {
        true => lines.line("signed by", "nobody"),
        false => lines.maybe("signed by", plugin.key_id.as_ref()),
    }
    lines.line("digest", &plugin.digest);
    let location = plugin.location.as_ref().map(|path| path.display());
    lines.line(
        "location",
        location.map_or_else(|| plugin.label.clone(), |path| path.to_string()),
    );
    for dependency in &plugin.dependencies {
        let found = match &dependency.version {
            Some(version) => version.to_string(),
            None => "missing".to_owned(),
        };
        let (id, range) = (&dependency.id, &dependency.range);
        lines.line("depends on", format!("{id} {range} ({found})"));
    }
    phases(&mut lines, plugin);
    for grant in &plugin.grants {
        lines.line(
            "granted",
            format!("{grant} ({})", Holder::of(plugin, grant).in_words()),
        );
    }
    confinement(&mut lines, plugin);
    for held in &plugin.limits_held {
        let limit = match held.resource {
            "memory" | "disk" => size(held.limit),
            "cpu" => format!("{} %", held.limit),
            _ => held.limit.to_string(),
        };
        let by = held.by.join(", ");
        lines.line(
            &format!("max {}", held.resource),
            format!("{limit} (by {by})"),
        );
    }
    lines.maybe("process", plugin.pid);
    lines.maybe("restarts", Some(plugin.restarts).filter(|many| *many > 0));
    for copy in &plugin.shadowed {
        lines.line("shadowed", copy.display().to_string());
    }
    for warning in &plugin.warnings {
        lines.line("warning", warning);
    }
    if let Some(problem) = &plugin.error {
        lines.line("error", format!("{}: {}", problem.code, problem.message));
        lines.line("help", &problem.help);
    }
    lines.0
}

fn confinement(lines: &mut Lines, plugin: &PluginStatus) {
    let Some(sandbox) = &plugin.sandbox else {
        return;
    };
    lines.line("confined by", layers_in_words(sandbox));
    for absent in &sandbox.absent {
        let help = match absent.help {
            "" => String::new(),
            help => format!("; {help}"),
        };
        lines.line(
            "without",
            format!("{}: {}{help}", absent.layer, absent.reason),
        );
    }
}

fn phases(lines: &mut Lines, plugin: &PluginStatus) {
    for phase in &plugin.phases {
        let retries = match phase.max_retries {
            None => String::new(),
            Some(0) => ", never retried".to_owned(),
            Some(many) => format!(", at most {many} retries"),
        };
        let description = match &phase.description {
            Some(description) => format!(": {description}"),
            None => String::new(),
        };
        let (name, effect) = (&phase.name, phase.effect);
        let timeout = duration(phase.timeout_ms);
        let text = format!("{name} ({effect}, within {timeout}{retries}){description}");
        lines.line("phase", text);
    }
}
