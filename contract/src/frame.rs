//! The frames that a host and a plugin of kind `node` exchange.
//!
//! ```text
//! u32  length of everything after this field, big-endian, at most 1 MiB
//! u8   type
//! u16  length of the header, big-endian
//! …    header, one JSON object
//! …    payload, raw bytes up to the frame's end
//! ```
//!
//! The codec does no I/O: [`FrameDecoder`] is fed bytes in pieces of any size
//! and gives frames; [`Frame::encode`] appends bytes. A payload that does not
//! fit one frame follows its `Call` or `Result` in [`Frame::Chunk`]s. Unknown
//! header fields are ignored so that either side may be newer; an unknown frame
//! type is an error, because skipping it could lose a call.
//!
//! The host speaks first with nothing: the plugin sends [`Frame::Hello`], the
//! host answers [`Frame::Welcome`], the plugin gives [`Frame::Credit`], and
//! then calls flow, each at most once per unit of credit.

mod codec;
mod header;

pub use codec::{FRAME_MAX, FrameDecoder, FrameError, HEADER_MAX, PAYLOAD_PER_FRAME};
pub use header::{
    Accepted, CallHeader, Cancel, CancelMode, Chunk, Credit, Drain, GetState, Health, HealthCheck,
    Hello, HostCall, HostResult, Log, PROTOCOL_VERSION, Progress, Reconcile, ReconcileStatus,
    RestoreState, ResultHeader, Welcome,
};

use bytes::Bytes;

/// One message between host and plugin.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Frame {
    /// Plugin to host, first: who I am and what I offer.
    Hello(Hello),
    /// Host to plugin: what we agreed on, configuration and grants.
    Welcome(Welcome),
    /// Plugin to host: this many more calls may be sent.
    Credit(Credit),
    /// Host to plugin: do this. The payload is the input, or its beginning.
    Call(CallHeader, Bytes),
    /// Plugin to host: the call was taken and is being worked on.
    Accepted(Accepted),
    /// Plugin to host: how far a call is; also the sign of life of a long one.
    Progress(Progress),
    /// Plugin to host: a log line.
    Log(Log),
    /// Plugin to host: the end of a call. The payload is the output, or its beginning.
    Result(ResultHeader, Bytes),
    /// Host to plugin: stop working on a call. A `Result` still follows.
    Cancel(Cancel),
    /// Host to plugin: finish what you have, then end.
    Drain(Drain),
    /// Host to plugin: did the call with this key have its effect? Answered by `Result`.
    Reconcile(Reconcile),
    /// Plugin to host: a question to the host during a call.
    HostCall(HostCall),
    /// Host to plugin: the answer to a question.
    HostResult(HostResult),
    /// Host to plugin: are you well? Sent to plugins whose `Hello` says that they answer.
    HealthCheck(HealthCheck),
    /// Plugin to host: whether it is well.
    Health(Health),
    /// Either way: more of a payload.
    Chunk(Chunk, Bytes),
    /// Host to plugin: what does a later process need to go on? Answered by `Result`,
    /// whose payload it is. Only to a plugin that said that it has state.
    GetState(GetState),
    /// Host to plugin: go on with this, before the first call. Answered by `Result`.
    /// The payload is the state, or its beginning. What was restored before is void.
    RestoreState(RestoreState, Bytes),
}
