//! What this host can enforce.

use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::{confinement::Confinement, image::Image, landlock::VERSION_MIN, raw, spawner::spawn};
use crate::{Grants, Layer, Layers, SandboxReport, SpawnError, Spec, Step, confinement::Absent};

/// Why a layer is absent that nobody wanted.
pub(super) const NOT_ASKED: &str = "it was not asked for";

/// Which layers this host can put in force, and what to change for the others. The first
/// call starts a few processes that end at once, and blocks for some milliseconds.
pub fn probe() -> SandboxReport {
    Host::probe().report
}

#[derive(Clone)]
pub(super) struct Host {
    landlock: u32,
    report: SandboxReport,
}

impl Host {
    pub(super) fn probe() -> Self {
        static HOST: Mutex<Option<Host>> = Mutex::new(None);

        let mut known = HOST.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = &*known {
            return host.clone();
        }
        let mut host = Self {
            landlock: 0,
            report: SandboxReport::default(),
        };
        let mut lasting = true;
        for layer in Layer::ALL {
            match host.try_layer(layer, &mut lasting) {
                Ok(()) => host.report.in_force = host.report.in_force.with(layer),
                Err(absent) => host.report.absent.push(absent),
            }
        }
        if lasting {
            *known = Some(host.clone());
        }
        host
    }

    /// The version of landlock's interface.
    pub(super) fn landlock(&self) -> u32 {
        self.landlock
    }

    pub(super) fn absent(&self, layer: Layer) -> Option<&Absent> {
        self.report
            .absent
            .iter()
            .find(|absent| absent.layer == layer)
    }

    fn try_layer(&mut self, layer: Layer, lasting: &mut bool) -> Result<(), Absent> {
        let absent = |reason: String, help| Absent {
            layer,
            reason,
            help,
        };
        match layer {
            Layer::Landlock => {
                self.landlock = raw::landlock_version().unwrap_or(0);
                if self.landlock >= VERSION_MIN {
                    return Ok(());
                }
                let reason = format!(
                    "the kernel has version {} of landlock, and version {VERSION_MIN} is the first \
                     that decides about truncating files",
                    self.landlock
                );
                Err(absent(reason, LANDLOCK_HELP))
            }
            Layer::Seccomp => raw::filters_are_taken().map_err(|errno| {
                absent(
                    format!("the kernel takes no filters ({errno})"),
                    SECCOMP_HELP,
                )
            }),
            Layer::Processes | Layer::Network | Layer::Root => {
                let below = self.report.in_force.contains(Layer::Processes);
                if layer != Layer::Processes && !below {
                    let reason = format!("it needs {}", Layer::Processes);
                    return Err(absent(reason, NAMESPACES_HELP));
                }
                let layers = Layers::NONE.with(Layer::Processes).with(layer);
                enter(layers).map_err(|refused| {
                    *lasting &= refused.lasting;
                    absent(
                        refused.reason,
                        if layer == Layer::Root {
                            ROOT_HELP
                        } else {
                            NAMESPACES_HELP
                        },
                    )
                })
            }
        }
    }
}

const LANDLOCK_HELP: &str = "run Linux 6.2 or later, built with CONFIG_SECURITY_LANDLOCK and with `landlock` in the \
     list of the boot parameter `lsm=`; in a container, let its seccomp profile allow landlock";
const SECCOMP_HELP: &str = "run a kernel that is built with CONFIG_SECCOMP_FILTER, 4.14 or later";
const NAMESPACES_HELP: &str = "let the host's user make user namespaces: user.max_user_namespaces above two for each plugin, \
     kernel.unprivileged_userns_clone 1, kernel.apparmor_restrict_unprivileged_userns 0; in a \
     container, let its seccomp profile allow clone with namespaces";
const ROOT_HELP: &str = "let the host's user mount in a user namespace, on a kernel of Linux 5.12 or later, and \
     see to it that /tmp is there; in a container, let its profile allow mount and pivot_root";

struct Refused {
    reason: String,
    /// Whether it would be the same tomorrow.
    lasting: bool,
}

/// Starts something that is no program with `layers` alone. When executing it is what
/// fails, everything before that has worked.
fn enter(layers: Layers) -> Result<(), Refused> {
    let passing = |reason: String| Refused {
        reason,
        lasting: false,
    };
    let report = SandboxReport {
        in_force: layers,
        absent: Vec::new(),
    };
    let confinement = Confinement::with(&Grants::new().own_processes(), 0, report)
        .map_err(|error| passing(error.to_string()))?;
    let nothing = b"no program";
    let image = Image::seal("probe", &nothing[..], nothing.len() as u64)
        .map_err(|error| passing(error.to_string()))?;
    let spec = Spec::new(&image, "probe").confinement(&confinement);
    match spawn(spec).wait() {
        Err(SpawnError::Child {
            step: Step::Exec, ..
        }) => Ok(()),
        Err(SpawnError::Child { step, source, .. }) => Err(Refused {
            reason: format!("{step} failed: {source}"),
            lasting: Errno::from_io_error(&source) != Some(Errno::NOMEM),
        }),
        Err(error) => Err(passing(error.to_string())),
        Ok(_) => Err(passing("what is no program ran".to_owned())),
    }
}
