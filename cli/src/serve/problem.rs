//! Errors as [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem documents.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use miette::Diagnostic;
use orchestrator_engine::{EngineError, ErrorClass};
use serde_json::{Value, json};

use super::refusal::Refusal;
use crate::{
    exit::Exit,
    failure::{Failure, as_json},
};

/// When a client may come back that was refused for lack of room, in seconds.
const RETRY_AFTER: &str = "1";

/// Why a request was not answered.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    body: Value,
}

impl Problem {
    fn new(status: StatusCode, code: &str, detail: &str) -> Self {
        let body = json!({
            "type": kind(code),
            "title": title(status),
            "status": status.as_u16(),
            "detail": detail,
            "code": code,
        });
        Self { status, body }
    }

    /// What the engine refused, of which no more than the report is left.
    pub(super) fn of_class(class: ErrorClass, failure: &Failure) -> Self {
        match failure.report() {
            Some(report) => Self::of(status_of(class), report),
            None => Self::new(status_of(class), "ORC-5000", "it failed"),
        }
    }

    /// An error of the crates below, with its own code, help and faults.
    pub(super) fn of(status: StatusCode, error: &dyn Diagnostic) -> Self {
        let code = error
            .code()
            .map_or_else(|| "ORC-5000".to_owned(), |code| code.to_string());
        let mut problem = Self::new(status, &code, &error.to_string());
        let Value::Object(fields) = as_json(error, None) else {
            return problem;
        };
        for (name, value) in fields {
            let name = match name.as_str() {
                "message" | "code" => continue,
                "faults" => "errors",
                other => other,
            };
            problem.body[name] = value;
        }
        problem
    }
}

/// A URI that names the sort of problem; it is an identifier and no page.
fn kind(code: &str) -> String {
    format!("urn:orchestrator:error:{code}")
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::of(refusal.status(), &refusal)
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        Self::of(status_of(error.class()), &error)
    }
}

fn status_of(class: ErrorClass) -> StatusCode {
    match class {
        ErrorClass::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorClass::NotFound => StatusCode::NOT_FOUND,
        ErrorClass::Denied | ErrorClass::Trust => StatusCode::FORBIDDEN,
        ErrorClass::Conflict => StatusCode::CONFLICT,
        ErrorClass::Busy => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::Failed => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        let status = match failure.exit {
            Exit::Invalid | Exit::Usage => StatusCode::UNPROCESSABLE_ENTITY,
            Exit::NotFound => StatusCode::NOT_FOUND,
            Exit::Denied | Exit::Trust => StatusCode::FORBIDDEN,
            Exit::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        match failure.report() {
            Some(report) => Self::of(status, report),
            None => Self::new(status, "ORC-5000", "it failed"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body.to_string()).into_response();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        match self.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                let seconds = HeaderValue::from_static(RETRY_AFTER);
                headers.insert(header::RETRY_AFTER, seconds);
            }
            StatusCode::UNAUTHORIZED => {
                let scheme = HeaderValue::from_static("Bearer");
                headers.insert(header::WWW_AUTHENTICATE, scheme);
            }
            _ => {}
        }
        response
    }
}
