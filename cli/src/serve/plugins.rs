//! Plugins over HTTP.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use orchestrator_engine::EngineError;
use orchestrator_manifest::parse_duration;
use orchestrator_plugin_runtime::PluginStatus;
use orchestrator_signing::audit::{AuditEvent, Kind, Outcome};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, problem::Problem, refusal::Refusal};
use crate::{audit::change, error::CliError, failure::Failure};

type Answer<T = Response> = Result<T, Problem>;

/// Who is said to have done what is asked for over HTTP.
const BY: &str = "holder of the API token";

/// How long the calls of a plugin that is restarted may take to end, unless said.
const GRACE: Duration = Duration::from_secs(10);

/// `GET /api/v1/plugins`
pub(super) async fn list(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "plugins": app.engine.plugins() }))
}

/// `GET /api/v1/plugins/{id}`
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Answer<Json<Value>> {
    Ok(Json(json!({ "plugins": versions(&app, &id)? })))
}

/// Every version of a plugin.
pub(super) fn versions(app: &App, id: &str) -> Answer<Vec<PluginStatus>> {
    let all = app.engine.plugins();
    let found: Vec<_> = all.iter().filter(|it| it.id == id).cloned().collect();
    match found.is_empty() {
        true => {
            let names = all.iter().map(|it| it.id.as_str());
            let unknown = CliError::unknown_plugin(id, names);
            Err(Problem::of(StatusCode::NOT_FOUND, &unknown))
        }
        false => Ok(found),
    }
}

/// `POST /api/v1/plugins/{id}/disable`
pub(super) async fn disable(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    changed(
        app,
        Kind::ConfigChange,
        "plugin disable",
        id,
        |app: Arc<App>, id: String| async move { app.engine.disable_plugin(&id, BY) },
    )
    .await
}

/// `POST /api/v1/plugins/{id}/enable`
pub(super) async fn enable(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    changed(
        app,
        Kind::ConfigChange,
        "plugin enable",
        id,
        |app: Arc<App>, id: String| async move { app.engine.enable_plugin(&id) },
    )
    .await
}

/// The query of a restart.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restart {
    /// How long its calls may take to end.
    grace: Option<String>,
}

/// `POST /api/v1/plugins/{id}/restart`
pub(super) async fn restart(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    query: Result<Query<Restart>, QueryRejection>,
) -> Answer {
    let Query(Restart { grace }) = query.map_err(Refusal::from)?;
    let limit = app.config.request_timeout;
    let grace = match grace {
        None => GRACE.min(limit / 2),
        Some(text) => parse_duration(&text).map_err(|error| Refusal::Grace(error.to_string()))?,
    };
    if grace >= limit {
        let limit = format!("a request is answered within {limit:?}");
        return Err(Refusal::Grace(limit).into());
    }
    changed(
        app,
        Kind::Spawn,
        "plugin restart",
        id,
        move |app: Arc<App>, id: String| async move { app.engine.restart_plugin(&id, grace).await },
    )
    .await
}

pub(super) fn event(kind: Kind, action: &str, id: &str) -> AuditEvent {
    let mut event = AuditEvent::new(kind, Outcome::Ok).plugin(id);
    event.action = Some(action.to_owned());
    event.actor = Some(BY.to_owned());
    event
}

/// Does what is recorded before and after, and shows the plugin as it is then. Done
/// to its end, whether or not anybody waits for that.
async fn changed<W, F>(app: Arc<App>, kind: Kind, action: &str, id: String, work: W) -> Answer
where
    W: FnOnce(Arc<App>, String) -> F,
    F: Future<Output = Result<(), EngineError>> + Send + 'static,
{
    // A name that is nobody's is no change.
    versions(&app, &id)?;
    let event = event(kind, action, &id);
    let work = work(Arc::clone(&app), id.clone());
    let audit = Arc::clone(&app.audit);
    let task = tokio::spawn(async move {
        let mut class = None;
        let work = async {
            Ok(work
                .await
                .inspect_err(|error| class = Some(error.class()))?)
        };
        let changed = change(&audit, event, work).await;
        changed.map_err(|failure| match class {
            Some(class) => Problem::of_class(class, &failure),
            None => failure.into(),
        })
    });
    let done = task.await.map_err(std::io::Error::other);
    done.map_err(Failure::from)??;
    let plugins = versions(&app, &id)?;
    Ok(Json(json!({ "plugins": plugins })).into_response())
}
