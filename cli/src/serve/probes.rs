//! What Kubernetes, systemd and Prometheus ask. Needs no token, says nothing
//! secret.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::App;

/// Whether the process works at all. Depends on nothing else, so that a broken
/// disk does not have it restarted for ever.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Whether new runs are taken, and why not.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let ready = match app.engine.is_accepting() {
        true => app.engine.health(),
        false => Err("draining".to_owned()),
    };
    match ready {
        Ok(()) => Json(json!({ "ready": true })).into_response(),
        Err(reason) => {
            let reason = json!({ "ready": false, "reason": reason });
            (StatusCode::SERVICE_UNAVAILABLE, Json(reason)).into_response()
        }
    }
}

/// Every metric as Prometheus text.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    let text = app.engine.telemetry().render();
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}
