//! What reaches beyond the process by a system call.

use super::*;

/// Those that an ordinary kernel allows root to do, and those that need no rights. They are
/// tried without confinement too, so none may change anything outside its process.
const ATTACKS: &[&str] = &[
    "tcp",
    "tcp6",
    "udp",
    "unix",
    "netlink",
    "every_family",
    "raw",
    "packet",
    "io_uring",
    "ptrace",
    "traceme",
    "vm_read",
    "getfd",
    "signal",
    "prlimit",
    "affinity",
    "priority",
    "keyctl",
    "add_key",
    "bpf",
    "shm",
    "personality",
    "sysinfo",
    "unshare",
    "clone_namespace",
    "clone3",
    "fork",
    "mount",
    "chroot",
    "setns",
    "injection",
    "reexec",
    "memfd_exec",
    "linger",
    "x32",
];
/// What a kernel may be built without, or nothing but luck would allow.
const MORE_ATTACKS: &[&str] = &[
    "mptcp",
    "vsock",
    "kcmp",
    "perf",
    "userfaultfd",
    "mq",
    "int80",
    "fast_open",
    "guessed_token",
];

pub(super) fn probes() -> Image {
    c_program(include_str!("probes.c"))
}

/// What the probe `name` against `target` says.
pub(super) async fn attack(
    probes: &Image,
    confinement: Option<&Confinement>,
    name: &str,
    target: &str,
) -> (ExitStatus, String) {
    let spec = Spec::new(probes, "it").arguments([name, target]);
    match confinement {
        Some(confinement) => output(spec.confinement(confinement)).await,
        None => output(spec).await,
    }
}

#[tokio::test]
async fn no_call_reaches_beyond_the_process() {
    let probes = probes();
    let nothing = confined(&Grants::new().own_processes());
    let host = std::process::id().to_string();
    let is_root = std::fs::metadata("/proc/self").expect("/proc").uid() == 0;
    // By landlock's scope of signals, which is there without confinement.
    let never = ["ptrace", "vm_read", "signal", "getfd", "x32"];
    for name in ATTACKS.iter().chain(MORE_ATTACKS) {
        let (status, said) = attack(&probes, Some(&nothing), name, &host).await;
        let killed = matches!(status, ExitStatus::Signaled { signal: 31, .. });
        assert!(
            killed || said.starts_with("refused"),
            "{name}: {status:?} {said}"
        );
        if is_root && ATTACKS.contains(name) && !never.contains(name) {
            let (_, said) = attack(&probes, None, name, &host).await;
            assert!(said.contains("open"), "no attack at all: {name}: {said}");
        }
    }
}

/// The filter alone, where a host has no namespaces.
#[tokio::test]
async fn the_filters_alone_refuse_every_call() {
    let probes = probes();
    let filters = Confinement::new(&Grants::new(), Layers::FILTERS, Layers::FILTERS)
        .expect("this host has filters");
    assert_eq!(filters.report().absent().len(), 3);
    let host = std::process::id().to_string();
    for name in ATTACKS.iter().chain(MORE_ATTACKS) {
        let (status, said) = attack(&probes, Some(&filters), name, &host).await;
        let killed = matches!(status, ExitStatus::Signaled { signal: 31, .. });
        assert!(
            killed || said.starts_with("refused"),
            "{name}: {status:?} {said}"
        );
    }
}

#[tokio::test]
async fn what_every_program_needs_works() {
    let probes = probes();
    let nothing = confined(&Grants::new());
    for name in ["thread", "stream_pair", "option"] {
        let (status, said) = attack(&probes, Some(&nothing), name, "").await;
        assert_eq!(
            (status, &*said),
            (ExitStatus::Exited(0), "open\n"),
            "{name}"
        );
    }
}

#[tokio::test]
async fn another_interface_ends_the_process() {
    let probes = probes();
    let nothing = confined(&Grants::new());
    for name in ["int80", "x32"] {
        let (status, _) = attack(&probes, Some(&nothing), name, "").await;
        assert!(
            matches!(status, ExitStatus::Signaled { signal: 31, .. }),
            "{name}: {status:?}"
        );
    }
}

#[tokio::test]
async fn a_grant_opens_what_it_names_and_nothing_else() {
    let probes = probes();
    let online = Grants::new().network(Network::Unrestricted);
    let online = confined(&online);
    for (name, works) in [
        ("tcp", true),
        ("tcp6", true),
        ("udp", true),
        ("mptcp", false),
        ("raw", false),
        ("unix", false),
        ("netlink", false),
        ("packet", false),
        ("fast_open", false),
        ("sysinfo", false),
        ("fork", false),
    ] {
        let (_, said) = attack(&probes, Some(&online), name, "").await;
        assert_eq!(said.starts_with("open"), works, "{name}: {said}");
    }
    let system = confined(&Grants::new().system_information());
    assert_eq!(
        attack(&probes, Some(&system), "sysinfo", "").await.1,
        "open\n"
    );
    let anything = confined(&Grants::new().own_processes().execute_anything());
    for name in ["fork", "reexec", "memfd_exec"] {
        let said = attack(&probes, Some(&anything), name, "").await.1;
        assert!(said.contains("open"), "{name}: {said}");
    }
    let one = confined(&Grants::new().own_processes().execute("/bin/true"));
    assert!(
        attack(&probes, Some(&one), "memfd_exec", "")
            .await
            .1
            .starts_with("refused")
    );
}

/// A pair of sockets is made without a name, but could be connected to one.
#[tokio::test]
async fn a_pair_of_sockets_reaches_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let _listens = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    let path = path.to_str().expect("a path");
    let probes = probes();
    assert_eq!(
        attack(&probes, None, "pair_to_path", path).await.1,
        "open\n"
    );
    let grants = Grants::new().read(directory.path()).write(directory.path());
    let said = attack(&probes, Some(&confined(&grants)), "pair_to_path", path)
        .await
        .1;
    assert!(said.starts_with("refused"), "{said}");
}
