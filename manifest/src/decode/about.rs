//! Who the plugin is: names, version, description, audience.

use semver::Version;

use super::{
    Context,
    scalar::{self, line, plugin_name, prose, raw_text},
    table::Table,
};
use crate::{fault::Rule, located::NodeKind, name::PluginName, word::Channel};

/// The part of a manifest that says who the plugin is.
pub(super) struct About {
    pub(super) identity: Identity,
    pub(super) version: Version,
    pub(super) description: String,
    pub(super) author: Option<String>,
    pub(super) license: Option<String>,
    pub(super) min_host_version: Option<Version>,
    pub(super) channel: Channel,
    pub(super) deprecated: Option<String>,
}

pub(super) fn about(cx: &mut Context<'_>, table: &mut Table<'_>) -> Option<About> {
    let identity = identity(cx, table);
    let version = table
        .require(cx, "version")
        .and_then(|item| scalar::version(cx, &item));
    let description = table
        .require(cx, "description")
        .and_then(|item| prose(cx, &item));
    let author = table.take(cx, "author").and_then(|item| line(cx, &item));
    let license = table.take(cx, "license").and_then(|item| line(cx, &item));
    let min_host = table
        .take(cx, "min_host_version")
        .and_then(|item| scalar::version(cx, &item));
    let (channel, deprecated) = channel(cx, table);
    Some(About {
        identity: identity?,
        version: version?,
        description: description?,
        author,
        license,
        min_host_version: min_host,
        channel,
        deprecated,
    })
}

pub(super) struct Identity {
    pub(super) id: PluginName,
    pub(super) name: PluginName,
    pub(super) display_name: Option<String>,
}

/// `id` and `name` stand in for each other. Next to an `id`, a `name` that is
/// no name is what people should see.
fn identity(cx: &mut Context<'_>, table: &mut Table<'_>) -> Option<Identity> {
    let id_item = table.take(cx, "id");
    let id = id_item.as_ref().and_then(|item| plugin_name(cx, item));
    let display_item = table.take(cx, "display_name");
    let mut display_name = display_item.and_then(|item| line(cx, &item));
    let Some(name_item) = table.take(cx, "name") else {
        if id_item.is_none() {
            table.require(cx, "name");
        }
        let id = id?;
        let name = PluginName::parse(id.last_label()).ok()?;
        return Some(Identity {
            id,
            name,
            display_name,
        });
    };
    let text = raw_text(cx, &name_item)?;
    if id_item.is_some() && PluginName::parse(text).is_err() {
        let shown = line(cx, &name_item);
        if display_name.is_some() && display_name != shown {
            let help = "keep one of them, or make `name` a plugin name";
            cx.fault(
                &name_item,
                Rule::Contradiction,
                "`display_name` says something else",
                help,
            );
        }
        display_name = shown;
        let id = id?;
        let name = PluginName::parse(id.last_label()).ok()?;
        return Some(Identity {
            id,
            name,
            display_name,
        });
    }
    let name = plugin_name(cx, &name_item)?;
    let id = if id_item.is_some() { id? } else { name.clone() };
    Some(Identity {
        id,
        name,
        display_name,
    })
}

fn channel(cx: &mut Context<'_>, table: &mut Table<'_>) -> (Channel, Option<String>) {
    let deprecated = table
        .take(cx, "deprecated")
        .and_then(|item| match item.node.kind {
            NodeKind::Bool(false) => None,
            NodeKind::Bool(true) => Some("deprecated by its author".to_owned()),
            _ => line(cx, &item),
        });
    let channel = table
        .take(cx, "channel")
        .and_then(|item| scalar::word(cx, &item));
    let assumed = match deprecated {
        Some(_) => Channel::Deprecated,
        None => Channel::Stable,
    };
    (channel.unwrap_or(assumed), deprecated)
}
