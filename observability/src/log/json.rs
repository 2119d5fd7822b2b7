//! The line that machines read.

use serde_json::{Map, Value};

use super::Line;

/// One JSON object; every field is at its top level.
pub(super) fn line(line: &Line<'_>) -> String {
    let mut object = Map::new();
    let mut set = |name: &str, value: Value| {
        // The first one to set a name keeps it.
        object.entry(name).or_insert(value);
    };
    set("ts", format!("{:.9}", line.at).into());
    set("level", line.level.as_str().to_ascii_lowercase().into());
    set("target", line.target.into());
    set("message", line.fields.message.as_str().into());
    if let Some(trace) = line.trace {
        set("trace_id", trace.trace_id.to_string().into());
        set("span_id", trace.span_id.to_string().into());
    }
    if let Some(plugin) = &line.fields.plugin {
        set("plugin", plugin.as_str().into());
    }
    for (name, value) in &line.fields.others {
        set(name, value.clone());
    }
    Value::Object(object).to_string()
}
