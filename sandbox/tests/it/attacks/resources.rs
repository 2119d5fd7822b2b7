//! Bombs.

use super::*;

/// Forks until it cannot, or 400 times.
const FORKS: &str = "#include <stdio.h>\n#include <unistd.h>\n\
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

/// The private root has no room, and cannot be written.
#[tokio::test]
async fn the_private_root_cannot_be_filled() {
    let text = "echo x > /file; mkdir /directory; echo x > /tmp/file; ls -d /file /directory; true";
    let said = script(Grants::new(), text).await;
    assert!(!said.contains("\n/file\n"), "{said}");
    assert!(!std::path::Path::new("/directory").exists());
}
