//! Requests that are refused before they reach the engine.

use axum::{
    extract::rejection::{JsonRejection, QueryRejection},
    http::StatusCode,
};
use miette::Diagnostic;
use thiserror::Error;

/// Why a request is refused before it reaches the engine.
#[derive(Debug, Error, Diagnostic)]
pub(super) enum Refusal {
    /// The request has no token, or another one. Status 401.
    #[error("the request does not have the token of this service")]
    #[diagnostic(
        code("ORC-5050"),
        help(
            "send `Authorization: Bearer TOKEN` with the content of the file `api-token` in the service's home"
        )
    )]
    Token,

    /// Nothing has this address. Status 404.
    #[error("there is nothing at this address")]
    #[diagnostic(
        code("ORC-5051"),
        help(
            "runs are at `/api/v1/runs`, plugins at `/api/v1/plugins`; docs/operating.md has the rest"
        )
    )]
    Address,

    /// The address takes other methods. Status 405.
    #[error("the resource does not take this method")]
    #[diagnostic(
        code("ORC-5052"),
        help("use a method of the header `Allow` in the answer")
    )]
    Method,

    /// The request was not answered within its time, mostly because the client did
    /// not finish sending it. Status 408.
    #[error("the request took too long")]
    #[diagnostic(
        code("ORC-5053"),
        help(
            "send the whole request at once; if it was, look at the load and the disk of the service"
        )
    )]
    Late,

    /// The body is no JSON. Status 400.
    #[error("the body cannot be read: {0}")]
    #[diagnostic(
        code("ORC-5054"),
        help("send one JSON object, and as many bytes as `Content-Length` says")
    )]
    Body(String),

    /// The field is neither text nor an object. Status 422.
    #[error("`pipeline` is a name or a whole definition")]
    #[diagnostic(
        code("ORC-5055"),
        help("give the name of a pipeline in the home, or a definition as an object")
    )]
    Pipeline,

    /// The key is not one text of 1 to 255 bytes. Status 422.
    #[error("the idempotency key cannot be used: {0}")]
    #[diagnostic(
        code("ORC-5056"),
        help("send one key of 1 to 255 bytes, in the header `Idempotency-Key` or in the body")
    )]
    IdempotencyKey(&'static str),

    /// A parameter has another name or type. Status 400.
    #[error("the query cannot be used: {0}")]
    #[diagnostic(
        code("ORC-5057"),
        help(
            "lists of runs have `status`, `pipeline`, `before` and `limit`, which is at least 1; restarts of plugins `grace`; their logs `follow` and `tail`"
        )
    )]
    Query(String),

    /// The grace period of a restart is no duration, or too long. Status 422.
    #[error("the grace period cannot be used: {0}")]
    #[diagnostic(
        code("ORC-5045"),
        help("write it like `10s`, shorter than `server.request_timeout`")
    )]
    Grace(String),

    /// The body is not said to be JSON. Status 415.
    #[error("the body is not said to be JSON")]
    #[diagnostic(code("ORC-5059"), help("send `Content-Type: application/json`"))]
    ContentType,

    /// The body has more bytes than are read. Status 413.
    #[error("the body is too large")]
    #[diagnostic(code("ORC-5060"), help("send less, or raise `server.body_bytes_max`"))]
    TooLarge,

    /// The body is JSON, and its fields are not those of a request. Status 422.
    #[error("the body does not fit: {0}")]
    #[diagnostic(
        code("ORC-5061"),
        help(
            "there are `pipeline`, `input`, `idempotency_key`, `tenant` and `criticality`; only `pipeline` has to be there"
        )
    )]
    Fields(String),

    /// The body is JSON, and its fields are not limits. Status 422.
    #[error("the limits cannot be used: {0}")]
    #[diagnostic(
        code("ORC-5075"),
        help(
            "there are `memory_mb`, `cpu_percent`, `tasks`, `open_files` and `disk_mb`, each a number or left out, and `violation`, which is `warn`, `throttle` or `kill`"
        )
    )]
    Limits(String),
}

impl Refusal {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Token => StatusCode::UNAUTHORIZED,
            Self::Address => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Late => StatusCode::REQUEST_TIMEOUT,
            Self::Body(_) | Self::Query(_) => StatusCode::BAD_REQUEST,
            Self::Pipeline
            | Self::IdempotencyKey(_)
            | Self::Grace(_)
            | Self::Fields(_)
            | Self::Limits(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::ContentType,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge,
            StatusCode::UNPROCESSABLE_ENTITY => Self::Fields(rejection.body_text()),
            _ => Self::Body(rejection.body_text()),
        }
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::Query(rejection.body_text())
    }
}
