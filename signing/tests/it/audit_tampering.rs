//! What the audit log says of changes made behind its back.

use std::fs;

use orchestrator_signing::audit::{AuditError, Kind, Outcome, verify};

use crate::audit::{Place, event, open, open_with, records, segments, settings, small_segments};

#[test]
fn every_changed_byte_is_seen() {
    let place = Place::new();
    place.fill(settings(), 8);
    let whole = fs::read(place.segment()).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(place.segment(), &changed).unwrap();
        assert!(place.check().is_err(), "byte {at}");
    }
    fs::write(place.segment(), &whole).unwrap();
    place.check().unwrap();
    for file in ["tree", "00000000000000000000.checkpoints"] {
        let path = place.log().join(file);
        let whole = fs::read(&path).unwrap();
        let mut changed = whole.clone();
        // Another letter of a signature: one that is none may be a torn line.
        let last = changed.len() - 10;
        changed[last] = if changed[last] == b'A' { b'B' } else { b'A' };
        fs::write(&path, &changed).unwrap();
        assert!(place.check().is_err(), "{file}");
        fs::write(&path, &whole).unwrap();
    }
}

/// Somebody who can write everything but has not the key makes the tree fit
/// the changed records: a log of the same length, signed by another key.
#[test]
fn a_rewritten_tree_does_not_fit_the_signature() {
    let (place, other) = (Place::new(), Place::new());
    place.fill(settings(), 8);
    let log = open(&other.log());
    for number in 0..8 {
        log.record(event(number + 100)).wait().unwrap();
    }
    drop(log);
    let key = place.key();
    for name in ["tree", "00000000000000000000.ndjson"] {
        fs::copy(other.log().join(name), place.log().join(name)).unwrap();
    }
    let refused = place.check();
    assert!(
        matches!(refused, Err(AuditError::Rewritten { size: 8, .. })),
        "{refused:?}"
    );
    // The writer does not go on with it either.
    let refused = open_with(&place.log(), settings(), None);
    assert!(
        matches!(refused, Err(AuditError::Rewritten { .. })),
        "{refused:?}"
    );
    fs::copy(other.checkpoints(), place.checkpoints()).unwrap();
    let refused = verify(&place.log(), &key, None).map(|report| report.covered);
    // Checkpoints of another log count for nothing.
    assert!(matches!(refused, Ok(0)), "{refused:?}");
    let refused = verify(&place.log(), &key, Some(&place.copy()));
    assert!(
        matches!(refused, Err(AuditError::Rewritten { .. })),
        "{refused:?}"
    );
}

/// What only the copy shows: the host's own key signed the shorter log.
#[test]
fn truncation_and_replacement_are_seen_from_the_copy() {
    let place = Place::new();
    place.fill(settings(), 20);
    let (whole, signed) = (
        fs::read(place.segment()).unwrap(),
        fs::read(place.checkpoints()).unwrap(),
    );
    let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    fs::write(place.segment(), lines[..12].concat()).unwrap();
    let refused = place.check();
    assert!(
        matches!(
            refused,
            Err(AuditError::Truncated {
                signed: 20,
                found: 12,
                ..
            })
        ),
        "{refused:?}"
    );
    let refused = open_with(&place.log(), settings(), None);
    assert!(
        matches!(refused, Err(AuditError::Truncated { .. })),
        "{refused:?}"
    );

    // With the checkpoints gone too, and the log signed anew, it fits in itself.
    fs::remove_file(place.checkpoints()).unwrap();
    drop(open(&place.log()));
    assert_eq!(place.check().unwrap().covered, 12);
    let refused = place.check_with_copy();
    assert!(
        matches!(
            refused,
            Err(AuditError::Truncated {
                signed: 20,
                found: 12,
                ..
            })
        ),
        "{refused:?}"
    );

    // Filled up again to the length it had.
    let log = open(&place.log());
    for number in 100..110 {
        log.record(event(number)).wait().unwrap();
    }
    drop(log);
    assert_eq!(place.check().unwrap().size, 22);
    let refused = place.check_with_copy();
    assert!(
        matches!(refused, Err(AuditError::Rewritten { size: 20, .. })),
        "{refused:?}"
    );

    fs::write(place.segment(), &whole).unwrap();
    fs::write(place.checkpoints(), &signed).unwrap();
    assert!(
        place.check().is_err(),
        "the hashes are those of the other log"
    );
}

#[test]
fn a_checkpoint_of_another_host_is_not_compared_with() {
    let (place, other) = (Place::new(), Place::new());
    place.fill(settings(), 3);
    other.fill(settings(), 3);
    let refused = verify(&place.log(), &place.key(), Some(&other.copy()));
    assert!(
        matches!(refused, Err(AuditError::NotSigned { .. })),
        "{refused:?}"
    );
    let refused = verify(&place.log(), &other.key(), Some(&other.copy()));
    assert!(
        matches!(refused, Err(AuditError::Rewritten { .. })),
        "{refused:?}"
    );
}

#[test]
fn a_torn_end_is_mended_and_that_is_recorded() {
    let place = Place::new();
    place.fill(settings(), 5);
    for torn in [&b"{\"seq\":5,\"time\":\"20"[..], &[0; 300], b"{}\n\n\0\0"] {
        let before = records(&place.log()).len();
        let mut bytes = fs::read(place.segment()).unwrap();
        bytes.extend(torn);
        fs::write(place.segment(), bytes).unwrap();
        drop(open(&place.log()));
        let found = records(&place.log());
        assert_eq!(found.len(), before + 1);
        let last = &found[before].event;
        assert_eq!((last.kind, last.outcome), (Kind::Repaired, Outcome::Ok));
        assert_eq!(last.context["bytes"], torn.len().to_string());
        place.check_with_copy().unwrap();
    }
}

/// A crash tears the end; it does not change what has records behind it.
#[test]
fn damage_with_records_behind_it_is_not_mended() {
    let place = Place::new();
    place.fill(settings(), 5);
    fs::remove_file(place.checkpoints()).unwrap();
    let text = fs::read_to_string(place.segment()).unwrap();
    let damaged = text.replacen("{\"seq\":3,", "{\"seq\"?3,", 1);
    fs::write(place.segment(), &damaged).unwrap();
    let refused = open_with(&place.log(), settings(), None);
    assert!(
        matches!(refused, Err(AuditError::Damaged { seq: 3, .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read_to_string(place.segment()).unwrap(), damaged);
}

#[test]
fn a_segment_that_somebody_else_removed_is_missed() {
    let place = Place::new();
    let log = open_with(&place.log(), small_segments(), None).unwrap();
    for number in 0..60 {
        log.record(event(number)).wait().unwrap();
    }
    drop(log);
    fs::remove_file(place.segment()).unwrap();
    let refused = place.check();
    assert!(
        matches!(refused, Err(AuditError::Missing { first: 0, .. })),
        "{refused:?}"
    );
    for name in segments(&place.log()) {
        fs::remove_file(place.log().join(name)).unwrap();
    }
    let refused = open_with(&place.log(), settings(), None);
    assert!(
        matches!(
            refused,
            Err(AuditError::KeyFile(_) | AuditError::Missing { .. })
        ),
        "{refused:?}"
    );
}

/// A log is opened from its newest checkpoint, however much lies before it.
#[test]
fn opening_looks_at_the_end_alone() {
    let place = Place::new();
    place.fill(settings(), 2_000);
    let mut bytes = fs::read(place.segment()).unwrap();
    bytes[..100].fill(b'x');
    fs::write(place.segment(), bytes).unwrap();
    let log = open(&place.log());
    assert_eq!(log.record(event(2_000)).wait().unwrap(), 2_000);
    drop(log);
    assert!(matches!(
        place.check(),
        Err(AuditError::Damaged { seq: 0, .. })
    ));
}
