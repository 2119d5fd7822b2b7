//! As kind `node`, with these tests as the host.

mod host;
mod state;

use bytes::Bytes;
use orchestrator_contract::{
    HostOperation, LogLevel, TEXT,
    frame::{
        CancelMode, Chunk, Drain, Frame, HostCall, HostResult, PAYLOAD_PER_FRAME, PROTOCOL_VERSION,
        Reconcile, ReconcileStatus,
    },
};
use serde_json::{Value, json};

use crate::programs::run;
use host::{Host, header, welcome};

/// The kind of the error that ends the next call.
fn failure(host: &mut Host) -> &'static str {
    let (result, _) = host.result();
    result.error.expect("the call worked").kind().as_str()
}

#[test]
fn the_same_source_answers_as_a_node() {
    let mut host = Host::start("shout");
    let Frame::Hello(hello) = host.next() else {
        panic!("no Hello");
    };
    assert_eq!(hello.protocol, PROTOCOL_VERSION);
    assert_eq!(hello.plugin.as_str(), "shout");
    assert_eq!(hello.version, "1.0.0");
    assert_eq!(hello.phases, ["shout".into()]);
    host.send(&welcome(PROTOCOL_VERSION, json!({})));
    let Frame::Credit(credit) = host.next() else {
        panic!("no Credit");
    };
    assert_eq!(credit.calls, 16);

    host.call(1, "shout", "\"hello\"");
    let Frame::Result(result, output) = host.next() else {
        panic!("no Result");
    };
    assert_eq!((result.call, result.length), (1, 7));
    assert_eq!(output, "\"HELLO\"");
    // The slot comes back.
    assert!(matches!(host.next(), Frame::Credit(credit) if credit.calls == 1));

    host.hang_up();
    let (status, out, err) = host.end();
    assert!(status.success());
    assert_eq!((out.as_str(), err.as_str()), ("", ""));
}

/// As kind `exec`, the same plugin writes a JSON text.
#[test]
fn a_text_is_answered_as_what_it_is() {
    let mut host = Host::greeted();
    let mut asked = header(1, "echo", 5);
    asked.content_type = TEXT;
    host.send(&Frame::Call(asked, Bytes::from_static(b"plain")));
    let (result, output) = host.result();
    assert_eq!((result.error, result.content_type), (None, TEXT));
    assert_eq!(output, "plain");
}

#[test]
fn a_batch_of_calls_is_answered_in_one_batch_with_one_credit() {
    let mut host = Host::greeted();
    let mut batch = bytes::BytesMut::new();
    for call in 1..=4 {
        let call = Frame::Call(header(call, "echo", 1), Bytes::from_static(b"1"));
        call.encode(&mut batch).unwrap();
    }
    host.send_bytes(&batch);
    for call in 1..=4 {
        assert!(matches!(host.next(), Frame::Result(result, _) if result.call == call));
    }
    assert!(matches!(host.next(), Frame::Credit(credit) if credit.calls == 4));
}

#[test]
fn a_slow_call_is_accepted_and_does_not_hold_up_others() {
    let mut host = Host::greeted();
    host.call(1, "wait", "");
    assert!(matches!(host.next(), Frame::Accepted(accepted) if accepted.call == 1));
    host.call(2, "echo", "2");
    let (result, output) = host.result();
    assert_eq!((result.call, &output[..]), (2, &b"2"[..]));
    assert_eq!(result.metadata["copied"], "yes");
}

#[test]
fn a_cancelled_call_may_tidy_up_and_is_dropped_when_it_does_not_end() {
    let mut host = Host::greeted();
    host.call(1, "wait", "");
    host.cancel(1, CancelMode::Cooperative);
    assert_eq!(failure(&mut host), "plugin_permanent");
    host.call(2, "ignore", "");
    host.cancel(2, CancelMode::Cooperative);
    assert_eq!(failure(&mut host), "cancelled");
    host.call(3, "ignore", "");
    host.cancel(3, CancelMode::Abandon);
    assert_eq!(failure(&mut host), "cancelled");
    // A cancel that crosses its result is no fault.
    host.cancel(3, CancelMode::Cooperative);
    host.call(4, "echo", "1");
    assert_eq!(host.result().0.error, None);
}

#[test]
fn a_panic_fails_its_call_alone() {
    let mut host = Host::greeted();
    host.call(1, "wait", "");
    host.call(2, "panic", "");
    assert_eq!(failure(&mut host), "panic");
    host.cancel(1, CancelMode::Cooperative);
    assert_eq!(failure(&mut host), "plugin_permanent");
}

#[test]
fn each_failure_has_its_kind() {
    let mut host = Host::greeted();
    for (call, input) in (1..).zip(["transient", "permission", "invalid_input", "permanent"]) {
        host.call(call, "fail", input);
        let (result, _) = host.result();
        let error = result.error.unwrap();
        let kind = error.kind().as_str();
        assert_eq!(kind.strip_prefix("plugin_").unwrap_or(kind), input);
        let later = error.retry_after().map(|after| after.as_millis());
        assert_eq!(later, (input == "transient").then_some(1_500));
    }
    host.call(9, "absent", "");
    assert_eq!(failure(&mut host), "invalid_input");
}

#[test]
fn payloads_of_many_frames_travel_both_ways_beside_other_calls() {
    let mut host = Host::greeted();
    let whole: Vec<u8> = (0..=250).cycle().take(3 * PAYLOAD_PER_FRAME + 17).collect();
    let whole = Bytes::from(whole);
    let mut rest = whole.clone();
    let first = rest.split_to(PAYLOAD_PER_FRAME);
    host.send(&Frame::Call(header(1, "echo", whole.len() as u64), first));
    host.call(2, "echo", "2");
    assert_eq!(host.result().0.call, 2);
    while !rest.is_empty() {
        let piece = rest.split_to(rest.len().min(PAYLOAD_PER_FRAME));
        host.send(&Frame::Chunk(Chunk { call: 1 }, piece));
    }
    let (result, first) = host.result();
    assert_eq!((result.call, result.length), (1, whole.len() as u64));
    let mut back = first.to_vec();
    while back.len() < whole.len() {
        if let Frame::Chunk(Chunk { call: 1 }, piece) = host.next() {
            back.extend_from_slice(&piece);
        }
    }
    assert!(whole == back, "the bytes changed");
}

#[test]
fn a_call_that_is_cancelled_while_its_input_arrives_is_never_started() {
    let mut host = Host::greeted();
    host.send(&Frame::Call(
        header(1, "panic", 4),
        Bytes::from_static(b"12"),
    ));
    host.cancel(1, CancelMode::Cooperative);
    assert_eq!(failure(&mut host), "cancelled");
    host.send(&Frame::Chunk(Chunk { call: 1 }, Bytes::from_static(b"34")));
    assert!(matches!(host.next(), Frame::Credit(credit) if credit.calls == 1));
    host.call(2, "echo", "1");
    assert_eq!(host.result().0.error, None);
}

#[test]
fn progress_log_lines_and_prints_arrive() {
    let mut host = Host::greeted();
    host.call(1, "report", "");
    let Frame::Progress(progress) = host.next() else {
        panic!("no Progress");
    };
    assert_eq!((progress.call, progress.percent), (1, Some(50)));
    assert_eq!(progress.message, "half way");
    let Frame::Log(log) = host.next() else {
        panic!("no Log");
    };
    assert_eq!((log.call, log.level), (Some(1), LogLevel::Info));
    assert_eq!(log.message, "a line\nand another");
    host.call(2, "print", "");
    assert_eq!(host.result().1, "null");
    assert_eq!(host.result().1, "\"answer\"");
    host.hang_up();
    assert_eq!(host.end().1, "printed by the plugin\n");
}

#[test]
fn a_call_asks_for_its_session() {
    let mut host = Host::greeted();
    host.call(1, "count", "");
    let answer = |host: &mut Host, expected: HostOperation, value: Value| loop {
        match host.next() {
            Frame::HostCall(HostCall { id, call, request }) => {
                assert_eq!((call, request), (1, expected));
                let error = None;
                return host.send(&Frame::HostResult(HostResult { id, value, error }));
            }
            Frame::Accepted(_) => {}
            other => panic!("{other:?}"),
        }
    };
    let key = "count".to_owned();
    let get = HostOperation::SessionGet { key: key.clone() };
    answer(&mut host, get, json!(41));
    let value = json!(42);
    let set = HostOperation::SessionSet { key, value };
    answer(&mut host, set, Value::Null);
    assert_eq!(host.result().1, "42");
}

#[test]
fn reconcile_questions_are_answered() {
    let mut host = Host::greeted();
    let cases = [
        ("count", "done", ReconcileStatus::Done, "7"),
        ("count", "not-done", ReconcileStatus::NotDone, ""),
        ("count", "other", ReconcileStatus::Unknown, ""),
        ("panic", "x", ReconcileStatus::Unknown, ""),
        ("absent", "x", ReconcileStatus::Unknown, ""),
    ];
    for (call, (phase, key, status, output)) in (1..).zip(cases) {
        host.send(&Frame::Reconcile(Reconcile {
            call,
            phase: phase.into(),
            idempotency_key: key.into(),
        }));
        let (result, bytes) = host.result();
        assert_eq!((result.call, result.reconcile), (call, Some(status)));
        assert_eq!(bytes, output);
        // A question takes up a slot as a call does.
        assert!(matches!(host.next(), Frame::Credit(credit) if credit.calls == 1));
    }
}

#[test]
fn a_reply_to_a_host_that_reads_late_stays_whole() {
    let mut host = Host::with_small_buffers();
    let whole: Vec<u8> = (0..=250).cycle().take(PAYLOAD_PER_FRAME).collect();
    let whole = Bytes::from(whole);
    host.send(&Frame::Call(
        header(1, "echo", whole.len() as u64),
        whole.clone(),
    ));
    // Neither of these may get between the pieces of the first reply.
    host.call(2, "echo", "2");
    host.cancel(1, CancelMode::Cooperative);
    host.call(3, "print", "");
    let (result, output) = host.result();
    assert_eq!(result.call, 1);
    assert!(output == whole, "the bytes changed");
    assert_eq!(host.result().0.call, 2);
    assert_eq!(host.result().0.call, 3);
}

#[test]
fn a_drain_finishes_what_is_open_and_ends() {
    let mut host = Host::greeted();
    host.call(1, "wait", "");
    host.send(&Frame::Drain(Drain { grace_ms: 9_000 }));
    host.cancel(1, CancelMode::Cooperative);
    assert_eq!(failure(&mut host), "plugin_permanent");
    while host.try_next().is_some() {}
    assert!(host.end().0.success());
}

#[test]
fn a_drain_ends_after_its_grace_time_whatever_is_open() {
    let mut host = Host::greeted();
    host.call(1, "ignore", "");
    host.send(&Frame::Drain(Drain { grace_ms: 50 }));
    while host.try_next().is_some() {}
    assert!(host.end().0.success());
}

#[test]
fn a_host_that_goes_away_and_a_signal_end_the_process() {
    let mut host = Host::greeted();
    host.call(1, "ignore", "");
    host.hang_up();
    assert!(host.end().0.success());
    // With bytes unread the kernel calls it a reset.
    let mut host = Host::greeted();
    host.call(1, "ignore", "");
    host.await_bytes();
    host.hang_up();
    assert!(host.end().0.success());
    let mut host = Host::greeted();
    host.call(1, "echo", "1");
    host.result();
    host.signal("TERM");
    assert!(host.end().0.success());
}

#[test]
fn a_host_that_breaks_the_protocol_is_left_with_a_reason() {
    type Fault = fn(&mut Host);
    let cases: [(&str, Fault); 6] = [
        ("half a frame", |host| {
            host.send_bytes(&[0, 0, 0, 9, 4]);
            host.hang_up();
        }),
        ("not understood", |host| host.send_bytes(&[0xff; 64])),
        ("more calls", |host| {
            for call in 1..=5 {
                host.call(call, "ignore", "");
            }
        }),
        ("longer than its stated 1 bytes", |host| {
            host.send(&Frame::Call(
                header(1, "echo", 1),
                Bytes::from_static(b"12"),
            ));
        }),
        ("longer than its stated 3 bytes", |host| {
            host.send(&Frame::Call(
                header(1, "echo", 3),
                Bytes::from_static(b"12"),
            ));
            host.send(&Frame::Chunk(Chunk { call: 1 }, Bytes::from_static(b"34")));
        }),
        ("sent Welcome", |host| host.send(&welcome(1, json!({})))),
    ];
    for (reason, fault) in cases {
        let mut host = Host::greeted();
        fault(&mut host);
        let (status, _, said) = host.end();
        assert_eq!(status.code(), Some(1), "{reason}");
        let expected = match reason {
            "half a frame" => "ends after 5 bytes",
            other => other,
        };
        assert!(said.contains(expected), "{reason}: {said}");
    }
}

#[test]
fn a_handshake_that_fails_says_why() {
    let cases = [
        (welcome(2, json!({})), "the host speaks protocol 2"),
        (
            welcome(PROTOCOL_VERSION, json!({ "greetings": "hi" })),
            "unknown field `greetings`",
        ),
        (
            Frame::Drain(Drain { grace_ms: 1 }),
            "sent Drain where Welcome was due",
        ),
    ];
    for (answer, reason) in cases {
        let mut host = Host::start("tour");
        assert!(matches!(host.next(), Frame::Hello(_)));
        host.send(&answer);
        let (status, _, said) = host.end();
        assert_eq!(status.code(), Some(1), "{reason}");
        assert!(said.contains(reason), "{said}");
    }
    let output = run("tour", &[], &[("ORCHESTRATOR_NODE_FD", "77")], b"");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("ORCHESTRATOR_NODE_FD must be the number of an open socket"),
        "{said}"
    );
}
