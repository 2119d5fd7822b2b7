//! What a process and everything that it starts may use together, and what holds them
//! to that.

/// What a process and everything that it starts may use together. `None` is not
/// bounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupLimits {
    /// Memory in bytes, that of the kernel and of files that were read or written
    /// included; the latter is taken back first. Of those that want more, one is killed.
    pub memory_bytes: Option<u64>,
    /// Processes and threads. No more are made.
    pub tasks: Option<u64>,
    /// Processor time in hundredths of one core. Whoever wants more waits.
    pub cpu_percent: Option<u64>,
}

impl GroupLimits {
    /// Whether nothing is bounded.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a group has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupUsage {
    /// Memory in bytes that the kernel cannot take back at once; `None` where the group
    /// does not count it.
    pub memory_bytes: Option<u64>,
    /// In how many periods the processor was kept from it; `None` where nothing keeps it.
    pub throttled: Option<u64>,
}

/// Which of the [`GroupLimits`] the control groups of this host hold: for each the
/// version of their interface, 1 or 2, or `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupReport {
    /// Memory.
    pub memory: Option<u8>,
    /// Processes and threads.
    pub tasks: Option<u8>,
    /// Processor time.
    pub cpu: Option<u8>,
    /// Why one of them is `None`; empty when none is.
    pub reason: String,
}

impl GroupReport {
    /// What to change on a host whose control groups do not hold everything.
    pub const HELP: &str = "let the host's user make control groups: as a service of systemd with \
        `Delegate=yes` and `DelegateSubgroup=host`; in a container, mount /sys/fs/cgroup so that \
        it can be written";
}
