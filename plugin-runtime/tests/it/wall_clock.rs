//! Nothing that is waited for, counted or compared goes by the wall clock, which people
//! and programs set.

use orchestrator_testkit::{pass_while_the_clock_jumps, the_clock_jumps_where_it_is_to};

/// Calls in flight, checks of health, restarts with their delays, limits, reloads.
const GO_ON: [&str; 8] = [
    "ends::",
    "monitor::",
    "node::",
    "node_faults::",
    "operate::",
    "reload::a_",
    "reload::calls_",
    "wall_clock::it_jumps",
];
/// What takes long, and what ends the plugins of other tests.
const NOT: [&str; 2] = ["node_faults::a_flood", "keeper"];
/// How many there are at least.
const MANY: usize = 40;

#[test]
fn it_jumps() {
    the_clock_jumps_where_it_is_to();
}

#[test]
fn a_clock_that_is_set_back_and_forth_changes_nothing() {
    let passed = pass_while_the_clock_jumps(&GO_ON, &NOT);
    assert!(passed >= MANY, "{passed}");
}
