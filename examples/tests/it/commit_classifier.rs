//! `commit-classifier` as one process per call; as a node it is the same code.

use serde_json::{Value, json};

use crate::process::{Finished, run};

pub(crate) fn classify(history: &Value) -> Finished {
    run(
        env!("CARGO_BIN_EXE_commit-classifier"),
        &["execute", "classify"],
        &[],
        history.to_string().as_bytes(),
    )
}

#[test]
fn it_says_how_far_it_is() {
    let commit = json!({ "hash": "0123456789abcdef", "author": "Ada", "subject": "fix: x" });
    let commits = vec![commit; 1_200];
    let classified = classify(&json!({ "commits": commits }));
    assert_eq!(
        classified.stderr,
        "DEBUG 41% 500 of 1200 commits\n\
         DEBUG 83% 1000 of 1200 commits\n\
         DEBUG 100% 1200 of 1200 commits\n"
    );
    let notes = classified.json();
    assert_eq!(notes["counts"]["entries"], 1_200);
    assert_eq!(notes["sections"][0]["title"], "Fixes");
}

#[test]
fn what_is_no_history_is_refused() {
    let refused = classify(&json!({ "commits": [{ "hash": "x" }] }));
    assert_eq!(refused.code, Some(65));
    assert!(
        refused.stderr.contains("missing field"),
        "{}",
        refused.stderr
    );
}
