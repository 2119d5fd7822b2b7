//! Instructions, counted by valgrind. They do not depend on what else the
//! machine does, so a test may hold them to a limit.

use std::{
    ffi::OsStr,
    hint::black_box,
    io,
    path::{Path, PathBuf},
};

#[expect(
    clippy::disallowed_types,
    reason = "waited for in the foreground, as valgrind confines it already"
)]
use std::process::Command;

/// Does `work`; what happens in here, and nothing else, is counted.
#[inline(never)]
pub fn counted<T>(work: impl FnOnce() -> T) -> T {
    // Were the call the last thing here, it would be a jump out of here.
    black_box(work())
}

/// How valgrind finds [`counted`] among the symbols of the program.
const COUNTED: &str = "--toggle-collect=*instructions*counted*";

/// A valgrind to count with.
#[derive(Clone, Debug)]
pub struct Valgrind {
    program: PathBuf,
}

impl Valgrind {
    /// The one at `program`, which may lie in a tree that it was not built
    /// for.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        let program = program.into();
        Self { program }
    }

    /// The one on `PATH`, if there is one.
    pub fn find() -> Option<Self> {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|dir| dir.join("valgrind"))
            .find(|candidate| candidate.is_file())
            .map(Self::at)
    }

    /// Instructions of one call, by a `program` that makes as many calls in
    /// [`counted`] as the argument says that comes after `arguments`. Whatever
    /// does not depend on their number cancels out.
    ///
    /// # Errors
    ///
    /// When the program or valgrind fails, or nothing was counted.
    pub fn a_call<S>(&self, program: &Path, arguments: &[S], calls: u64) -> io::Result<f64>
    where
        S: AsRef<OsStr>,
    {
        let few = self.count(program, arguments, calls)?;
        let many = self.count(program, arguments, 2 * calls)?;
        let more = many.checked_sub(few).filter(|more| *more >= calls);
        let more = more.ok_or_else(|| {
            let problem = format!("{few} instructions for {calls} calls, {many} for twice as many");
            io::Error::other(problem)
        })?;
        Ok(more as f64 / calls as f64)
    }

    fn count<S>(&self, program: &Path, arguments: &[S], calls: u64) -> io::Result<u64>
    where
        S: AsRef<OsStr>,
    {
        let mut valgrind = self.command();
        valgrind
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(COUNTED)
            .arg(program)
            .args(arguments)
            .arg(calls.to_string());
        let output = valgrind.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let collected = collected(&said);
        collected
            .filter(|_| output.status.success())
            .ok_or_else(|| io::Error::other(format!("{}: {said}", output.status)))
    }

    #[expect(clippy::disallowed_types, reason = "see where it is imported")]
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Otherwise it looks where it was meant to be installed.
        let tools = self
            .program
            .parent()
            .map(|bin| bin.join("../libexec/valgrind"));
        if let Some(tools) = tools.filter(|tools| tools.is_dir()) {
            command.env("VALGRIND_LIB", tools);
        }
        command
    }
}

/// The number in valgrind's line `==1== Collected : 4711`.
fn collected(said: &str) -> Option<u64> {
    let count = said
        .lines()
        .find_map(|line| line.split_once("Collected :"))?
        .1;
    count.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a call through every policy may take, the service included.
    const INSTRUCTIONS_MAX: f64 = 500.0;

    #[test]
    fn the_count_is_read() {
        let said = "==7== Events    : Ir\n==7== Collected : 4711\n==7==\n";
        assert_eq!(collected(said), Some(4711));
        assert_eq!(collected("==7== \n"), None);
    }

    /// The gate: no change makes a call through the whole stack longer than
    /// that unnoticed.
    #[test]
    fn a_call_through_every_policy_is_short() {
        let given = |name| {
            std::env::var_os(name)
                .unwrap_or_else(|| panic!("{name} is not set; `cargo xtask test` sets it"))
        };
        let valgrind = Valgrind::at(given("ORCHESTRATOR_TEST_VALGRIND"));
        let program = PathBuf::from(given("ORCHESTRATOR_TEST_POLICIES_INSTRUCTIONS"));

        let instructions = valgrind.a_call::<&str>(&program, &[], 5_000).unwrap();

        assert!(
            instructions <= INSTRUCTIONS_MAX,
            "{instructions} instructions a call, at most {INSTRUCTIONS_MAX} are allowed"
        );
        // Fewer would mean that it is not the stack that is called.
        assert!(instructions >= 100.0, "{instructions} instructions a call");
    }
}
