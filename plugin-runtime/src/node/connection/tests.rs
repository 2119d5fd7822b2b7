//! Calls on a connection whose plugin is the test.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
};

use orchestrator_contract::{
    Criticality, ErrorKind, HostOperation, NoEvents, NoHost, Payload, RunId, SessionId,
    TraceContext,
    frame::{Credit, Hello, HostCall, ResultHeader},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::timeout,
};

use super::{super::reader, *};
use crate::settings::LogSettings;

const PATIENCE: Duration = Duration::from_secs(30);
/// The number of a connection's first call.
const FIRST: u64 = 1 << 16;

/// A connection without its tasks, and the plugin's end.
fn connection() -> (Arc<Connection>, Plugin) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, 1).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let (events, host) = (Arc::new(NoEvents), Arc::new(NoHost));
    let outlet = Outlet::new("p".into(), events, host, &LogSettings::default());
    let (socket, settings) = (Socket::new(ours).unwrap(), NodeSettings::default());
    let (outlet, waiting) = (Arc::new(outlet), Arc::default());
    let decoder = FrameDecoder::new();
    let hello = Hello {
        protocol: 1,
        plugin: "p".into(),
        version: String::new(),
        phases: Vec::new(),
        health: true,
        state: false,
    };
    let connection = Connection::new(outlet, settings, waiting, socket, decoder, &hello);
    connection.add_credit(4).unwrap();
    // As after deep sleeps, so that callers look for their answers.
    while !connection.intake().patience.looks() {
        connection.intake().patience.slept(Duration::from_secs(1));
    }
    let plugin = Plugin {
        stream: tokio::net::UnixStream::from_std(theirs).unwrap(),
        decoder: FrameDecoder::new(),
    };
    (connection, plugin)
}

struct Plugin {
    stream: tokio::net::UnixStream,
    decoder: FrameDecoder,
}

impl Plugin {
    async fn next(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return frame;
            }
            let read = self.stream.read_buf(self.decoder.buffer());
            assert!(timeout(PATIENCE, read).await.unwrap().unwrap() > 0);
        }
    }

    async fn send(&mut self, frames: &[Frame]) {
        let mut bytes = bytes::BytesMut::new();
        for frame in frames {
            frame.encode(&mut bytes).unwrap();
        }
        self.stream.write_all(&bytes).await.unwrap();
    }

    fn has_nothing(&self) -> bool {
        self.stream.try_read(&mut [0]).is_err()
    }
}

fn write(connection: &Arc<Connection>) -> JoinHandle<std::io::Result<()>> {
    let connection = Arc::clone(connection);
    tokio::spawn(async move { connection.outbox.write().await })
}

fn call(input: Payload) -> PhaseCall {
    PhaseCall {
        run: RunId::from_parts(1, 1),
        step: "s".into(),
        plugin: "p".into(),
        phase: "x".into(),
        attempt: 1,
        tenant: None,
        criticality: Criticality::Critical,
        deadline: None,
        idempotency_key: "k".into(),
        trace: TraceContext::from_random(1, 1, false),
        session: SessionId::from_parts(1, 1),
        input,
    }
}

fn result(call: u64) -> Frame {
    Frame::Result(ResultHeader::of(call, 4), Bytes::from_static(b"true"))
}

/// Neither the writer's task nor the reader's runs here.
#[tokio::test]
async fn a_call_alone_is_written_and_its_answer_read_by_its_caller() {
    let (connection, mut plugin) = connection();
    let credit = Frame::Credit(Credit { calls: 1 });
    plugin.send(&[result(FIRST), credit]).await;
    let answer = timeout(PATIENCE, connection.clone().call(call(Payload::null())));
    assert_eq!(answer.await.unwrap().unwrap().output.bytes, "true");
    assert!(matches!(plugin.next().await, Frame::Call(header, _) if header.call == FIRST));
    assert_eq!(connection.credit.available_permits(), 4);
}

#[tokio::test]
async fn a_call_beside_another_leaves_its_frame_to_the_writer() {
    let (connection, mut plugin) = connection();
    let calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(connection.clone().call(call(Payload::null()))))
        .collect();
    let Frame::Call(first, _) = plugin.next().await else {
        panic!("no call");
    };
    assert!(plugin.has_nothing(), "nobody wrote the others");
    let writer = write(&connection);
    for _ in 1..3 {
        let Frame::Call(header, _) = plugin.next().await else {
            panic!("no call");
        };
        assert!(header.call > first.call);
    }
    calls.iter().for_each(JoinHandle::abort);
    writer.abort();
}

/// What only the reader's task can see to waits for it, and so does what follows.
#[tokio::test]
async fn a_caller_leaves_questions_and_faults_to_the_reader() {
    let (connection, mut plugin) = connection();
    let question = Frame::HostCall(HostCall {
        id: 7,
        call: FIRST,
        request: HostOperation::SessionKeys,
    });
    let wrong = Frame::Hello(Hello {
        protocol: 1,
        plugin: "p".into(),
        version: String::new(),
        phases: Vec::new(),
        health: true,
        state: false,
    });
    let (reader, writer) = (
        tokio::spawn(reader::read(connection.clone())),
        write(&connection),
    );
    tokio::task::yield_now().await;
    // The caller is the first to read this, and the kernel tells nobody else of it.
    plugin.send(&[question, result(FIRST)]).await;
    let answer = timeout(PATIENCE, connection.clone().call(call(Payload::null()))).await;
    assert_eq!(answer.unwrap().unwrap().output.bytes, "true");
    assert_eq!(plugin.next().await.name(), "Call");
    assert_eq!(plugin.next().await.name(), "HostResult");

    plugin.send(&[wrong]).await;
    let unanswered = tokio::spawn(connection.clone().call(call(Payload::null())));
    let end = timeout(PATIENCE, reader).await.unwrap().unwrap();
    assert!(matches!(end, reader::End::Fault(error) if error.to_string().contains("Hello")));
    unanswered.abort();
    writer.abort();
}

#[tokio::test]
async fn nothing_more_is_read_while_something_is_left() {
    let (connection, mut plugin) = connection();
    let _open = connection.open(Question::Reconcile).unwrap();
    let question = Frame::HostCall(HostCall {
        id: 7,
        call: FIRST,
        request: HostOperation::SessionKeys,
    });
    plugin.send(std::slice::from_ref(&question)).await;
    assert_eq!(connection.take_in(), Read::All);
    plugin.send(&[question]).await;
    assert_eq!(connection.take_in(), Read::Left);
    connection.intake().take_left().unwrap();
    assert_eq!(connection.take_in(), Read::All);
}

/// The kernel tells of bytes once, so the reader's task must not take that for done
/// before it has read them.
#[tokio::test]
async fn what_comes_behind_something_left_is_read_without_further_news() {
    let (connection, mut plugin) = connection();
    let asked = call(Payload::null());
    let (origin, session) = (Origin::of(&asked), asked.session);
    let open = connection.open(Question::Call { origin, session });
    let reader = tokio::spawn(reader::read(connection.clone()));
    yield_now().await;
    let question = HostCall {
        id: 7,
        call: FIRST,
        request: HostOperation::SessionKeys,
    };
    plugin.send(&[Frame::HostCall(question)]).await;
    {
        // As a caller does, but it has not told the reader's task yet.
        let mut intake = connection.intake();
        assert_eq!(intake.read(&connection.socket), Read::All);
        assert!(intake.give_out(&connection));
    }
    plugin.send(&[result(FIRST)]).await;
    // The kernel's news have come, to the reader's task too.
    drop(connection.socket.readable().await.unwrap());
    yield_now().await;
    connection.left.notify_one();
    let answer = timeout(PATIENCE, open.unwrap()).await;
    assert!(answer.expect("nobody read the answer").is_ok());
    reader.abort();
}

/// On a runtime of one thread, calls that never wait still let others run.
#[tokio::test]
async fn calls_in_a_row_that_find_their_answers_do_not_keep_others_from_running() {
    let (connection, plugin) = connection();
    // Reads and writes that do not let others run either.
    let mut plugin = plugin.stream.into_std().unwrap();
    let ran = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&ran);
    let others = tokio::spawn(async move {
        loop {
            counter.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
        }
    });
    for number in 1..=1_000 {
        let mut answer = bytes::BytesMut::new();
        let credit = Frame::Credit(Credit { calls: 1 });
        result(number * FIRST).encode(&mut answer).unwrap();
        credit.encode(&mut answer).unwrap();
        plugin.write_all(&answer).unwrap();
        connection
            .clone()
            .call(call(Payload::null()))
            .await
            .unwrap();
        // So that there is room for the next one.
        assert!(plugin.read(&mut [0; 4096]).unwrap() > 0);
    }
    assert!(ran.load(Ordering::Relaxed) > 0);
    others.abort();
}

#[tokio::test]
async fn a_call_given_up_in_mid_write_leaves_the_stream_whole() {
    let (connection, mut plugin) = connection();
    let input = Payload::text("x".repeat(200_000));
    let given_up = connection.clone().call(call(input.clone()));
    assert!(
        timeout(Duration::from_millis(50), given_up).await.is_err(),
        "nobody answers"
    );
    let writer = write(&connection);
    let Frame::Call(header, payload) = plugin.next().await else {
        panic!("no call");
    };
    assert!(payload == input.bytes, "the input is garbled");
    let cancel = Cancel {
        call: header.call,
        mode: CancelMode::Cooperative,
    };
    assert_eq!(plugin.next().await, Frame::Cancel(cancel));
    writer.abort();
}

/// A plugin must never be told to cancel a call it has not seen.
#[tokio::test]
async fn cancel_comes_behind_its_call_and_its_chunks() {
    let (connection, mut plugin) = connection();
    let input = Payload::text("x".repeat(2 * PAYLOAD_PER_FRAME));
    let given_up = connection.clone().call(call(input));
    assert!(
        timeout(Duration::from_millis(50), given_up).await.is_err(),
        "nobody answers"
    );
    let writer = write(&connection);
    for expected in ["Call", "Chunk", "Cancel"] {
        assert_eq!(plugin.next().await.name(), expected);
    }
    writer.abort();
}

#[tokio::test]
async fn a_call_whose_header_is_too_long_fails_alone_and_costs_no_credit() {
    let (connection, mut plugin) = connection();
    let mut long = call(Payload::null());
    long.idempotency_key = "k".repeat(70_000).into();
    let error = connection.clone().call(long).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(connection.credit.available_permits(), 4);
    assert_eq!(connection.table().count(), 0);
    let other = tokio::spawn(connection.call(call(Payload::null())));
    assert_eq!(plugin.next().await.name(), "Call");
    other.abort();
}
