//! What a new process does to itself before it becomes the program.
//!
//! All of this runs in the host's memory, so it only makes system calls with what
//! the [`Plan`] prepared: nothing here allocates, locks or can panic.
//!
//! The order matters, and later layers of confinement have their place in it:
//! namespaces and the private root go between `Descriptors` and `Limits`, since
//! they need privileges and descriptors, not the program's limits; landlock and
//! seccomp go directly before `Exec`, in this order, since each forbids what an
//! earlier step needs. Of landlock, the scope of signals is there already.

use std::{convert::Infallible, ffi::c_int};

use rustix::{
    fs::Mode,
    io::Errno,
    process::{
        Signal, chdir, getpid, getppid, set_child_subreaper, set_parent_process_death_signal,
        setrlimit, setsid, umask,
    },
    thread::set_no_new_privs,
};

use super::{plan::Plan, raw};
use crate::Step;

/// Exit code of a process that did not become the program.
const FAILED: c_int = 127;

/// Carries out `plan`. Returns only on failure, which it leaves in the plan.
pub(super) fn run(plan: &Plan) -> c_int {
    let Err((step, errno)) = become_program(plan);
    plan.failure.set(Some((step, errno)));
    FAILED
}

fn become_program(plan: &Plan) -> Result<Infallible, (Step, Errno)> {
    let at = |step: Step| move |errno: Errno| (step, errno);

    // Handlers go first: nothing of the host may run here once signals arrive.
    raw::reset_signal_actions().map_err(at(Step::Signals))?;
    // A session of its own is a process group of its own, and has no terminal that
    // could be read, or be made to look as if somebody had typed on it.
    setsid().map_err(at(Step::Session))?;
    if !plan.outlives_host {
        die_with_keeper(plan).map_err(at(Step::DieWithHost))?;
        // What the program starts stays below it, also when a parent in between ends or
        // a session is left. It is all the keeper's when the program has ended.
        set_child_subreaper(Some(getpid())).map_err(at(Step::Descendants))?;
    }
    // `PR_SET_DUMPABLE` is absent on purpose: it belongs to the memory, so it would
    // change the host's, and `execveat` sets it anew.
    set_no_new_privs(true).map_err(at(Step::NoNewPrivileges))?;
    if !plan.outlives_host {
        // Needs the line above, and a free descriptor, so it comes before the limits.
        raw::confine_signals();
    }
    place_descriptors(plan).map_err(at(Step::Descriptors))?;
    for (resource, limit) in &plan.limits {
        setrlimit(*resource, *limit).map_err(at(Step::Limits))?;
    }
    umask(Mode::RWXG | Mode::RWXO);
    chdir(plan.working_directory.as_c_str()).map_err(at(Step::WorkingDirectory))?;
    raw::unblock_signals().map_err(at(Step::Signals))?;
    Err((Step::Exec, plan.execute()))
}

/// The kernel kills this process when the keeper ends. A keeper that ended before that
/// was agreed is noticed by the parent having changed.
fn die_with_keeper(plan: &Plan) -> Result<(), Errno> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() == Some(plan.keeper) {
        Ok(())
    } else {
        Err(Errno::SRCH)
    }
}

/// Parks every descriptor above all numbers that are wanted, so that no placing
/// overwrites a source, then places them and closes everything else.
fn place_descriptors(plan: &Plan) -> Result<(), Errno> {
    for placement in plan.placements.iter() {
        let parked = raw::duplicate_above(placement.kept.get(), plan.first_unused())?;
        placement.parked.set(parked);
    }
    let image = raw::duplicate_above(plan.kept_image.get(), plan.first_unused())?;
    for placement in plan.placements.iter() {
        raw::duplicate_to(placement.parked.get(), placement.number, false)?;
    }
    // The program must not keep its own image open.
    raw::duplicate_to(image, plan.image_number, true)?;
    for (first, last) in &plan.gaps {
        raw::close_range(*first, *last)?;
    }
    Ok(())
}
