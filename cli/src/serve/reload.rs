//! `POST /api/v1/plugins/{id}/reload`

use std::{io, sync::Arc};

use axum::{
    Json,
    extract::{Path, State},
};
use orchestrator_plugin_runtime::Reloaded;
use orchestrator_signing::audit::Kind;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{App, plugins, problem::Problem};
use crate::{audit::change, failure::Failure};

/// Lets a plugin go on with what is installed now. Done to its end, whether or not
/// anybody waits for that.
pub(super) async fn reload(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let event = plugins::event(Kind::Load, "plugin reload", &id);
    let (tell, told) = oneshot::channel();
    let task = tokio::spawn(async move {
        let audit = Arc::clone(&app.audit);
        let reloading = async {
            let done = app.engine.reload_plugin(&id).await?;
            app.audit.note_reloaded(&done.plugin, &app.engine.plugins());
            // Nobody may be waiting.
            let _ = tell.send(done);
            Ok(())
        };
        change(&audit, event, reloading).await
    });
    let ended = task.await.map_err(io::Error::other);
    ended.map_err(Failure::from)??;
    let done: Reloaded = told
        .await
        .map_err(|error| Failure::from(io::Error::other(error)))?;
    Ok(Json(json!({ "reloaded": done })))
}
