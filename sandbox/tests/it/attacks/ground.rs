//! Processes that begin in the same namespaces, of which they get copies or cannot change
//! what they share.

use super::{
    kernel::{attack, probes},
    *,
};
use crate::support::{ended, eventually, gate, keeper, open_descriptors, pipe, read_until};

use orchestrator_sandbox::{Layer, spawn};

/// Runs `first` until it has said "ready", then `second` to its end, of one confinement.
async fn beside(confinement: &Confinement, first: Spec, second: Spec) -> String {
    let (mut reader, writer) = pipe();
    let (input, go_on) = gate();
    let first = first.descriptor(0, input).descriptor(1, writer);
    let child = spawn(first.confinement(confinement))
        .await
        .expect("it starts");
    read_until(&mut reader, |text| text.contains("ready")).await;
    let said = output(second.confinement(confinement)).await.1;
    drop(go_on);
    ended(&child).await;
    said
}

#[tokio::test]
async fn what_one_has_the_other_does_not_see() {
    let scene = Scene::new();
    let grants = Grants::new()
        .own_processes()
        .scratch(1 << 20)
        .read(&scene.granted)
        .execute_anything();
    let confinement = confined(&grants);
    let first = shell("echo mine > /tmp/file; echo ready; read line");
    let look = "ls /tmp; ls /proc | grep -c '^[0-9]*$'; echo $$; cat /proc/sysvipc/shm";
    let said = beside(&confinement, first, shell(look)).await;
    assert!(!said.contains("file\n"), "{said}");
    assert!(said.contains("\n1\n"), "it is process 1 too: {said}");
    assert!(said.starts_with(['2', '3', '4']), "itself and `ls`: {said}");
}

/// They are in one network, which leads nowhere, and have no sockets to use it by.
#[tokio::test]
async fn no_socket_leads_from_one_to_the_other() {
    let probes = probes();
    let confinement = confined(&Grants::new());
    for name in ["tcp", "udp", "unix", "netlink"] {
        let said = attack(&probes, Some(&confinement), name, "").await.1;
        assert!(said.starts_with("refused"), "{name}: {said}");
    }
}

/// As root the kernel counts by another limit, which is of each namespace too.
#[tokio::test]
async fn each_has_its_own_number_of_processes() {
    let limits = Limits {
        processes: Some(24),
        ..Limits::default()
    };
    let confinement = confined(&Grants::new().execute_anything());
    let many = "pids=; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do \
                sleep 60 >/dev/null & pids=\"$pids $!\"; done; echo ready; ";
    let first = shell(&format!("{many} read line; kill $pids"));
    let second = shell(&format!("{many} kill $pids; wait; echo well"));
    let (first, second) = (first.limits(limits.clone()), second.limits(limits));
    let said = beside(&confinement, first, second).await;
    assert!(said.ends_with("well\n") && !said.contains("fork"), "{said}");
}

/// What a file or root would give by being executed is given up for good, also where there
/// is no user namespace.
#[tokio::test]
async fn the_filters_alone_leave_no_capability() {
    let grants = Grants::new().execute_anything();
    let filters = Confinement::new(&grants, Layers::FILTERS, Layers::FILTERS);
    // Told as words of 32 capabilities: effective, permitted, inheritable.
    let program = c_program(
        "#include <stdio.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         int main() { unsigned head[2] = {0x20080522, 0}, data[6] = {1, 1, 1, 1, 1, 1};\n\
         long failed = syscall(SYS_capget, head, data); printf(\"%ld\", failed);\n\
         for (int i = 0; i < 6; i++) printf(\" %x\", data[i]); return 0; }",
    );
    let spec = Spec::new(&program, "it");
    let said = output(spec.confinement(&filters.expect("this host has filters")));
    assert_eq!(said.await.1, "0 0 0 0 0 0 0");
}

#[tokio::test]
async fn nothing_stays_of_a_ground() {
    let opened = |confinement: Confinement| async move {
        let spec = || shell("true").confinement(&confinement);
        for _ in 0..3 {
            ended(&spawn(spec()).await.expect("it starts")).await;
        }
    };
    opened(confined(&Grants::new())).await;
    let before = open_descriptors();
    for _ in 0..60 {
        opened(confined(&Grants::new())).await;
    }
    // Other tests run beside this one, and have some open.
    assert!(open_descriptors() < before + 50);
}

/// Nobody but those that the host knows is ever a child of the keeper.
#[tokio::test]
async fn a_process_is_the_keeper_s_child() {
    let (mut reader, writer) = pipe();
    let (input, go_on) = gate();
    let spec = shell("echo ready; read line").descriptor(0, input);
    let confinement = confined(&Grants::new());
    assert!(confinement.report().in_force().contains(Layer::Root));
    let child = spawn(spec.descriptor(1, writer).confinement(&confinement))
        .await
        .expect("it starts");
    read_until(&mut reader, |text| text.contains("ready")).await;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid())).expect("it runs");
    let parent = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(1));
    assert_eq!(parent, Some(keeper().to_string().as_str()), "{stat}");
    drop(go_on);
    ended(&child).await;
    let pid = child.pid();
    let is_gone = || !std::path::Path::new(&format!("/proc/{pid}")).exists();
    eventually("its zombie is taken away", is_gone).await;
}
