//! A list of grants, opened and checked against what this host can enforce.

use std::{
    ffi::{CStr, c_int},
    io,
    net::TcpListener,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use libc::sock_filter;
use rustix::{
    io::Errno,
    process::{getegid, geteuid},
    rand::{GetRandomFlags, getrandom},
};

use super::{
    gateway::Handover,
    granted::{Expected, Granted, System, open_all},
    ground::{Ground, Laying},
    image::Image,
    keeper::{Keeper, Unstarted},
    landlock,
    namespaces::highest_id,
    observe::Observer,
    probe::{Host, NOT_ASKED},
    root::{OwnMounts, Root},
    seccomp::{self, Filters, Rules, Start},
};
use crate::{
    ConfinementError, Grants, Layer, Layers, Limits, Network, SandboxReport,
    confinement::{Absent, Access, Execution},
};

/// The user and group of a confined process as it sees itself.
const NOBODY: u32 = 65_534;

/// [`Grants`] that were opened, and the layers that hold a process to them. Cheap to
/// clone, and good for any number of processes.
///
/// A path that is granted is what was there when this was made: links are followed
/// once, and what takes its place later is not granted.
#[derive(Clone, Debug)]
pub struct Confinement(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    granted: Vec<Arc<Granted>>,
    system: Arc<System>,
    filters: Filters,
    network: Network,
    observed: bool,
    processes: Option<&'static CStr>,
    scratch_bytes: Option<u64>,
    landlock: u32,
    report: SandboxReport,
    /// Made for the first process, and anew when what is granted to everybody has changed.
    ground: Mutex<Option<Arc<Ground>>>,
}

impl Confinement {
    /// Opens what was granted and looks at the host, which the first time starts a few
    /// processes that end at once. Blocks for some milliseconds; must not be called
    /// where a runtime may not be held up.
    ///
    /// Of the layers in `wanted` all that the host can give are put in force, and those
    /// in `minimum` too. A network namespace is not wanted where the network is granted, and
    /// needed where a gateway is.
    ///
    /// # Errors
    ///
    /// When a path cannot be granted, and when the host cannot give a layer of
    /// `minimum`. Nothing is ever confined less than that.
    pub fn new(grants: &Grants, minimum: Layers, wanted: Layers) -> Result<Self, ConfinementError> {
        let host = Host::probe();
        let mut report = SandboxReport::default();
        for layer in Layer::ALL {
            let moot = layer == Layer::Network && grants.network == Network::Unrestricted;
            let sees_paths = matches!(layer, Layer::Landlock | Layer::Root);
            let is_needed = minimum.contains(layer) || needs(grants, layer);
            let is_wanted =
                is_needed || (wanted.contains(layer) && !(grants.observed && sees_paths));
            // Everything else that is a namespace needs the first.
            let below = match layer {
                Layer::Network | Layer::Root => report.in_force.contains(Layer::Processes),
                _ => true,
            };
            let absent = match host.absent(layer) {
                _ if moot => Absent {
                    layer,
                    reason: "the network was granted".to_owned(),
                    help: "",
                },
                Some(absent) => absent.clone(),
                None if is_wanted && below => {
                    report.in_force = report.in_force.with(layer);
                    continue;
                }
                None => Absent {
                    layer,
                    reason: NOT_ASKED.to_owned(),
                    help: "",
                },
            };
            if is_needed && !moot {
                return Err(ConfinementError::Layer {
                    layer,
                    reason: absent.reason,
                    help: absent.help,
                });
            }
            report.absent.push(absent);
        }
        Self::with(grants, host.landlock(), report)
    }

    /// With exactly the layers of `report`, whether the host has them or not.
    pub(super) fn with(
        grants: &Grants,
        landlock: u32,
        report: SandboxReport,
    ) -> Result<Self, ConfinementError> {
        // A filter sees no path: without a private root the files of others have one.
        let is_granted = |(_, access): &(_, Access)| *access == Access::Write;
        let writes = report.in_force.contains(Layer::Root)
            && (grants.scratch_bytes.is_some() || grants.paths.iter().any(is_granted));
        Ok(Self(Arc::new(Inner {
            observed: grants.observed,
            granted: open_all(&grants.paths)?,
            system: System::of(grants.execution, grants.network)?,
            filters: Filters::new(Rules {
                execution: match grants.execution {
                    _ if grants.observed => seccomp::Execution::Anything,
                    Execution::Nothing => seccomp::Execution::Nothing,
                    Execution::Files => seccomp::Execution::Files,
                    Execution::Anything => seccomp::Execution::Anything,
                },
                // In a network namespace there is no way out anyhow, and what is tried is seen.
                network: match grants.observed {
                    true => Network::Unrestricted,
                    false => grants.network,
                },
                writes: writes || grants.observed,
                system_information: grants.system_information || grants.observed,
                observed: grants.observed,
            }),
            network: grants.network,
            processes: match (grants.system_information, grants.own_processes) {
                (true, _) => Some(c"hidepid=invisible"),
                (false, true) => Some(c"hidepid=invisible,subset=pid"),
                (false, false) => None,
            },
            scratch_bytes: grants.scratch_bytes,
            landlock,
            report,
            ground: Mutex::default(),
        })))
    }

    /// Which layers are in force, and why others are not.
    pub fn report(&self) -> &SandboxReport {
        &self.0.report
    }

    /// What has to be made anew for each process.
    pub(super) fn prepare(&self, image: &Image) -> io::Result<Prepared> {
        let inner = &*self.0;
        let has = |layer| inner.report.in_force.contains(layer);
        let anything = inner.filters.rules.execution == seccomp::Execution::Anything;
        let mut granted = inner.system.now().map_err(io::Error::other)?;
        granted.extend(inner.granted.iter().cloned());
        let ruleset = || {
            let granted = &granted;
            let image = image.as_fd();
            landlock::ruleset(inner.landlock, inner.network, granted, image, anything)
        };
        let mut token = [0; 8];
        // As few bytes as these come whole.
        getrandom(&mut token, GetRandomFlags::empty())?;
        Ok(Prepared {
            confinement: self.clone(),
            ruleset: has(Layer::Landlock).then(ruleset).transpose()?,
            handover: (inner.network == Network::Gateway || inner.observed)
                .then(Handover::new)
                .transpose()?,
            granted,
            ground: None,
            token: u64::from_ne_bytes(token),
        })
    }
}

/// The confinement of one process that is to start.
pub(super) struct Prepared {
    confinement: Confinement,
    granted: Vec<Arc<Granted>>,
    ruleset: Option<OwnedFd>,
    handover: Option<Handover>,
    ground: Option<Arc<Ground>>,
    token: u64,
}

/// What a new process has handed to the host.
#[derive(Default)]
pub(super) struct Handed {
    pub(super) gateway: Option<TcpListener>,
    pub(super) observer: Option<Observer>,
}

/// What the new process does to itself, in the words of system calls.
pub(super) struct Confining {
    /// Flags of `clone`.
    pub(super) namespaces: c_int,
    pub(super) maps: Option<Maps>,
    /// That of processes in the namespace, where it can be bounded.
    pub(super) highest_id: Option<String>,
    /// Those of the process in its private root.
    pub(super) mounts: Option<OwnMounts>,
    /// The number of what the host is handed something with.
    pub(super) handover: Option<RawFd>,
    pub(super) has_gateway: bool,
    pub(super) is_observed: bool,
    /// The number of the rules of landlock until the image is executed.
    pub(super) ruleset: Option<RawFd>,
    pub(super) filter: Option<Vec<sock_filter>>,
    pub(super) token: u64,
}

impl Prepared {
    /// Sees to it that there is a ground for the process, where it needs one.
    pub(super) fn lay_ground(&mut self, keeper: &Keeper) -> Result<(), Unstarted> {
        let inner = &*self.confinement.0;
        let shared = inner.namespaces(true);
        if shared == 0 {
            return Ok(());
        }
        let mut last = inner.ground.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = last.take_if(|ground| ground.is_for(&self.granted));
        let ground = match fits {
            Some(ground) => ground,
            None => {
                let (has_processes, has_scratch) =
                    (inner.processes.is_some(), inner.scratch_bytes.is_some());
                let has_root = inner.report.in_force.contains(Layer::Root);
                let root = || Root::new(&self.granted, has_processes, has_scratch);
                let laying = Laying::new(shared, has_root.then(root));
                let ground = Arc::new(Ground::new(keeper, laying, &self.granted)?);
                let mut all = ON_GROUND.lock().unwrap_or_else(PoisonError::into_inner);
                all.retain(|other| other.strong_count() > 0);
                all.push(Arc::downgrade(&self.confinement.0));
                ground
            }
        };
        *last = Some(Arc::clone(&ground));
        self.ground = Some(ground);
        Ok(())
    }

    /// Whether the process gets namespaces of its own.
    pub(super) fn has_namespaces(&self) -> bool {
        self.confinement
            .0
            .report
            .in_force
            .contains(Layer::Processes)
    }

    /// What has to be where it was when it was granted, though a ground has it in any case:
    /// what a program writes to something that was removed nobody would find.
    pub(super) fn expected(&self) -> impl Iterator<Item = Expected> {
        let inner = &*self.confinement.0;
        let has_root = inner.report.in_force.contains(Layer::Root);
        let granted = inner.granted.iter().filter(move |_| has_root);
        granted.filter_map(|granted| granted.expected())
    }

    /// What the process begins in.
    pub(super) fn ground(&self) -> Option<&Ground> {
        self.ground.as_deref()
    }

    /// What the new process needs besides its image, and the program does not get.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ruleset = self.ruleset.as_ref().map(AsFd::as_fd);
        let handover = self.handover.as_ref().map(Handover::theirs);
        ruleset.into_iter().chain(handover)
    }

    /// What the process has handed over before its image was executed.
    pub(super) fn handed_over(&self) -> Result<Handed, Errno> {
        let Some(handover) = &self.handover else {
            return Ok(Handed::default());
        };
        let inner = &self.confinement.0;
        // In the order in which the process sends them.
        let gateway = (inner.network == Network::Gateway).then(|| handover.receive());
        let gateway = gateway.transpose()?.map(TcpListener::from);
        let calls = inner.observed.then(|| handover.receive()).transpose()?;
        Ok(Handed {
            gateway,
            observer: calls.map(|calls| Observer {
                calls,
                granted: self.granted.clone(),
                has_scratch: inner.scratch_bytes.is_some(),
            }),
        })
    }

    /// For a process that has its image under this number, and its other [descriptors]
    /// under the next ones.
    ///
    /// [descriptors]: Self::descriptors
    pub(super) fn confining(&self, image: RawFd, limits: &Limits) -> Confining {
        let inner = &*self.confinement.0;
        let layers = inner.report.in_force;
        let start = Start {
            image: image.unsigned_abs(),
            token: self.token,
            memory_files: limits.data_bytes.is_none() || inner.observed,
        };
        let mounts = || OwnMounts::new(&self.granted, inner.processes, inner.scratch_bytes);
        let maps = || match &self.ground {
            Some(_) => Maps::of_ground(),
            None => Maps::of_host(),
        };
        let filter = || inner.filters.of(start);
        let processes = limits
            .processes
            .filter(|_| layers.contains(Layer::Processes));
        let mut numbers = image + 1..;
        Confining {
            namespaces: inner.namespaces(false),
            ruleset: self.ruleset.as_ref().and_then(|_| numbers.next()),
            handover: self.handover.as_ref().and_then(|_| numbers.next()),
            has_gateway: inner.network == Network::Gateway,
            is_observed: inner.observed,
            highest_id: processes.and_then(highest_id),
            maps: layers.contains(Layer::Processes).then(maps),
            mounts: layers.contains(Layer::Root).then(mounts),
            filter: layers.contains(Layer::Seccomp).then(filter),
            token: self.token,
        }
    }
}

/// Who the user and group outside are in a new user namespace.
pub(super) struct Maps {
    pub(super) user: String,
    pub(super) group: String,
}

impl Maps {
    /// In one that is directly below the host's.
    pub(super) fn of_host() -> Self {
        Self::of(geteuid().as_raw(), getegid().as_raw())
    }

    /// In one that is below that of a ground.
    fn of_ground() -> Self {
        Self::of(NOBODY, NOBODY)
    }

    fn of(user: u32, group: u32) -> Self {
        Self {
            user: format!("{NOBODY} {user} 1"),
            group: format!("{NOBODY} {group} 1"),
        }
    }
}

/// Without these, a process that is to have a gateway would have a way around it, and one
/// that is to be observed would not be seen.
fn needs(grants: &Grants, layer: Layer) -> bool {
    match layer {
        Layer::Processes | Layer::Network => grants.network == Network::Gateway,
        Layer::Seccomp => grants.observed,
        _ => false,
    }
}

impl Inner {
    /// The namespaces that processes begin in, with the one that owns them, or those that
    /// each has for itself, as flags of `clone`.
    fn namespaces(&self, shared: bool) -> c_int {
        let layers = self.report.in_force;
        let has = |layer, flags| if layers.contains(layer) { flags } else { 0 };
        let network = has(Layer::Network, libc::CLONE_NEWNET);
        let mounts = has(Layer::Root, libc::CLONE_NEWNS);
        // What listens at the gateway is the process's. Who has sockets would meet others.
        let meets_nobody = layers.contains(Layer::Seccomp) && !self.observed;
        let shares = self.network != Network::Gateway && meets_nobody;
        let (network_of_all, network_of_each) = if shares { (network, 0) } else { (0, network) };
        if shared {
            return match mounts | network_of_all {
                0 => 0,
                shared => shared | libc::CLONE_NEWUSER,
            };
        }
        let own =
            libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        has(Layer::Processes, own) | mounts | network_of_each
    }
}

/// Those that have a ground, or had one.
static ON_GROUND: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// Has every confinement lay its ground anew: it shows what was mounted then.
pub(super) fn give_up_grounds() {
    let mut all = ON_GROUND.lock().unwrap_or_else(PoisonError::into_inner);
    for confinement in all.drain(..).filter_map(|one| one.upgrade()) {
        let mut ground = confinement
            .ground
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ground.take();
    }
}
