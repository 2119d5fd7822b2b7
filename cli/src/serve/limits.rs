//! `GET` and `PUT /api/v1/plugins/{id}/limits`

use std::{io, sync::Arc};

use axum::{
    Json,
    extract::{Path, State, rejection::JsonRejection},
};
use orchestrator_plugin_runtime::{LimitChange, PluginStatus};
use orchestrator_signing::audit::Kind;
use serde_json::{Value, json};

use super::{App, plugins, problem::Problem, refusal::Refusal};
use crate::{audit::change, failure::Failure};

/// What every version of a plugin may use, by whom it is held to that, and where each
/// limit comes from.
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    shown(&app, &id)
}

/// Changes limits, and shows them as they are then. What the body leaves out stays.
pub(super) async fn set(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    body: Result<Json<LimitChange>, JsonRejection>,
) -> Result<Json<Value>, Problem> {
    let Json(limits) = body.map_err(|rejection| match Refusal::from(rejection) {
        Refusal::Fields(why) => Refusal::Limits(why),
        other => other,
    })?;
    plugins::versions(&app, &id)?;
    if !limits.is_empty() {
        put(&app, &id, limits).await?;
    }
    shown(&app, &id)
}

/// Done to its end, whether or not anybody waits for that.
async fn put(app: &Arc<App>, id: &str, limits: LimitChange) -> Result<(), Problem> {
    let mut event = plugins::event(Kind::ConfigChange, "plugin limits", id);
    if let Ok(Value::Object(fields)) = serde_json::to_value(limits) {
        for (name, value) in fields {
            let value = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            event = event.with(&name, value);
        }
    }
    let (app, id) = (Arc::clone(app), id.to_owned());
    let task = tokio::spawn(async move {
        let mut class = None;
        let work = async {
            let done = app.engine.limit_plugin(&id, &limits);
            Ok(done.inspect_err(|error| class = Some(error.class()))?)
        };
        let changed = change(&app.audit, event, work).await;
        changed.map_err(|failure| match class {
            Some(class) => Problem::of_class(class, &failure),
            None => failure.into(),
        })
    });
    let ended = task.await.map_err(io::Error::other);
    ended.map_err(Failure::from)?
}

fn shown(app: &App, id: &str) -> Result<Json<Value>, Problem> {
    let limits = |status: &PluginStatus| {
        json!({
            "id": status.id,
            "version": status.version,
            "state": status.state,
            "limits": status.limits_held,
        })
    };
    let versions = plugins::versions(app, id)?;
    let plugins: Vec<_> = versions.iter().map(limits).collect();
    Ok(Json(json!({ "plugins": plugins })))
}
