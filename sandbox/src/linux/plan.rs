//! Everything a new process needs, prepared so that it has only system calls to
//! make.

use std::{
    cell::Cell,
    ffi::{CString, OsStr, c_char, c_int},
    os::{
        fd::{AsFd, BorrowedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    ptr,
};

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit},
};

use super::{
    confinement::{Confining, Prepared},
    granted::Expected,
    ground::Ground,
    group::Entries,
    raw,
};
use crate::{Limits, SpawnError, Spec, Step};

/// The most descriptors that go to the keeper with one message, the image among them;
/// a bound of the kernel (`SCM_MAX_FD`).
pub(super) const DESCRIPTORS_MAX: usize = 253;

/// How many of them are not the program's: the image, the keeper, the ruleset, what the
/// gateway is handed over with, the entries of three groups and the directory of one, and
/// three namespaces.
const OURS: usize = 11;

/// A descriptor of the host and the number it is to have in the new process.
pub(super) struct Placement<'spec> {
    pub(super) source: BorrowedFd<'spec>,
    /// The number that the keeper has it under.
    pub(super) kept: Cell<RawFd>,
    pub(super) number: RawFd,
    /// Where the new process keeps it meanwhile.
    pub(super) parked: Cell<RawFd>,
    /// Whether the program does not get it.
    pub(super) close_on_exec: bool,
}

impl<'spec> Placement<'spec> {
    fn new(number: RawFd, source: BorrowedFd<'spec>, close_on_exec: bool) -> Self {
        Self {
            source,
            kept: Cell::new(-1),
            number,
            parked: Cell::new(-1),
            close_on_exec,
        }
    }
}

/// A [`Spec`] in the words of system calls. Borrows the descriptors of the spec.
pub(super) struct Plan<'spec> {
    /// The number that the keeper has a descriptor of itself under.
    pub(super) keeper: Cell<RawFd>,
    /// The number that it has the machine's `/proc` under.
    pub(super) proc: Cell<RawFd>,
    pub(super) outlives_host: bool,
    /// The namespaces that the process begins in, and the numbers that the keeper has them
    /// under.
    pub(super) ground: Vec<(BorrowedFd<'spec>, Cell<RawFd>)>,
    /// What has to be there still when it begins on a ground.
    pub(super) expected: Vec<Expected>,
    /// What the program gets, then what is needed until it runs.
    pub(super) placements: Vec<Placement<'spec>>,
    /// The number of the image while it is executed: one above all that are wanted.
    image_number: RawFd,
    pub(super) confining: Option<Confining>,
    /// The numbers of the entries of its groups.
    pub(super) groups: Vec<RawFd>,
    /// The group that it can be made in, which is the first of them, and the number that the
    /// keeper has its directory under.
    pub(super) begin: Option<(BorrowedFd<'spec>, Cell<RawFd>)>,
    /// Whether it was made there.
    pub(super) has_begun: Cell<bool>,
    /// The ranges of numbers, both ends included, that are to be closed.
    pub(super) gaps: Vec<(u32, u32)>,
    pub(super) limits: Vec<(Resource, Rlimit)>,
    pub(super) working_directory: CString,
    /// Written by the new process when it fails.
    pub(super) failure: Cell<Option<(Step, Errno)>>,
    arguments: CStrings,
    environment: CStrings,
}

impl<'spec> Plan<'spec> {
    /// Prepares `spec` with what was prepared of its confinement and the entries of its
    /// groups; stdin, stdout and stderr that it does not list are `null`.
    pub(super) fn new(
        spec: &'spec Spec,
        null: BorrowedFd<'spec>,
        prepared: Option<&'spec Prepared>,
        entries: &'spec Entries,
    ) -> Result<Self, SpawnError> {
        let invalid = |reason: String| SpawnError::Invalid {
            program: spec.image.name().to_owned(),
            reason,
        };
        let descriptors = wanted(spec, null).map_err(invalid)?;
        let highest = descriptors.last().map_or(2, |(number, _)| *number);
        let image_number = highest + 1;
        let mut placements: Vec<_> = descriptors
            .iter()
            .map(|(number, source)| Placement::new(*number, *source, false))
            .collect();
        placements.push(Placement::new(image_number, spec.image.as_fd(), true));
        let confining = prepared.map(|prepared| prepared.confining(image_number, &spec.limits));
        let others = prepared.into_iter().flat_map(Prepared::descriptors);
        let others = others.chain(entries.files.iter().map(AsFd::as_fd));
        for (number, source) in (image_number + 1..).zip(others) {
            placements.push(Placement::new(number, source, true));
        }
        let last = placements.iter().rev().take(entries.files.len());
        Ok(Self {
            ground: prepared
                .and_then(Prepared::ground)
                .into_iter()
                .flat_map(Ground::namespaces)
                .map(|namespace| (namespace, Cell::new(-1)))
                .collect(),
            expected: prepared.into_iter().flat_map(Prepared::expected).collect(),
            groups: last.map(|placement| placement.number).rev().collect(),
            begin: entries
                .begin
                .as_ref()
                .map(|directory| (directory.as_fd(), Cell::new(-1))),
            has_begun: Cell::new(false),
            keeper: Cell::new(-1),
            proc: Cell::new(-1),
            outlives_host: spec.outlives_host,
            gaps: gaps(placements.iter().map(|placement| placement.number)),
            placements,
            image_number,
            confining,
            limits: resource_limits(&spec.limits),
            working_directory: c_string(spec.working_directory.as_os_str()).map_err(&invalid)?,
            failure: Cell::new(None),
            arguments: CStrings::new(spec.arguments.iter().map(|argument| c_string(argument)))
                .map_err(&invalid)?,
            environment: CStrings::new(
                spec.environment
                    .iter()
                    .map(|(name, value)| variable(name, value)),
            )
            .map_err(&invalid)?,
        })
    }

    /// What the keeper needs duplicates of, besides one of itself.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'spec>> {
        let placed = self.placements.iter().map(|placement| placement.source);
        placed.chain(self.beneath().map(|(descriptor, _)| *descriptor))
    }

    /// Where the numbers of those duplicates go, in the same order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = &Cell<RawFd>> {
        let placed = self.placements.iter().map(|placement| &placement.kept);
        placed.chain(self.beneath().map(|(_, number)| number))
    }

    /// What the keeper needs to make the process, and the process never has.
    fn beneath(&self) -> impl Iterator<Item = &(BorrowedFd<'spec>, Cell<RawFd>)> {
        self.ground.iter().chain(&self.begin)
    }

    /// The first number that the new process may use for itself.
    pub(super) fn first_unused(&self) -> RawFd {
        self.placements
            .last()
            .map_or(0, |placement| placement.number + 1)
    }

    /// The namespaces of the new process, as flags of `clone`.
    pub(super) fn namespaces(&self) -> c_int {
        self.confining
            .as_ref()
            .map_or(0, |confining| confining.namespaces)
    }

    /// Child: becomes the program; returns only on failure.
    pub(super) fn execute(&self) -> Errno {
        let token = self
            .confining
            .as_ref()
            .map_or(0, |confining| confining.token);
        raw::execute(self.image_number, &self.arguments, &self.environment, token)
    }
}

/// What `spec` gives to the program by ascending number, with `null` in place of the first
/// three that it does not list. What cannot be is said.
fn wanted<'spec>(
    spec: &'spec Spec,
    null: BorrowedFd<'spec>,
) -> Result<Vec<(RawFd, BorrowedFd<'spec>)>, String> {
    let mut descriptors: Vec<(RawFd, BorrowedFd<'_>)> = (0..=2)
        .filter(|number| !spec.descriptors.contains_key(number))
        .map(|number| (number, null))
        .chain(
            spec.descriptors
                .iter()
                .map(|(number, owned)| (*number, owned.as_fd())),
        )
        .collect();
    descriptors.sort_unstable_by_key(|(number, _)| *number);
    let lowest = descriptors.first().map_or(0, |(number, _)| *number);
    let highest = descriptors.last().map_or(2, |(number, _)| *number);
    if lowest < 0 || highest > Spec::MAX_DESCRIPTOR {
        return Err(format!(
            "descriptor numbers are 0 to {}",
            Spec::MAX_DESCRIPTOR
        ));
    }
    if descriptors.len() > DESCRIPTORS_MAX - OURS {
        return Err(format!("more than {} descriptors", DESCRIPTORS_MAX - OURS));
    }
    let open_files = spec.limits.open_files;
    if open_files.is_some_and(|limit| limit <= u64::from(highest.unsigned_abs())) {
        return Err(format!(
            "the limit of open files leaves no descriptor {highest}"
        ));
    }
    Ok(descriptors)
}

/// C strings and the null-terminated array of pointers to them that `execveat` takes.
pub(super) struct CStrings {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl CStrings {
    fn new(strings: impl Iterator<Item = Result<CString, String>>) -> Result<Self, String> {
        let strings = strings.collect::<Result<Vec<_>, _>>()?;
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(ptr::null());
        Ok(Self {
            pointers,
            _strings: strings,
        })
    }

    /// The array. It lives, unchanged, as long as `self`.
    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

fn c_string(text: &OsStr) -> Result<CString, String> {
    CString::new(text.as_bytes()).map_err(|_| format!("{text:?} has a NUL byte"))
}

fn variable(name: &OsStr, value: &OsStr) -> Result<CString, String> {
    if name.is_empty() || name.as_bytes().contains(&b'=') {
        return Err(format!("{name:?} is no name of an environment variable"));
    }
    // The value may be a secret, so an error names the variable alone.
    CString::new([name.as_bytes(), b"=", value.as_bytes()].concat())
        .map_err(|_| format!("the environment variable {name:?} has a NUL byte"))
}

/// The ranges between and above the ascending numbers `kept`.
fn gaps(kept: impl Iterator<Item = RawFd>) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut next = 0_u32;
    for number in kept.map(RawFd::unsigned_abs) {
        if number > next {
            gaps.push((next, number - 1));
        }
        next = number + 1;
    }
    gaps.push((next, u32::MAX));
    gaps
}

/// What the soft limit of descriptors is on Linux unless somebody raises it. A program
/// that raises its own is not to pass that on: its children may use `select`, which
/// ends here, or walk through every descriptor that they could have.
const OPEN_FILES_SOFT: u64 = 1024;

/// The limits to set, none of them above what the host itself has.
fn resource_limits(limits: &Limits) -> Vec<(Resource, Rlimit)> {
    let bounded = |resource: Resource, soft: u64, hard: u64| {
        let host = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let limit = Rlimit {
            current: Some(soft.min(host)),
            maximum: Some(hard.min(host)),
        };
        (resource, limit)
    };
    let open_files = match limits.open_files {
        Some(limit) => bounded(Resource::Nofile, limit, limit),
        None => {
            let host = getrlimit(Resource::Nofile);
            let soft = host.current.unwrap_or(u64::MAX).min(OPEN_FILES_SOFT);
            let limit = Rlimit {
                current: Some(soft),
                ..host
            };
            (Resource::Nofile, limit)
        }
    };
    let same = |resource, limit: Option<u64>| limit.map(|limit| bounded(resource, limit, limit));
    [
        same(Resource::Core, Some(0)),
        same(Resource::Data, limits.data_bytes),
        Some(open_files),
        same(Resource::Fsize, limits.file_bytes),
        same(Resource::Stack, limits.stack_bytes),
        same(Resource::Nproc, limits.processes),
        limits
            .cpu_seconds
            .map(|seconds| bounded(Resource::Cpu, seconds, seconds.saturating_add(1))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_lie_between_and_above_the_kept_numbers() {
        assert_eq!(gaps([0, 1, 2, 3].into_iter()), [(4, u32::MAX)]);
        assert_eq!(
            gaps([0, 1, 2, 7, 9].into_iter()),
            [(3, 6), (8, 8), (10, u32::MAX)]
        );
        assert_eq!(gaps([2].into_iter()), [(0, 1), (3, u32::MAX)]);
    }

    #[test]
    fn a_secret_value_is_not_named_in_an_error() {
        let error = variable(OsStr::new("TOKEN"), OsStr::new("s3\0cret")).expect_err("a NUL");
        assert!(
            error.contains("TOKEN") && !error.contains("cret"),
            "{error}"
        );
    }

    #[test]
    fn a_limit_is_never_above_the_host_s() {
        let host = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let limits = Limits {
            open_files: Some(u64::MAX - 1),
            ..Limits::default()
        };
        let set = resource_limits(&limits);
        let (_, open_files) = set
            .iter()
            .find(|(resource, _)| *resource == Resource::Nofile)
            .expect("the limit is set");
        assert!(open_files.maximum.expect("a number") <= host);
    }
}
