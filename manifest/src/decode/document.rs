//! The manifest as a whole.

use std::collections::BTreeMap;

use super::{
    Context, Item,
    about::about,
    config, kind, permission, phase,
    relations::{dependencies, provides, tag_key, tags},
    scalar::{self, file, list_of, map_of, number, path, path_from, prose, tag},
    table::{MANIFEST_ALIASES, RESOURCES_ALIASES, Table},
};
use crate::{
    fault::Rule,
    located::{Node, NodeKind},
    manifest::{Manifest, OutputSpec, Resources},
    word::Role,
};

/// The format that this version reads.
const MANIFEST_VERSION: u32 = 1;

/// Decodes a manifest. Complete only if `cx` has no faults afterwards.
pub(crate) fn manifest(cx: &mut Context<'_>, root: &Node) -> Option<Manifest> {
    let mut table = Table::open(cx, Item::root(root), MANIFEST_ALIASES)?;
    let manifest_version = manifest_version(cx, &mut table);
    let about = about(cx, &mut table);
    let name = about.as_ref().map(|about| &about.identity.name);
    let entry = kind::entry(cx, &mut table, name);
    let phases = phase::phases(cx, &mut table);
    let namespace = table
        .take(cx, "namespace")
        .and_then(|item| namespace(cx, &item));
    let role = roles(cx, &mut table, !phases.is_empty(), namespace.is_some());
    let dependencies = table
        .take(cx, "dependencies")
        .map(|item| dependencies(cx, &item));
    let required_features = tags(cx, &mut table, "required_features");
    let domains = tags(cx, &mut table, "domains");
    let capabilities = permission::capabilities(cx, &mut table);
    let version = about.as_ref().map(|about| &about.version);
    let provides = provides(cx, &mut table, version);
    let resources = table
        .take(cx, "resources")
        .and_then(|item| resources(cx, item));
    let config = config::config(cx, &mut table);
    let prompts = table
        .take(cx, "prompts")
        .map(|item| map_of(cx, &item, tag_key, file));
    let output_spec = table
        .take(cx, "output_spec")
        .and_then(|item| output_spec(cx, item));
    let extensions = extensions(&mut table);
    table.close(cx);
    let (about, entry) = (about?, entry?);
    Some(Manifest {
        manifest_version,
        id: about.identity.id,
        name: about.identity.name,
        display_name: about.identity.display_name,
        version: about.version,
        description: about.description,
        author: about.author,
        license: about.license,
        min_host_version: about.min_host_version,
        channel: about.channel,
        deprecated: about.deprecated,
        kind: entry.kind,
        role,
        entry_point: entry.entry_point,
        interpreter: entry.interpreter,
        args: entry.args,
        dependencies: dependencies.unwrap_or_default(),
        required_features,
        capabilities,
        provides,
        resources: resources.unwrap_or_default(),
        config_schema: config.schema,
        config_example: config.example,
        env_mapping: config.env_mapping,
        sensitive_fields: config.sensitive_fields,
        domains,
        phases,
        prompts: prompts.unwrap_or_default(),
        output_spec,
        namespace,
        extensions,
    })
}

fn manifest_version(cx: &mut Context<'_>, table: &mut Table<'_>) -> u32 {
    let Some(item) = table.take(cx, "manifest_version") else {
        return MANIFEST_VERSION;
    };
    let version = number(cx, &item, 1..=u32::MAX);
    if version.is_some_and(|version| version != MANIFEST_VERSION) {
        let message = format!("this Orchestrator reads manifest version {MANIFEST_VERSION}");
        cx.fault(
            &item,
            Rule::BadManifestVersion,
            message,
            "use a newer Orchestrator",
        );
    }
    MANIFEST_VERSION
}

fn roles(
    cx: &mut Context<'_>,
    table: &mut Table<'_>,
    has_phases: bool,
    has_namespace: bool,
) -> Vec<Role> {
    let item = table.take(cx, "role");
    let mut roles: Vec<Role> = match &item {
        None if has_namespace => vec![Role::Resource],
        None if has_phases => vec![Role::Domain],
        None => vec![Role::Command],
        Some(item) if matches!(item.node.kind, NodeKind::List(_)) => {
            list_of(cx, item, scalar::word)
        }
        Some(item) => scalar::word(cx, item).into_iter().collect(),
    };
    roles.sort_unstable();
    roles.dedup();
    let at = item.unwrap_or_else(|| table.item().clone());
    if roles.is_empty() && matches!(&at.node.kind, NodeKind::List(items) if items.is_empty()) {
        cx.fault(
            &at,
            Rule::OutOfBounds,
            "a plugin has at least one role",
            "domain, resource, auth or command",
        );
    }
    if roles.contains(&Role::Resource) && !has_namespace {
        cx.fault(
            &at,
            Rule::Misplaced,
            "namespace: required for the role `resource`",
            "add `namespace`",
        );
    }
    if roles.contains(&Role::Domain) && !has_phases {
        cx.fault(
            &at,
            Rule::Misplaced,
            "phases: required for the role `domain`",
            "add `phases`",
        );
    }
    roles
}

fn namespace(cx: &mut Context<'_>, item: &Item<'_>) -> Option<String> {
    let text = tag(cx, item)?;
    if text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Some(text);
    }
    cx.fault(
        item,
        Rule::BadName,
        "a namespace has letters and digits alone",
        "for example `FakeAWS`",
    );
    None
}

fn resources(cx: &mut Context<'_>, item: Item<'_>) -> Option<Resources> {
    let mut table = Table::open(cx, item, RESOURCES_ALIASES)?;
    // 0 means the same as leaving the key out.
    let mut limit = |cx: &mut Context<'_>, key| {
        let item = table.take(cx, key)?;
        number(cx, &item, 0..=u32::MAX).filter(|limit| *limit > 0)
    };
    let resources = Resources {
        max_memory_mb: limit(cx, "max_memory_mb"),
        max_cpu_percent: limit(cx, "max_cpu_percent"),
        max_disk_mb: limit(cx, "max_disk_mb"),
        max_tasks: limit(cx, "max_tasks"),
        max_open_files: limit(cx, "max_open_files"),
    };
    table.close(cx);
    Some(resources)
}

fn output_spec(cx: &mut Context<'_>, item: Item<'_>) -> Option<OutputSpec> {
    let mut table = Table::open(cx, item, &[])?;
    let primary_output = table
        .take(cx, "primary_output")
        .and_then(|item| path(cx, &item));
    let descriptions = match table.take(cx, "descriptions") {
        Some(item) => map_of(cx, &item, path_from, prose),
        None => BTreeMap::new(),
    };
    table.close(cx);
    Some(OutputSpec {
        primary_output,
        descriptions,
    })
}

fn extensions(table: &mut Table<'_>) -> BTreeMap<String, serde_json::Value> {
    let extensions = table.take_extensions();
    extensions
        .map(|entry| (entry.key.clone(), entry.node.to_json()))
        .collect()
}
