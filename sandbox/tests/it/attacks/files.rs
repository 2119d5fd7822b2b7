//! Files outside of what was granted.

use super::{
    kernel::{attack, probes},
    *,
};

#[tokio::test]
async fn a_file_outside_has_no_path() {
    let scene = Scene::new();
    let secret = scene.secret_file();
    std::os::unix::fs::symlink(&secret, scene.granted.join("link")).expect("a link");
    let granted = scene.granted.display();
    let ways = [
        secret.clone(),
        format!("{granted}/../granted-not/file"),
        format!("{granted}/link"),
        format!("/proc/self/root{secret}"),
        format!("/proc/1/root{secret}"),
        format!("/proc/{}/root{secret}", std::process::id()),
        format!("/proc/{}/cwd{secret}", std::process::id()),
    ];
    let grants = Grants::new().own_processes().write(&scene.granted);
    let probes = probes();
    let confinement = confined(&grants);
    assert_eq!(attack(&probes, None, "read", &secret).await.1, "open\n");
    for way in &ways {
        for name in [
            "read", "write", "truncate", "stat", "chmod", "utimes", "unlink", "inotify", "handle",
        ] {
            let said = attack(&probes, Some(&confinement), name, way).await.1;
            let is_link = name == "unlink" && way.ends_with("/link");
            assert_eq!(
                said.starts_with("refused"),
                !is_link,
                "{name} {way}: {said}"
            );
        }
        let back = scene.granted.join("link");
        if !back.is_symlink() {
            std::os::unix::fs::symlink(&secret, back).expect("a link");
        }
    }
    assert_eq!(
        std::fs::read_to_string(&secret).expect("it is there"),
        "secret"
    );
    assert_eq!(
        attack(&probes, Some(&confinement), "read", &scene.granted_file())
            .await
            .1,
        "open\n"
    );
}

#[tokio::test]
async fn reading_is_not_writing() {
    let scene = Scene::new();
    let (file, new) = (
        scene.granted_file(),
        scene.granted.join("new").display().to_string(),
    );
    let probes = probes();
    let reads = confined(&Grants::new().read(&scene.granted));
    let changes = [
        ("write", &file),
        ("truncate", &file),
        ("chmod", &file),
        ("utimes", &file),
        ("create", &new),
        ("unlink", &file),
    ];
    assert_eq!(
        attack(&probes, Some(&reads), "read", &file).await.1,
        "open\n"
    );
    for (name, path) in changes {
        let said = attack(&probes, Some(&reads), name, path).await.1;
        assert!(said.starts_with("refused"), "{name}: {said}");
    }
    let writes = confined(&Grants::new().write(&scene.granted));
    for (name, path) in changes {
        assert_eq!(
            attack(&probes, Some(&writes), name, path).await.1,
            "open\n",
            "{name}"
        );
    }
    for name in ["mkfifo", "mknod", "bind_path"] {
        let path = scene.granted.join(name).display().to_string();
        let said = attack(&probes, Some(&writes), name, &path).await.1;
        assert!(said.starts_with("refused"), "{name}: {said}");
    }
}

/// Outside, the file would run as the host's user.
#[tokio::test]
async fn nothing_is_made_that_runs_as_its_owner() {
    let scene = Scene::new();
    let (file, directory) = (scene.granted_file(), scene.granted.display().to_string());
    let writes = confined(&Grants::new().write(&scene.granted));
    let probes = probes();
    for (name, path) in [
        ("chmod_setuid", file.clone()),
        ("fchmod_setgid", file),
        ("create_setuid", format!("{directory}/created")),
        ("nameless_setuid", directory.clone()),
        ("creat_setuid", format!("{directory}/creat")),
        ("openat2", format!("{directory}/openat2")),
    ] {
        let open = attack(&probes, None, name, &path).await.1;
        assert_eq!(open, "open\n", "{name}");
        let said = attack(&probes, Some(&writes), name, &path).await.1;
        assert!(said.starts_with("refused"), "{name}: {said}");
    }
}

/// A device is written to, and stays what it is for everybody else.
#[tokio::test]
async fn devices_keep_their_mode_and_times() {
    let scene = Scene::new();
    let writes = confined(&Grants::new().write(&scene.granted));
    let probes = probes();
    for (name, is_open) in [("write", true), ("chmod", false), ("utimes", false)] {
        let said = attack(&probes, Some(&writes), name, "/dev/full").await.1;
        assert_eq!(said == "open\n", is_open, "{name}: {said}");
    }
}

/// What is counted by user or stands in the way of others.
#[tokio::test]
async fn nobody_else_is_kept_from_a_file() {
    let scene = Scene::new();
    let reads = confined(&Grants::new().read(&scene.granted));
    let probes = probes();
    for name in ["lease", "notify"] {
        let path = scene.granted_file();
        assert_eq!(attack(&probes, None, name, &path).await.1, "open\n");
        let said = attack(&probes, Some(&reads), name, &path).await.1;
        assert!(said.starts_with("refused"), "{name}: {said}");
    }
}

/// Landlock and the filter alone, where a host has no namespaces: what they miss is what
/// can be seen of a file without opening it.
#[tokio::test]
async fn the_filters_alone_keep_files_closed() {
    let scene = Scene::new();
    // A filter sees no path, so nobody may change metadata.
    let grants = Grants::new().write(&scene.granted);
    let filters =
        Confinement::new(&grants, Layers::FILTERS, Layers::FILTERS).expect("this host has filters");
    let probes = probes();
    for name in [
        "read", "write", "truncate", "chmod", "utimes", "unlink", "handle",
    ] {
        let said = attack(&probes, Some(&filters), name, &scene.secret_file())
            .await
            .1;
        assert!(said.starts_with("refused"), "{name}: {said}");
    }
    assert_eq!(
        attack(&probes, Some(&filters), "read", &scene.granted_file())
            .await
            .1,
        "open\n"
    );
}

#[tokio::test]
async fn no_link_leads_out() {
    let scene = Scene::new();
    let (granted, secret) = (scene.granted.display(), scene.secret_file());
    let text = format!(
        "ln {secret} {granted}/hard; ln -s {secret} {granted}/soft; cat {granted}/soft; \
         mv {granted}/file {}/moved; ls {}; true",
        scene.secret.display(),
        scene.secret.display()
    );
    let said = script(Grants::new().write(&scene.granted), &text).await;
    assert!(
        !said.contains("secret\n") && !scene.secret.join("moved").exists(),
        "{said}"
    );
    assert!(!scene.granted.join("hard").exists());
}

/// What is granted is what was there then.
#[tokio::test]
async fn a_path_that_leads_elsewhere_now_is_not_granted() {
    let scene = Scene::new();
    let link = scene.granted.join("to");
    std::os::unix::fs::symlink(scene.granted.join("file"), &link).expect("a link");
    let confinement = confined(&Grants::new().read(&link));
    std::fs::remove_file(&link).expect("it is ours");
    std::os::unix::fs::symlink(scene.secret_file(), &link).expect("a link");
    let probes = probes();
    let link = link.display().to_string();
    assert_eq!(
        attack(&probes, Some(&confinement), "read", &link).await.1,
        "open\n"
    );
    let cat = Spec::new(&program("/bin/cat"), "cat").argument(&link);
    assert_eq!(output(cat.confinement(&confinement)).await.1, "public");

    std::fs::rename(scene.secret.join("file"), scene.granted.join("file")).expect("ours");
    let error = orchestrator_sandbox::spawn(Spec::new(&probes, "it").confinement(&confinement))
        .await
        .expect_err("another file is there");
    assert!(error.to_string().contains("private root"), "{error}");
}

#[tokio::test]
async fn what_was_written_is_not_executed() {
    let scene = Scene::new();
    let copy = scene.granted.join("copy");
    std::fs::copy("/bin/true", &copy).expect("a copy");
    let run = format!("{} && echo executed", copy.display());
    assert!(
        !script(Grants::new().write(&scene.granted), &run)
            .await
            .contains("executed")
    );
    let both = Grants::new().write(&scene.granted).execute(&scene.granted);
    assert!(script(both, &run).await.contains("executed"));
}

/// Of grants that lie in each other the weaker takes nothing away.
#[tokio::test]
async fn grants_in_each_other_add_up() {
    let scene = Scene::new();
    let inner = scene.granted.join("inner");
    std::fs::create_dir(&inner).expect("a directory");
    std::fs::write(inner.join("file"), "x").expect("a file");
    let [inner_file, outer_file] =
        [&inner, &scene.granted].map(|directory| directory.join("file").display().to_string());
    let probes = probes();
    for (grants, outer_is_written) in [
        (Grants::new().write(&scene.granted).read(&inner), true),
        (Grants::new().read(&inner).write(&scene.granted), true),
        (Grants::new().read(&scene.granted).write(&inner), false),
        (
            Grants::new()
                .write(&inner)
                .read(&scene.granted)
                .read(&inner),
            false,
        ),
    ] {
        let confinement = confined(&grants);
        for name in ["write", "chmod"] {
            let said = attack(&probes, Some(&confinement), name, &inner_file)
                .await
                .1;
            assert_eq!(said, "open\n", "{name} {grants:?}");
            let said = attack(&probes, Some(&confinement), name, &outer_file)
                .await
                .1;
            assert_eq!(
                said.starts_with("open"),
                outer_is_written,
                "{name} {grants:?}"
            );
        }
    }
}
