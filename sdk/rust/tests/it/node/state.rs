//! What one process hands on to the next.

use bytes::Bytes;
use orchestrator_contract::frame::{
    Cancel, CancelMode, Chunk, Credit, Drain, Frame, GetState, PROTOCOL_VERSION, RestoreState,
};
use serde_json::json;

use super::host::{Host, welcome};

/// A counter that takes calls, and what it said of itself.
fn counter() -> Host {
    let mut host = Host::start("counter");
    let Frame::Hello(hello) = host.next() else {
        panic!("no Hello");
    };
    assert!(hello.state);
    host.send(&welcome(PROTOCOL_VERSION, json!({})));
    assert!(matches!(host.next(), Frame::Credit(_)));
    host
}

fn count(host: &mut Host, call: u64) -> Bytes {
    host.call(call, "count", "");
    host.result().1
}

fn restore(call: u64, length: usize, beginning: &'static str) -> Frame {
    let header = RestoreState {
        call,
        from_version: "0.9.0".into(),
        length: length as u64,
    };
    Frame::RestoreState(header, beginning.into())
}

#[test]
fn a_count_goes_on_in_another_process() {
    let mut old = counter();
    assert_eq!(count(&mut old, 1), "1");
    assert_eq!(count(&mut old, 2), "2");
    old.send(&Frame::GetState(GetState { call: 3 }));
    let (header, state) = old.result();
    assert_eq!(
        (header.call, header.error, &state[..]),
        (3, None, &b"2"[..])
    );
    assert!(matches!(old.next(), Frame::Credit(Credit { calls: 1 })));

    let mut new = counter();
    // The one that came first is void; the other comes in pieces.
    new.send(&restore(1, 2, "70"));
    assert_eq!(new.result().0.error, None);
    new.send(&restore(2, 2, "4"));
    new.send(&Frame::Chunk(Chunk { call: 2 }, Bytes::from_static(b"1")));
    assert_eq!(new.result().0.error, None);
    assert_eq!(count(&mut new, 3), "42");
    // A question that is open does not keep a drain for ever.
    new.send(&Frame::GetState(GetState { call: 4 }));
    new.send(&Frame::Drain(Drain { grace_ms: 5_000 }));
    assert_eq!(new.result().1, "42");
    assert!(new.end().0.success());
}

#[test]
fn a_state_that_makes_no_sense_is_refused_and_calls_go_on() {
    let mut host = counter();
    host.send(&restore(1, 1, "x"));
    let (header, _) = host.result();
    assert_eq!(header.error.unwrap().kind().as_str(), "plugin_permanent");
    assert_eq!(count(&mut host, 2), "1");
    // Taken back when it was answered already.
    host.cancel(1, CancelMode::Cooperative);
    assert_eq!(count(&mut host, 3), "2");
    host.send(&restore(4, 1, "23"));
    let (status, _, err) = host.end();
    assert!(
        !status.success() && err.contains("longer than its stated 1"),
        "{err}"
    );
}

/// Nobody can tell which of both came first; there is an answer in any case.
#[test]
fn a_question_that_is_taken_back_is_answered_all_the_same() {
    let mut host = counter();
    let mut both = bytes::BytesMut::new();
    Frame::GetState(GetState { call: 1 })
        .encode(&mut both)
        .unwrap();
    let cancel = Cancel {
        call: 1,
        mode: CancelMode::Cooperative,
    };
    Frame::Cancel(cancel).encode(&mut both).unwrap();
    host.send_bytes(&both);
    assert_eq!(host.result().0.call, 1);
    assert_eq!(count(&mut host, 2), "1");
}

/// Who has nothing to keep is not asked.
#[test]
fn a_plugin_says_nothing_of_state_unless_it_has_some() {
    let mut host = Host::start("shout");
    assert!(matches!(host.next(), Frame::Hello(hello) if !hello.state));
}
