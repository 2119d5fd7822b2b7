//! Which request goes where, and what all of them have in common.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderValue, Method, StatusCode, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use miette::Diagnostic as _;
use orchestrator_signing::audit::{AuditEvent, Kind, Outcome};
use tokio::time::{Instant, timeout};

use super::{
    App, events, limits, logs, plugins, probes, problem::Problem, refusal::Refusal, reload, runs,
};
use crate::error::CliError;

/// What answers requests.
pub(super) struct Routers {
    /// As long as there is room.
    pub(super) regular: Router,
    /// On connections beyond the bound.
    pub(super) spare: Router,
}

impl Routers {
    pub(super) fn new(app: Arc<App>) -> Self {
        Self {
            regular: regular(Arc::clone(&app)),
            spare: spare(app),
        }
    }
}

/// For whoever watches over the service.
fn watched() -> Router<Arc<App>> {
    Router::new()
        .route("/livez", get(probes::livez))
        .route("/readyz", get(probes::readyz))
        .route("/metrics", get(probes::metrics))
}

fn regular(app: Arc<App>) -> Router {
    let body_bytes_max = usize::try_from(app.config.body_bytes_max).unwrap_or(usize::MAX);
    let api = Router::new()
        .route("/runs", get(runs::list).post(runs::start))
        .route("/runs/{id}", get(runs::show))
        .route("/runs/{id}/outputs/{name}", get(runs::output))
        .route("/runs/{id}/events", get(events::stream))
        .route("/runs/{id}/cancel", post(runs::cancel))
        .route("/plugins", get(plugins::list))
        .route("/plugins/{id}", get(plugins::show))
        .route("/plugins/{id}/enable", post(plugins::enable))
        .route("/plugins/{id}/disable", post(plugins::disable))
        .route("/plugins/{id}/restart", post(plugins::restart))
        .route("/plugins/{id}/reload", post(reload::reload))
        .route("/plugins/{id}/limits", get(limits::show).put(limits::set))
        .route("/plugins/{id}/logs", get(logs::stream))
        // The token is asked for before the body is read.
        .layer(from_fn_with_state(Arc::clone(&app), require_token));
    watched()
        .nest("/api/v1", api)
        .fallback(async || Problem::from(Refusal::Address))
        .method_not_allowed_fallback(async || Problem::from(Refusal::Method))
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .layer(from_fn_with_state(Arc::clone(&app), in_time))
        .layer(from_fn_with_state(Arc::clone(&app), measured))
        .with_state(app)
}

fn spare(app: Arc<App>) -> Router {
    watched()
        .fallback(async || Problem::of(StatusCode::SERVICE_UNAVAILABLE, &CliError::Full))
        .layer(from_fn_with_state(Arc::clone(&app), measured))
        .with_state(app)
}

async fn require_token(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    if !given.is_some_and(|token| app.token.is(token)) {
        app.audit.note(token_refused(&request));
        return Problem::from(Refusal::Token).into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// The token itself is nobody's business: it may be right but for a letter.
fn token_refused(request: &Request) -> AuditEvent {
    let mut event = AuditEvent::new(Kind::TokenRefused, Outcome::Denied);
    event.action = Some(known(request.method()).to_owned());
    event.resource = Some(format!("/api/v1{}", request.uri().path()));
    event.code = Refusal::Token.code().map(|code| code.to_string());
    event
}

/// A client that never finishes its request must not hold anything for ever.
async fn in_time(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    match timeout(app.config.request_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::from(Refusal::Late).into_response(),
    }
}

async fn measured(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    // The template, never the path: paths hold ids.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = known(request.method());
    let response = next.run(request).await;
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let status = response.status().as_u16();
    let telemetry = app.engine.telemetry();
    telemetry.http_request(route, method, status, started.elapsed());
    response
}

/// Methods are free text, and a label must not be.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
