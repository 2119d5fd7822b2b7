//! Runs over HTTP.

use std::{num::NonZeroUsize, sync::Arc};

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use orchestrator_contract::{Criticality, RunId};
use orchestrator_engine::{
    EngineError, RunOverview, RunRequest,
    journal::{RunFilter, RunStatus},
    pipeline::Pipeline,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{App, problem::Problem, refusal::Refusal};
use crate::{error::CliError, named_pipeline, run_output::run_output};

type Answer<T = Response> = Result<T, Problem>;

/// The longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 255;

/// Reads the id in a path.
pub(super) fn run_id(text: &str) -> Answer<RunId> {
    text.parse().map_err(|_| {
        let text = text.to_owned();
        Problem::of(StatusCode::NOT_FOUND, &CliError::RunId { text })
    })
}

/// The body of a request for a run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    /// The name of a pipeline in the home, or a whole definition.
    pipeline: Value,
    #[serde(default)]
    input: Option<Value>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    criticality: Criticality,
}

/// `POST /api/v1/runs`
pub(super) async fn start(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Result<Json<Start>, JsonRejection>,
) -> Answer {
    let Json(body) = body.map_err(Refusal::from)?;
    let key = idempotency_key(&headers, body.idempotency_key)?;
    let pipeline = match body.pipeline {
        Value::String(name) => named_pipeline::by_name(&name, &app.home.pipelines())?,
        definition @ Value::Object(_) => {
            let text = definition.to_string();
            Arc::new(Pipeline::parse(&text, "pipeline").map_err(EngineError::from)?)
        }
        _ => return Err(Refusal::Pipeline.into()),
    };
    let mut request = RunRequest::new(pipeline).criticality(body.criticality);
    if let Some(input) = body.input {
        request = request.input(input);
    }
    if let Some(key) = key {
        request = request.idempotency_key(key);
    }
    if let Some(tenant) = body.tenant {
        request = request.tenant(tenant);
    }
    // Detached: the run goes on whether or not anybody waits for it.
    let handle = app.engine.submit(request).await?;
    let id = handle.id();
    let status = match handle.is_new() {
        true => StatusCode::ACCEPTED,
        false => StatusCode::OK,
    };
    let location = format!("/api/v1/runs/{id}");
    let body = json!({ "id": id, "created": handle.is_new(), "url": location });
    Ok((status, [(header::LOCATION, location)], Json(body)).into_response())
}

/// The key of the header or of the body, which must not differ.
fn idempotency_key(headers: &HeaderMap, in_body: Option<String>) -> Answer<Option<String>> {
    let wrong = |reason| Err(Refusal::IdempotencyKey(reason).into());
    let in_header = match headers.get("idempotency-key").map(|value| value.to_str()) {
        Some(Ok(key)) => Some(key.trim_matches('"').to_owned()),
        Some(Err(_)) => return wrong("the header is not plain text"),
        None => None,
    };
    let key = match (in_header, in_body) {
        (Some(a), Some(b)) if a != b => {
            return wrong("header and body name different ones");
        }
        (a, b) => a.or(b),
    };
    match key {
        Some(key) if key.is_empty() || key.len() > KEY_BYTES_MAX => wrong("it has 1 to 255 bytes"),
        key => Ok(key),
    }
}

/// The query of a list of runs.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    status: Option<RunStatus>,
    pipeline: Option<String>,
    before: Option<RunId>,
    limit: Option<NonZeroUsize>,
}

/// `GET /api/v1/runs`
pub(super) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<Filter>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(Refusal::from)?;
    let limit = query.limit.map_or(100, |limit| limit.get().min(1_000));
    let filter = RunFilter {
        status: query.status,
        pipeline: query.pipeline.map(Into::into),
        before: query.before,
        limit,
    };
    let runs = app.engine.history().list(filter).await?;
    let more = runs.len() == limit;
    let next = runs.last().filter(|_| more).map(|run| run.run);
    Ok(Json(json!({ "runs": runs, "next": next })).into_response())
}

/// `GET /api/v1/runs/{id}`
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Answer<Json<RunOverview>> {
    let run = run_id(&id)?;
    Ok(Json(app.engine.history().overview(run).await?))
}

/// `GET /api/v1/runs/{id}/outputs/{name}`
pub(super) async fn output(
    State(app): State<Arc<App>>,
    Path((id, name)): Path<(String, String)>,
) -> Answer {
    let run = run_id(&id)?;
    let output = run_output(app.engine.history(), run, &name).await?;
    // Journals of earlier versions hold types that no header can have.
    let content_type = HeaderValue::from_str(output.payload.content_type.as_str())
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    let headers = [
        (header::CONTENT_TYPE, content_type),
        // What a plugin made must not become a page of this server.
        (
            header::CONTENT_DISPOSITION,
            HeaderValue::from_static("attachment"),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("sandbox"),
        ),
    ];
    Ok((headers, output.payload.bytes).into_response())
}

/// `POST /api/v1/runs/{id}/cancel`
pub(super) async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>) -> Answer {
    let run = run_id(&id)?;
    app.engine.cancel(run, "cancelled over the API").await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "id": run }))).into_response())
}
