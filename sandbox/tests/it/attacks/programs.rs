//! Other programs, and what a program inherits.

use super::{
    kernel::{attack, probes},
    *,
};

#[tokio::test]
async fn only_granted_programs_run() {
    let text = "/bin/true && echo ran true; /bin/cat /dev/null && echo ran cat; exit 0";
    let confinement = |grants| confined(&grants);
    let said = output(shell(text).confinement(&confinement(Grants::new())))
        .await
        .1;
    assert!(!said.contains("ran"), "{said}");
    let one = Grants::new().execute("/bin/true");
    let said = output(shell(text).confinement(&confinement(one))).await.1;
    assert!(
        said.contains("ran true") && !said.contains("ran cat"),
        "{said}"
    );
    let said = output(shell(text).confinement(&confinement(Grants::new().execute_anything())))
        .await
        .1;
    assert!(
        said.contains("ran true") && said.contains("ran cat"),
        "{said}"
    );
}

/// What a program starts is confined as it is.
#[tokio::test]
async fn confinement_is_inherited() {
    let scene = Scene::new();
    let text = format!("sh -c 'cat {}'; id -u; echo $$", scene.secret_file());
    let said = script(Grants::new().read(&scene.granted), &text).await;
    assert!(!said.contains("secret\n"), "{said}");
    assert!(said.contains("65534\n1\n"), "nobody, and process 1: {said}");
}

#[tokio::test]
async fn nothing_of_the_host_is_inherited() {
    let grants = Grants::new().own_processes();
    let text = "env | grep -v -e ^PWD= -e ^PATH= -e ^_= -e ^SHLVL= -e ^OLDPWD=; ls /proc/$$/fd; \
                grep -e ^CapPrm -e ^CapEff -e ^NoNewPrivs -e ^Seccomp: /proc/$$/status; \
                ls /proc | grep -c '^[0-9]'";
    let said = script(grants, text).await;
    let none = "0000000000000000";
    assert!(said.starts_with("0\n1\n2\n"), "{said}");
    assert!(
        said.contains(&format!("CapPrm:\t{none}\nCapEff:\t{none}")),
        "{said}"
    );
    assert!(said.contains("NoNewPrivs:\t1\nSeccomp:\t2\n"), "{said}");
    let processes: u32 = said
        .trim()
        .lines()
        .last()
        .expect("a number")
        .parse()
        .expect("one");
    assert!(processes < 6, "{said}");
}

#[tokio::test]
async fn python_works_and_gets_nowhere() {
    let Some(python) = python() else {
        return;
    };
    let scene = Scene::new();
    let text = format!(
        "import os, json, threading, hashlib\n\
         t = threading.Thread(target=lambda: print(open({:?}).read())); t.start(); t.join()\n\
         for name, attack in dict(read=lambda: open({:?}), fork=os.fork,\n\
             socket=lambda: __import__('socket').socket(), kill=lambda: os.kill({}, 0),\n\
             run=lambda: os.execv('/bin/true', ['true'])).items():\n\
         \x20 try: attack(); print(name, 'open')\n\
         \x20 except OSError: pass\n\
         print('done')",
        scene.granted_file(),
        scene.secret_file(),
        std::process::id(),
    );
    let spec = Spec::new(&python, "python3").arguments(["-I", "-c", &text]);
    let bare = Grants::new().read(&scene.granted).read("/usr");
    let (status, said) = output(spec.confinement(&confined(&bare))).await;
    assert_eq!((status, &*said), (ExitStatus::Exited(0), "public\ndone\n"));
}

#[tokio::test]
async fn a_script_is_read_by_its_descriptor() {
    let source = sealed("script", "echo ran $1");
    let reader = source.reader().expect("a descriptor");
    let sh = Spec::new(&program("/bin/sh"), "sh").arguments(["/proc/self/fd/9", "well"]);
    let spec = sh.descriptor(9, reader);
    let grants = Grants::new().own_processes();
    assert_eq!(
        output(spec.confinement(&confined(&grants))).await.1,
        "ran well\n"
    );
    // Without a private root `/proc` is the host's, and only this of it is seen.
    let filters = Confinement::new(&Grants::new(), Layers::FILTERS, Layers::FILTERS);
    let reader = source.reader().expect("a descriptor");
    let sh = Spec::new(&program("/bin/sh"), "sh").arguments(["/proc/self/fd/9", "well"]);
    let spec = sh.descriptor(9, reader);
    let filters = filters.expect("this host has filters");
    assert_eq!(output(spec.confinement(&filters)).await.1, "ran well\n");
}

/// Everything below process 1 of a namespace ends with it.
#[tokio::test]
async fn nothing_outlives_the_process() {
    let text = "(setsid sleep 600 &) ; echo started";
    assert_eq!(script(Grants::new(), text).await, "started\n");
    // Stdout is the descendant's too, so it is closed only when that is gone.
}

#[tokio::test]
async fn a_process_without_a_layer_does_not_start() {
    let none = Confinement::new(&Grants::new(), Layers::NONE, Layers::NONE).expect("nothing");
    assert_eq!(none.report().in_force(), Layers::NONE);
    assert_eq!(none.report().absent().len(), 5);
    let host = probe();
    assert_eq!(host.in_force(), Layers::ALL, "{host}");
    let probes = probes();
    assert_eq!(attack(&probes, Some(&none), "tcp", "").await.1, "open\n");
}

#[tokio::test]
async fn grants_that_cannot_be_are_refused() {
    let new = |grants: Grants| Confinement::new(&grants, Layers::ALL, Layers::ALL);
    for path in [
        "relative",
        "/",
        "/tmp/../etc",
        "/proc/1/environ",
        "/nowhere/at/all",
    ] {
        assert!(new(Grants::new().read(path)).is_err(), "{path}");
    }
    let many = (0..200).fold(Grants::new(), |grants, _| grants.read("/usr"));
    assert!(new(many).is_err());
}

/// Each layer stands alone: here landlock is not there to refuse it.
#[tokio::test]
async fn nothing_is_written_to_the_kernel() {
    let layers = Layers::ALL.without(orchestrator_sandbox::Layer::Landlock);
    let grants = Grants::new().system_information().execute_anything();
    let confinement = Confinement::new(&grants, layers, layers).expect("this host has them");
    let text = "echo in | cat /dev/stdin; cat /proc/uptime > /dev/null && echo read; \
                echo name > /proc/self/comm && echo written; \
                echo 0 > /proc/sys/vm/drop_caches && echo written; exit 0";
    let said = output(shell(text).confinement(&confinement)).await.1;
    assert!(
        said.starts_with("in\nread\n") && !said.contains("written"),
        "{said}"
    );
}
