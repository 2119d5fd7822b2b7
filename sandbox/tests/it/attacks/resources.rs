//! Bombs.

use super::*;

/// Forks until it cannot, or 400 times.
pub(crate) const FORKS: &str = "#include <stdio.h>\n#include <unistd.h>\n\
    int main() { int count = 0; for (; count < 400; count++) { int pid = fork();\n\
    if (pid < 0) break; if (pid == 0) { close(1); close(2); pause(); } }\n\
    printf(\"forked %d\\n\", count); return 0; }";

#[tokio::test]
async fn a_fork_bomb_is_bounded() {
    let limits = || Limits {
        processes: Some(32),
        ..Limits::default()
    };
    let machine = || std::fs::read_to_string("/proc/sys/kernel/pid_max").expect("/proc");
    let before = machine();
    let confinement = confined(&Grants::new().execute_anything());
    let program = c_program(FORKS);
    let bomb = || Spec::new(&program, "it").confinement(&confinement);
    assert!(output(bomb()).await.1.contains("forked 400"), "it is one");
    let said = output(bomb().limits(limits())).await.1;
    assert!(!said.contains("forked 400"), "{said}");
    assert_eq!(machine(), before, "the machine has as many as before");

    let text = "for i in 1 2 3; do sleep 0 & done; wait; echo forked";
    let spec = shell(text).limits(limits()).confinement(&confinement);
    assert_eq!(output(spec).await.1, "forked\n");
    // Ids are used up soon, and given again.
    let text = "i=0; while [ $i -lt 700 ]; do (:); i=$((i+1)); done; (sleep 0) && echo forked";
    let spec = shell(text).limits(limits()).confinement(&confinement);
    assert_eq!(output(spec).await.1, "forked\n");
}

#[tokio::test]
async fn a_memory_bomb_is_bounded() {
    let bomb = c_program(
        "#include <stdlib.h>\n#include <string.h>\n#include <stdio.h>\n\
         int main() { for (int i = 0; i < 1024; i++) { char *it = malloc(1 << 20);\n\
         if (!it) { printf(\"stopped at %d\\n\", i); return 0; } memset(it, 1, 1 << 20); }\n\
         printf(\"all\\n\"); }",
    );
    let limits = Limits {
        data_bytes: Some(64 << 20),
        ..Limits::default()
    };
    let spec = Spec::new(&bomb, "it").limits(limits);
    let said = output(spec.confinement(&confined(&Grants::new()))).await.1;
    assert!(said.starts_with("stopped at"), "{said}");
}

/// What no limit of a process counts is not there where nothing else counts it.
#[tokio::test]
async fn files_in_memory_do_not_get_around_a_limit_of_memory() {
    let program = c_program(
        "#define _GNU_SOURCE\n#include <sys/mman.h>\n#include <stdio.h>\n#include <errno.h>\n\
         int main() { int it = memfd_create(\"it\", 8); \
         printf(it < 0 ? \"error %d\" : \"made\", errno); return 0; }",
    );
    let confinement = confined(&Grants::new());
    let spec = || Spec::new(&program, "it").confinement(&confinement);
    assert_eq!(output(spec()).await.1, "made");
    let limits = Limits {
        data_bytes: Some(64 << 20),
        ..Limits::default()
    };
    assert_eq!(output(spec().limits(limits)).await.1, "error 38");
    assert_eq!(output(spec()).await.1, "made", "each has its own filter");
}

/// The private root has no room, and cannot be written.
#[tokio::test]
async fn the_private_root_cannot_be_filled() {
    let text = "echo x > /file; mkdir /directory; echo x > /tmp/file; ls -d /file /directory; true";
    let said = script(Grants::new(), text).await;
    assert!(!said.contains("\n/file\n"), "{said}");
    assert!(!std::path::Path::new("/directory").exists());
}

/// What a program writes to a directory of its own has an end, is not executed, is nobody
/// else's, and is gone with it.
#[tokio::test]
async fn a_scratch_directory_cannot_be_filled_beyond_its_size() {
    let grants = Grants::new().scratch(4 << 20);
    let text = "cd /tmp && echo a > a && mkdir b && mv a b/a && cat b/a; \
        head -c 3000000 /dev/zero > big && echo room; \
        head -c 3000000 /dev/zero > more || echo full; rm big more; \
        i=0; while true > f$i; do i=$((i+1)); done 2> /dev/null; [ $i -lt 1200 ] && echo few; rm f*; \
        printf '#!/bin/sh\\necho ran\\n' > run; chmod 755 run; ./run; ln -s /etc/passwd link; \
        cat link; mkfifo pipe && echo made; ls /";
    let said = script(grants.clone(), text).await;
    assert!(said.starts_with("a\nroom\n"), "{said}");
    assert!(
        said.contains("\nfull\n") && said.contains("\nfew\n"),
        "{said}"
    );
    for nothing in ["ran\n", "made\n", "root:"] {
        assert!(!said.contains(nothing), "{said}");
    }
    let said = script(grants, "ls -A /tmp; echo empty").await;
    assert_eq!(said, "empty\n");
}

/// What was granted below it is there too, and counts as what it is.
#[tokio::test]
async fn a_scratch_directory_hides_nothing_that_was_granted() {
    let scene = Scene::new();
    let grants = Grants::new().scratch(1 << 20).read(&scene.granted);
    let text = format!(
        "cat {}; echo x > /tmp/x && cat /tmp/x",
        scene.granted_file()
    );
    assert_eq!(script(grants, &text).await, "publicx\n");
    assert!(!Path::new("/tmp/x").exists());
}

#[tokio::test]
async fn descriptors_run_out_inside_and_nowhere_else() {
    let source = "#include <stdio.h>\n#include <errno.h>\n#include <fcntl.h>\n#include <unistd.h>\n\
        int main() { int count = 0, fds[2]; while (open(\"/dev/null\", 0) >= 0) count++;\n\
        printf(\"%d %d\\n\", errno == EMFILE, count); printf(\"%d\\n\", pipe(fds)); return 0; }";
    let program = c_program(source);
    let limits = Limits {
        open_files: Some(64),
        ..Limits::default()
    };
    let spec = Spec::new(&program, "it").limits(limits);
    let said = output(spec.confinement(&confined(&Grants::new()))).await.1;
    assert_eq!(said, "1 61\n-1\n");
    std::fs::File::open("/dev/null").expect("the host has others");
}
