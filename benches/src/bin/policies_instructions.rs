//! Calls the whole stack of policies as often as its argument says, for
//! whoever counts the instructions of it.

use std::process::ExitCode;

use orchestrator_benches::{
    instructions::counted,
    policies::{Echo, Parts, repeat},
};

fn main() -> ExitCode {
    let calls = std::env::args().nth(1).and_then(|calls| calls.parse().ok());
    let (Some(calls), Ok(parts)) = (calls, Parts::new()) else {
        return ExitCode::FAILURE;
    };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    else {
        return ExitCode::FAILURE;
    };
    let mut stack = parts.around(Echo { gives_way: false });
    let mut call = |calls| {
        // The cooperative budget would add a turn through the scheduler now and then.
        let calling = tokio::task::unconstrained(repeat(&mut stack, calls));
        runtime.block_on(calling)
    };
    // What is only done once, such as finding out how fast the clock runs, is
    // done before.
    let answered = call(1) + counted(|| call(calls));
    match answered == calls + 1 {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
