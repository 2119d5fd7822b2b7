//! What a new process does to itself before it becomes the program.
//!
//! All of this runs in the host's memory, so it only makes system calls with what
//! the [`Plan`] prepared: nothing here allocates, locks or can panic.
//!
//! The order matters. Namespaces and the private root come between `Descriptors` and
//! `Limits`, since they need privileges and descriptors, not the program's limits;
//! landlock and the filter of system calls come directly before `Exec`, in this order,
//! since each forbids what an earlier step needs.

use std::{convert::Infallible, ffi::c_int, os::fd::BorrowedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::Mode,
    io::{Errno, write},
    process::{
        Signal, chdir, getpid, set_child_subreaper, set_parent_process_death_signal, setrlimit,
        setsid, umask,
    },
    thread::set_no_new_privs,
};

use super::{
    confinement::Confining,
    gateway::{open_gateway, send},
    namespaces::{become_nobody, bound_ids, drop_capabilities},
    plan::Plan,
    raw,
};
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
    if let Some(confining) = &plan.confining {
        // Needs a descriptor of the keeper's.
        settle(confining, raw::open_descriptor(plan.proc.get()))?;
    }
    place_descriptors(plan).map_err(at(Step::Descriptors))?;
    for group in plan.groups.iter().skip(plan.has_begun.get().into()) {
        // Whoever writes to it is in it.
        let entry = raw::descriptor(*group);
        write(entry, b"0").map_err(at(Step::Group))?;
    }
    if let Some(confining) = &plan.confining {
        furnish(confining)?;
    }
    let ruleset = plan
        .confining
        .as_ref()
        .and_then(|confining| confining.ruleset);
    if !plan.outlives_host && ruleset.is_none() {
        // Needs a free descriptor, so it comes before the limits.
        raw::confine_signals();
    }
    for (resource, limit) in &plan.limits {
        setrlimit(*resource, *limit).map_err(at(Step::Limits))?;
    }
    umask(Mode::RWXG | Mode::RWXO);
    chdir(plan.working_directory.as_c_str()).map_err(at(Step::WorkingDirectory))?;
    raw::unblock_signals().map_err(at(Step::Signals))?;
    if let Some(ruleset) = ruleset {
        raw::landlock_restrict(ruleset).map_err(at(Step::Landlock))?;
    }
    if let Some(confining) = &plan.confining {
        filter_calls(confining).map_err(at(Step::Seccomp))?;
    }
    Err((Step::Exec, plan.execute()))
}

/// The last step: the filter allows little more than to execute the image.
fn filter_calls(confining: &Confining) -> Result<(), Errno> {
    match (&confining.filter, confining.handover) {
        (Some(filter), Some(handover)) if confining.is_observed => {
            let calls = raw::observe_calls(filter)?;
            send(handover, raw::descriptor(calls))
        }
        (Some(filter), _) => raw::filter_calls(filter),
        (None, _) => Ok(()),
    }
}

/// The process was made in its namespaces; here it becomes somebody in them.
fn settle(confining: &Confining, proc: Result<BorrowedFd<'_>, Errno>) -> Result<(), (Step, Errno)> {
    if let Some(maps) = &confining.maps {
        let settled = proc.and_then(|proc| become_nobody(proc, maps));
        settled.map_err(|errno| (Step::Namespaces, errno))?;
    }
    if let Some(highest) = &confining.highest_id {
        let bound = proc.and_then(|proc| bound_ids(proc, highest));
        bound.map_err(|errno| (Step::Limits, errno))?;
    }
    Ok(())
}

/// Adds to the namespaces what is its own, and gives up the rights that it has there.
fn furnish(confining: &Confining) -> Result<(), (Step, Errno)> {
    if let Some(handover) = confining.handover.filter(|_| confining.has_gateway) {
        open_gateway(handover).map_err(|errno| (Step::Gateway, errno))?;
    }
    if let Some(mounts) = &confining.mounts {
        let mounted = mounts.mount(confining.ruleset);
        mounted.map_err(|errno| (Step::PrivateRoot, errno))?;
    }
    drop_capabilities().map_err(|errno| (Step::Capabilities, errno))
}

/// The kernel kills this process when the keeper ends. One that ended before that was
/// agreed is noticed by its descriptor, since in a namespace of processes nobody has
/// another parent than process 0.
fn die_with_keeper(plan: &Plan) -> Result<(), Errno> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let keeper = raw::descriptor(plan.keeper.get());
    let mut ended = [PollFd::new(&keeper, PollFlags::IN)];
    match poll(&mut ended, Some(&Timespec::default()))? {
        0 => Ok(()),
        _ => Err(Errno::SRCH),
    }
}

/// Parks every descriptor above all numbers that are wanted, so that no placing
/// overwrites a source, then places them and closes everything else.
fn place_descriptors(plan: &Plan) -> Result<(), Errno> {
    for placement in plan.placements.iter() {
        let parked = raw::duplicate_above(placement.kept.get(), plan.first_unused())?;
        placement.parked.set(parked);
    }
    for placement in plan.placements.iter() {
        let parked = placement.parked.get();
        raw::duplicate_to(parked, placement.number, placement.close_on_exec)?;
    }
    for (first, last) in &plan.gaps {
        raw::close_range(*first, *last)?;
    }
    Ok(())
}
