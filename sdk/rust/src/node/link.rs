//! What calls say to the host and ask of it.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use orchestrator_contract::{
    CallError, HostCallError, HostOperation, LogLevel, PhaseReply,
    frame::{
        Accepted, Chunk, Frame, FrameError, Health, HostCall, HostResult, Log, PAYLOAD_PER_FRAME,
        Progress, ReconcileStatus, ResultHeader,
    },
};
use serde_json::Value;
use tokio::sync::{Semaphore, oneshot};

use super::{outbox::Outbox, socket::Socket};
use crate::Error;

/// The longest message of a log or progress frame; escaped, it still fits a
/// header.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;
/// The most questions that wait for an answer at once; further ones wait to be
/// asked. Hosts take twice as many, since they still work on abandoned ones.
const QUESTIONS_MAX: usize = 128;

/// What calls say to the host and ask of it.
#[derive(Debug)]
pub(crate) struct Link {
    outbox: Outbox,
    questions: Mutex<Questions>,
    free_questions: Semaphore,
    lost_lines: AtomicU64,
}

type Answer = Result<Value, HostCallError>;

#[derive(Debug, Default)]
struct Questions {
    last: u64,
    open: HashMap<u64, oneshot::Sender<Answer>>,
}

impl Link {
    pub(super) fn new(socket: Arc<Socket>) -> Self {
        Self {
            outbox: Outbox::new(socket),
            questions: Mutex::default(),
            free_questions: Semaphore::new(QUESTIONS_MAX),
            lost_lines: AtomicU64::default(),
        }
    }

    pub(super) fn send(&self, frame: &Frame) -> Result<(), FrameError> {
        self.outbox.push(frame)
    }

    pub(super) fn give_credit(&self, calls: u32) {
        self.outbox.credit(calls);
    }

    pub(super) fn close(&self) {
        self.outbox.close();
    }

    /// See [`Outbox::write`].
    pub(super) async fn write(&self) -> io::Result<()> {
        self.outbox.write().await
    }

    pub(super) fn accepted(&self, call: u64) {
        // A header of one number always fits.
        let _ = self.outbox.push(&Frame::Accepted(Accepted { call }));
    }

    pub(super) fn health(&self, check: u64, problem: Option<String>) {
        let problem = problem.map(cut);
        // A message that was cut fits.
        let _ = self.outbox.push(&Frame::Health(Health { check, problem }));
    }

    pub(crate) fn progress(&self, call: u64, percent: Option<u8>, message: String) {
        // The next one says more than this one, so a lost one is no loss.
        self.outbox.offer(&Frame::Progress(Progress {
            call,
            percent,
            message: cut(message),
        }));
    }

    pub(crate) fn log(&self, call: Option<u64>, level: LogLevel, message: String) {
        let lost = self.lost_lines.swap(0, Ordering::Relaxed);
        if lost > 0 && !self.line(None, LogLevel::Warn, format!("{lost} log lines were lost")) {
            self.lost_lines.fetch_add(lost, Ordering::Relaxed);
        }
        if !self.line(call, level, cut(message)) {
            self.lost_lines.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn line(&self, call: Option<u64>, level: LogLevel, message: String) -> bool {
        self.outbox.offer(&Frame::Log(Log {
            call,
            level,
            message,
        }))
    }

    /// Sends the end of a call and gives its credit back; at once when the call is
    /// `alone`.
    pub(super) async fn reply(&self, call: u64, outcome: Result<PhaseReply, Error>, alone: bool) {
        let (header, output) = match outcome {
            Ok(reply) => success(call, reply),
            Err(error) => (failure(call, error), Bytes::new()),
        };
        self.send_result(header, output, alone).await;
    }

    pub(super) async fn reconciled(
        &self,
        call: u64,
        status: ReconcileStatus,
        reply: Option<PhaseReply>,
    ) {
        let (mut header, output) = match reply {
            Some(reply) => success(call, reply),
            None => (ResultHeader::of(call, 0), Bytes::new()),
        };
        header.reconcile = Some(status);
        self.send_result(header, output, false).await;
    }

    /// Sends a result a piece at a time, so that other calls' frames pass in
    /// between, and gives the credit back with its end.
    async fn send_result(&self, header: ResultHeader, mut output: Bytes, alone: bool) {
        let call = header.call;
        let first = output.split_to(output.len().min(PAYLOAD_PER_FRAME));
        let mut frame = Frame::Result(header, first);
        while !output.is_empty() && self.send(&frame).is_ok() {
            self.outbox.room().await;
            let piece = output.split_to(output.len().min(PAYLOAD_PER_FRAME));
            frame = Frame::Chunk(Chunk { call }, piece);
        }
        // Only metadata and content type can make a frame too long, a piece is made
        // to fit and an error's message is cut short where it is made.
        if let Err(error) = self.outbox.push_end(&frame, alone) {
            let error = Error::invalid_output(format_args!("metadata: {error}"));
            let failure = Frame::Result(failure(call, error), Bytes::new());
            let _ = self.outbox.push_end(&failure, alone);
        }
    }

    /// Asks the host and waits for its answer. Dropping it abandons the
    /// question.
    pub(crate) async fn ask(&self, call: u64, request: HostOperation) -> Result<Value, Error> {
        let _free = self.free_questions.acquire().await;
        self.outbox.room().await;
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut questions = self.questions();
            questions.last += 1;
            let id = questions.last;
            questions.open.insert(id, sender);
            id
        };
        let _open = OpenQuestion { link: self, id };
        let question = Frame::HostCall(HostCall { id, call, request });
        self.send(&question).map_err(Error::permanent)?;
        match receiver.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error @ HostCallError::Failed { .. })) => Err(Error::transient(error)),
            Ok(Err(error)) => Err(Error::permanent(error)),
            Err(_) => Err(Error::transient("the host is gone")),
        }
    }

    /// Hands an answer to whoever asked; nobody may be waiting any more.
    pub(super) fn answered(&self, answer: HostResult) {
        let HostResult { id, value, error } = answer;
        let asker = self.questions().open.remove(&id);
        if let Some(asker) = asker {
            let _ = asker.send(error.map_or(Ok(value), Err));
        }
    }

    fn questions(&self) -> MutexGuard<'_, Questions> {
        self.questions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a question when nobody waits for its answer any more.
struct OpenQuestion<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for OpenQuestion<'_> {
    fn drop(&mut self) {
        self.link.questions().open.remove(&self.id);
    }
}

fn success(call: u64, reply: PhaseReply) -> (ResultHeader, Bytes) {
    let header = ResultHeader {
        content_type: reply.output.content_type,
        length: reply.output.bytes.len() as u64,
        metadata: reply.metadata,
        usage: reply.usage,
        ..ResultHeader::of(call, 0)
    };
    (header, reply.output.bytes)
}

fn failure(call: u64, error: Error) -> ResultHeader {
    ResultHeader {
        error: Some(CallError::from(error)),
        ..ResultHeader::of(call, 0)
    }
}

fn cut(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
    message
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, time::Duration};

    use bytes::BytesMut;
    use orchestrator_contract::frame::FrameDecoder;
    use tokio::time::timeout;

    use super::*;

    /// A link, and the host's end of its socket.
    fn link() -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Link::new(Arc::new(Socket::new(ours).unwrap())), theirs)
    }

    async fn frames(link: &Link) -> Vec<Frame> {
        let mut batch = BytesMut::new();
        let _ = timeout(Duration::from_secs(1), link.outbox.take(&mut batch)).await;
        let mut decoder = FrameDecoder::new();
        decoder.push(&batch);
        std::iter::from_fn(|| decoder.next().unwrap()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn lost_lines_are_counted_and_said() {
        let (link, _host) = link();
        let line = "\u{1}".repeat(2 * MESSAGE_BYTES_MAX);
        for _ in 0..100 {
            link.log(None, LogLevel::Info, line.clone());
        }
        let kept = frames(&link).await.len();
        assert!((2..100).contains(&kept), "{kept} lines");
        link.log(None, LogLevel::Info, "after".into());
        let said = frames(&link).await;
        let Frame::Log(Log { message, .. }) = &said[0] else {
            panic!("{said:?}");
        };
        assert_eq!(*message, format!("{} log lines were lost", 100 - kept));
        assert_eq!(said.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_question_is_forgotten() {
        let (link, _host) = link();
        let question = link.ask(1, HostOperation::SessionKeys);
        assert!(timeout(Duration::from_secs(1), question).await.is_err());
        assert!(link.questions().open.is_empty());
        // The late answer finds nobody.
        link.answered(HostResult {
            id: 1,
            value: Value::Null,
            error: None,
        });
    }

    #[tokio::test(start_paused = true)]
    async fn metadata_without_end_is_an_error_of_its_call() {
        let (link, _host) = link();
        let reply = crate::Reply::text("x").with_metadata("key", "x".repeat(70_000));
        link.reply(7, Ok(reply.into()), false).await;
        let sent = frames(&link).await;
        let [Frame::Result(header, output), Frame::Credit(_)] = &sent[..] else {
            panic!("{sent:?}");
        };
        assert_eq!(header.call, 7);
        let kind = header.error.as_ref().map(|error| error.kind().as_str());
        assert_eq!(kind, Some("invalid_output"));
        assert!(output.is_empty());
    }
}
