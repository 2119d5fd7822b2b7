//! What the audit log says of changes made behind its back.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use orchestrator_signing::{
    KeyFileError,
    audit::{AuditError, AuditLog, Kind, Outcome, verify},
};

use crate::audit::{
    Place, event, eventually, open, open_with, records, segments, settings, small_segments,
};

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
    let refused = verify(&place.log(), &key, None);
    // Checkpoints of another log count for nothing.
    assert!(
        matches!(refused, Err(AuditError::Unsigned { .. })),
        "{refused:?}"
    );
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
    place.remove_checkpoints();
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
    // The last is what a disk leaves that never wrote the first of two blocks.
    for torn in [&b"{\"seq\":5,\"time\":\"20"[..], &[0; 300], b"\0\0\"a\"}\n"] {
        let before = records(&place.log()).len();
        let mut bytes = fs::read(place.segment()).unwrap();
        bytes.extend(torn);
        fs::write(place.segment(), bytes).unwrap();
        let report = place.check().unwrap();
        assert_eq!(report.unfinished, torn.len() as u64);
        drop(open(&place.log()));
        let found = records(&place.log());
        assert_eq!(found.len(), before + 1);
        let last = &found[before].event;
        assert_eq!((last.kind, last.outcome), (Kind::Repaired, Outcome::Ok));
        assert_eq!(last.context["bytes"], torn.len().to_string());
        place.check_with_copy().unwrap();
    }
}

/// A crash leaves no whole line that does not belong there: neither one that is no
/// record, nor one that was there before.
#[test]
fn a_whole_line_that_does_not_belong_there_is_damage() {
    for many in [5, 2_000] {
        let place = Place::new();
        place.fill(settings(), many);
        let whole = fs::read_to_string(place.segment()).unwrap();
        let last = whole.lines().last().unwrap();
        let twice = format!("{last}\n{last}");
        for surplus in [last, &twice, "{}", "# a note", ""] {
            let changed = format!("{whole}{surplus}\n");
            let refuse = |refused: Option<AuditError>| {
                let is_it =
                    |it: &AuditError| matches!(it, AuditError::Damaged { seq, .. } if *seq == many);
                assert!(
                    refused.as_ref().is_some_and(is_it),
                    "{surplus}: {refused:?}"
                );
            };
            fs::write(place.segment(), &whole).unwrap();
            let running = open(&place.log());
            fs::write(place.segment(), &changed).unwrap();
            running.record(event(0)).wait().unwrap_err();
            drop(running);
            refuse(open_with(&place.log(), settings(), None).err());
            refuse(place.check().err());
            assert_eq!(fs::read_to_string(place.segment()).unwrap(), changed);
        }
    }
}

/// Neither whoever writes nor whoever verifies takes such a log for whole.
#[test]
fn a_segment_that_nobody_began_is_found() {
    for name in [100, 3].map(|first| format!("{first:020}.ndjson")) {
        let place = Place::new();
        place.fill(settings(), 5);
        fs::write(place.log().join(&name), "").unwrap();
        for refused in [
            place.check().err(),
            open_with(&place.log(), settings(), None).err(),
        ] {
            assert!(
                refused.as_ref().is_some_and(AuditError::is_damage),
                "{name}: {refused:?}"
            );
        }
    }
    let place = Place::new();
    place.fill(settings(), 5);
    fs::write(place.log().join(format!("{:020}.ndjson", 100)), "").unwrap();
    let refused = place.check();
    assert!(
        matches!(
            refused,
            Err(AuditError::Missing {
                first: 5,
                last: 99,
                ..
            })
        ),
        "{refused:?}"
    );
}

/// What is always there and is gone is damage; where nothing is, nothing was
/// recorded yet.
#[test]
fn files_that_somebody_removed_are_missed() {
    let place = Place::new();
    let refused = place.check();
    assert!(refused.is_err_and(|error| !error.is_damage()));
    for many in [1, 60] {
        let removed = |place: &Place| {
            let newest = segments(&place.log()).pop().unwrap();
            [newest.as_str(), "tree", "key.vkey"].map(|name| place.log().join(name))
        };
        for number in 0..3 {
            let place = Place::new();
            let log = open_with(&place.log(), small_segments(), None).unwrap();
            for number in 0..many {
                log.record(event(number)).wait().unwrap();
            }
            drop(log);
            let key = place.key();
            let path = &removed(&place)[number];
            fs::remove_file(path).unwrap();
            let refused = match path.extension().is_some_and(|it| it == "vkey") {
                true => place.check().err(),
                false => verify(&place.log(), &key, None).err(),
            };
            assert!(
                refused.as_ref().is_some_and(AuditError::is_damage),
                "{path:?}: {refused:?}"
            );
        }
    }
}

/// That is put right with `chmod`, and the log is gone on with.
#[test]
fn a_key_that_others_can_read_is_no_damage() {
    let place = Place::new();
    place.fill(settings(), 5);
    let key = place.log().join("key");
    fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();

    let refused = AuditLog::set_aside(&place.log(), settings(), None);

    assert!(
        matches!(
            refused,
            Err(AuditError::KeyFile(KeyFileError::Exposed { .. }))
        ),
        "{refused:?}"
    );
    fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(records(&place.log()).len(), 5);
}

/// A crash tears the end; it does not change what has records behind it.
#[test]
fn damage_with_records_behind_it_is_not_mended() {
    let place = Place::new();
    place.fill(settings(), 5);
    place.remove_checkpoints();
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
            Err(AuditError::KeyFile(_) | AuditError::Gone { .. })
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

/// Records that no checkpoint vouches for are as anybody wrote them.
#[test]
fn a_log_without_its_checkpoints_is_not_believed() {
    let place = Place::new();
    place.fill(settings(), 8);
    let text = fs::read_to_string(place.segment()).unwrap();
    fs::write(place.segment(), text.replace("number 3", "number 4")).unwrap();
    fs::write(place.log().join("tree"), b"").unwrap();
    fs::remove_file(place.checkpoints()).unwrap();
    let refused = place.check();
    assert!(
        matches!(refused, Err(AuditError::Unsigned { .. })),
        "{refused:?}"
    );
    // Nor does the next writer sign it.
    let refused = open_with(&place.log(), settings(), None);
    assert!(
        matches!(refused, Err(AuditError::Unsigned { .. })),
        "{refused:?}"
    );
}

/// A damaged log is kept as it is, and stops nobody for good: the new one says
/// what it follows, and who had the old one open goes on with the new one.
#[test]
fn a_damaged_log_makes_room_for_another() {
    let place = Place::new();
    place.fill(settings(), 5);
    let service = open(&place.log());
    let text = fs::read_to_string(place.segment()).unwrap();
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    fs::write(place.segment(), lines[..3].concat()).unwrap();
    let refused = service.record(event(5)).wait();
    assert!(
        matches!(refused, Err(AuditError::NotRecorded { .. })),
        "{refused:?}"
    );
    service.note(event(6));
    let why = open_with(&place.log(), settings(), None).unwrap_err();
    assert!(why.is_damage(), "{why:?}");

    let aside = AuditLog::set_aside(&place.log(), settings(), Some("ada"));
    let (aside, _) = aside.unwrap().unwrap();
    assert!(aside.starts_with(place.log().parent().unwrap()));
    let left = fs::read_to_string(aside.join("00000000000000000000.ndjson")).unwrap();
    assert_eq!(left, lines[..3].concat());
    eventually(|| records(&place.log()).len() == 2);
    assert_eq!(service.record(event(7)).wait().unwrap(), 2);
    drop(service);
    let found = records(&place.log());
    let first = &found[0].event;
    assert_eq!((first.kind, first.outcome), (Kind::SetAside, Outcome::Ok));
    assert_eq!(first.actor.as_deref(), Some("ada"));
    assert_eq!(first.code.as_deref(), Some("ORC-2109"));
    assert_eq!(first.context["size"], "5");
    assert_eq!(first.resource, Some(aside.display().to_string()));
    let details: Vec<_> = found[1..]
        .iter()
        .map(|it| it.event.detail.clone())
        .collect();
    assert_eq!(details, [6, 7].map(|number| event(number).detail));
    assert_eq!(place.check().unwrap().size, 3);
    // Whoever comes second finds nothing wrong.
    let again = AuditLog::set_aside(&place.log(), settings(), None);
    assert!(matches!(again, Ok(None)), "{again:?}");
}
