//! A phase call and its reply as protobuf messages.

use std::collections::HashMap;

use bytes::Bytes;

/// The fields of a phase call.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Call {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) run: Bytes,
    #[prost(string, tag = "2")]
    pub(crate) step: String,
    #[prost(string, tag = "3")]
    pub(crate) phase: String,
    #[prost(uint32, tag = "4")]
    pub(crate) attempt: u32,
    #[prost(string, optional, tag = "5")]
    pub(crate) tenant: Option<String>,
    #[prost(int32, tag = "6")]
    pub(crate) criticality: i32,
    #[prost(uint64, tag = "7")]
    pub(crate) timeout_ms: u64,
    #[prost(string, tag = "8")]
    pub(crate) idempotency_key: String,
    #[prost(string, tag = "9")]
    pub(crate) traceparent: String,
    #[prost(bytes = "bytes", tag = "10")]
    pub(crate) session: Bytes,
    #[prost(string, tag = "11")]
    pub(crate) content_type: String,
    #[prost(bytes = "bytes", tag = "12")]
    pub(crate) input: Bytes,
}

impl Call {
    /// A call as an engine would make it.
    pub(crate) fn of(input: Bytes) -> Self {
        Self {
            run: Bytes::from_static(&[1; 16]),
            step: "echo".into(),
            phase: "echo".into(),
            attempt: 1,
            tenant: None,
            criticality: 2,
            timeout_ms: 60_000,
            idempotency_key: crate::ours::IDEMPOTENCY_KEY.into(),
            traceparent: crate::ours::TRACEPARENT.into(),
            session: Bytes::from_static(&[2; 16]),
            content_type: "application/json".into(),
            input,
        }
    }
}

/// The fields of a reply.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Reply {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) output: Bytes,
    #[prost(string, tag = "2")]
    pub(crate) content_type: String,
    #[prost(map = "string, string", tag = "3")]
    pub(crate) metadata: HashMap<String, String>,
    #[prost(uint64, tag = "4")]
    pub(crate) cpu_ms: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) memory_bytes: u64,
}

impl Reply {
    /// JSON, and nothing to say about it.
    pub(crate) fn json(output: Bytes) -> Self {
        Self {
            output,
            content_type: "application/json".into(),
            ..Self::default()
        }
    }
}
