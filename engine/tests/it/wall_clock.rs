//! Nothing that an engine waits for or compares goes by the wall clock, which people and
//! programs set.

use orchestrator_testkit::{pass_while_the_clock_jumps, the_clock_jumps_where_it_is_to};

/// Deadlines, delays between attempts, checks of health and what follows, reloads.
const GO_ON: [&str; 7] = [
    "fallbacks::",
    "health::",
    "reloaded::",
    "resume::",
    "retries::",
    "runs::",
    "wall_clock::it_jumps",
];
/// These go by the order of ids, which begin with the time of the wall clock.
const NOT: [&str; 2] = [
    "resume::a_run_whose_plugin_changed",
    "resume::what_is_not_resumed",
];
/// How many there are at least.
const MANY: usize = 30;

#[test]
fn it_jumps() {
    the_clock_jumps_where_it_is_to();
}

#[test]
fn a_clock_that_is_set_back_and_forth_changes_nothing() {
    let passed = pass_while_the_clock_jumps(&GO_ON, &NOT);
    assert!(passed >= MANY, "{passed}");
}
