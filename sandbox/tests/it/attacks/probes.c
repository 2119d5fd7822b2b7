/* One attack a run: says "open" when it worked and "refused" with the reason when not.
   Arguments: the name of the attack, a path or process to attack. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>
#include <netinet/in.h>
#include <arpa/inet.h>

static const char *name;
static int is(const char *other) { return !strcmp(name, other); }
static void *nothing(void *it) { return it; }
static char room[65536];

static long unix_to(int fd, const char *path) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    strcpy(to.sun_path, path);
    if (path[0] == '@') to.sun_path[0] = 0;
    return connect(fd, (void *)&to, offsetof(struct sockaddr_un, sun_path) + strlen(path));
}

static long attack(const char *path, int pid) {
    if (is("thread")) {
        pthread_t it;
        return errno = pthread_create(&it, 0, nothing, 0), errno ? -1 : pthread_join(it, 0);
    }
    if (is("tcp")) return socket(AF_INET, SOCK_STREAM, 0);
    if (is("tcp6")) return socket(AF_INET6, SOCK_STREAM, 0);
    if (is("udp")) return socket(AF_INET, SOCK_DGRAM, 0);
    if (is("mptcp")) return socket(AF_INET, SOCK_STREAM, 262);
    if (is("raw")) return socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    if (is("unix")) return socket(AF_UNIX, SOCK_STREAM, 0);
    if (is("netlink")) return socket(AF_NETLINK, SOCK_RAW, 0);
    if (is("packet")) return socket(AF_PACKET, SOCK_RAW, 0);
    if (is("vsock")) return socket(AF_VSOCK, SOCK_STREAM, 0);
    if (is("every_family")) {
        long any = -1;
        for (int family = 0; family < 50; family++)
            for (int kind = 1; kind < 6; kind++)
                if (socket(family, kind, 0) >= 0) any = 0;
        return any;
    }
    if (is("pair_to_path")) {
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair)) return -1;
        return unix_to(pair[0], path);
    }
    if (is("stream_pair")) {
        int pair[2];
        return socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    }
    if (is("linger")) {
        struct linger it = {1, 60};
        int pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return -1;
        return setsockopt(pair[0], SOL_SOCKET, SO_LINGER, &it, sizeof it);
    }
    if (is("option")) {
        int one = 1, pair[2];
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return -1;
        return setsockopt(pair[0], SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    }
    if (is("fast_open")) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (fd < 0) return -1;
        long sent = sendto(fd, "x", 1, MSG_FASTOPEN, (void *)&to, sizeof to);
        return sent < 0 && errno == ECONNREFUSED ? 0 : sent;
    }
    if (is("io_uring")) return syscall(SYS_io_uring_setup, 4, room);
    if (is("ptrace")) return ptrace(PTRACE_SEIZE, pid, 0, 0);
    if (is("traceme")) return ptrace(PTRACE_TRACEME, 0, 0, 0);
    if (is("vm_read")) {
        struct iovec here = {room, 1}, there = {room, 1};
        long got = process_vm_readv(pid, &here, 1, &there, 1, 0);
        return got < 0 && errno == EFAULT ? 0 : got;
    }
    if (is("getfd")) {
        int fd = syscall(SYS_pidfd_open, pid, 0);
        return fd < 0 ? -1 : syscall(SYS_pidfd_getfd, fd, 0, 0);
    }
    if (is("signal")) return kill(pid, 0);
    if (is("prlimit")) return prlimit(pid, RLIMIT_CORE, 0, (void *)room);
    if (is("affinity")) {
        cpu_set_t set;
        if (sched_getaffinity(0, sizeof set, &set)) return -1;
        return sched_setaffinity(pid, sizeof set, &set);
    }
    if (is("priority")) return setpriority(PRIO_PROCESS, pid, 0);
    if (is("kcmp")) return syscall(SYS_kcmp, pid, pid, 0, 0, 0);
    if (is("keyctl")) return syscall(SYS_keyctl, 0, -3, 0);
    if (is("add_key")) return syscall(SYS_add_key, "user", "it", "x", 1, -3);
    if (is("bpf")) return syscall(SYS_bpf, 1, room, 0) < 0 && errno == EPERM ? -1 : 0;
    if (is("perf")) { *(int *)(room + 4) = 64; *(int *)room = 1; return syscall(SYS_perf_event_open, room, 0, -1, -1, 0); }
    if (is("userfaultfd")) return syscall(SYS_userfaultfd, 1);
    if (is("shm")) { int it = shmget(IPC_PRIVATE, 4096, 0600); return it < 0 ? -1 : shmctl(it, IPC_RMID, 0); }
    if (is("mq")) return syscall(SYS_mq_open, "it", O_CREAT | O_RDWR, 0600, 0);
    if (is("personality")) return personality(ADDR_NO_RANDOMIZE);
    if (is("sysinfo")) { struct sysinfo it; return sysinfo(&it); }
    if (is("unshare")) return unshare(CLONE_NEWUSER);
    if (is("clone_namespace")) return syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (is("clone3")) return syscall(SYS_clone3, room, 4) < 0 && errno == ENOSYS ? -1 : 0;
    if (is("fork")) return fork();
    /* Onto nothing: it runs unconfined too. */
    if (is("mount")) return mount("none", "", "tmpfs", 0, 0) < 0 && errno == EPERM ? -1 : 0;
    if (is("chroot")) return chroot("/");
    if (is("setns")) return syscall(SYS_setns, 0, 0) < 0 && errno == EPERM ? -1 : 0;
    if (is("injection")) return ioctl(0, TIOCSTI, "x") < 0 && errno == EPERM ? -1 : 0;
    if (is("reexec")) { char *none[] = {"it", "thread", 0}; return execve("/proc/self/exe", none, none + 2); }
    if (is("memfd_exec")) {
        int fd = memfd_create("it", 0), from = open("/proc/self/exe", O_RDONLY);
        long got;
        if (fd < 0 || from < 0) return -1;
        while ((got = read(from, room, sizeof room)) > 0) write(fd, room, got);
        char *with[] = {"it", "thread", 0};
        return syscall(SYS_execveat, fd, "", with, with + 2, AT_EMPTY_PATH, 0);
    }
    if (is("guessed_token")) {
        char *with[] = {"it", "thread", 0};
        for (long token = 0; token < 100; token++)
            for (int fd = 0; fd < 6; fd++)
                syscall(SYS_execveat, fd, "", with, with + 2, AT_EMPTY_PATH, token);
        return -1;
    }
    if (is("int80")) {
        long id;
        __asm__ volatile("int $0x80" : "=a"(id) : "a"(20) : "memory");
        return id;
    }
    if (is("x32")) return syscall(0x40000000 + SYS_getpid);
    if (is("handle")) {
        struct file_handle *it = (void *)room;
        int mount;
        it->handle_bytes = 128;
        if (name_to_handle_at(AT_FDCWD, path, it, &mount, 0)) return -1;
        return open_by_handle_at(AT_FDCWD, it, O_RDONLY);
    }
    if (is("read")) return open(path, O_RDONLY);
    if (is("write")) return open(path, O_WRONLY);
    if (is("truncate")) return truncate(path, 0);
    if (is("create")) return open(path, O_WRONLY | O_CREAT, 0600);
    if (is("stat")) { struct stat it; return stat(path, &it); }
    if (is("chmod")) return chmod(path, 0600);
    if (is("chmod_setuid")) return chmod(path, 04755);
    if (is("fchmod_setgid")) return fchmod(open(path, O_RDONLY), 02755);
    if (is("create_setuid")) return open(path, O_WRONLY | O_CREAT, 06755);
    if (is("nameless_setuid")) return open(path, O_WRONLY | O_TMPFILE, 04755);
    if (is("creat_setuid")) return creat(path, 04755);
    if (is("openat2")) { unsigned long how[3] = {O_WRONLY | O_CREAT, 04755, 0}; return syscall(437, AT_FDCWD, path, how, sizeof how); }
    if (is("lease")) return fcntl(open(path, O_RDONLY), 1024, F_WRLCK);
    if (is("notify")) return inotify_init();
    if (is("utimes")) return utimes(path, 0);
    if (is("unlink")) return unlink(path);
    if (is("inotify")) return inotify_add_watch(inotify_init(), path, IN_ALL_EVENTS);
    if (is("mkfifo")) return mkfifo(path, 0600);
    if (is("mknod")) return mknod(path, S_IFCHR | 0600, 0x103);
    if (is("bind_path")) {
        struct sockaddr_un to = {.sun_family = AF_UNIX};
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        strcpy(to.sun_path, path);
        return fd < 0 ? -1 : bind(fd, (void *)&to, sizeof to);
    }
    errno = ENOTSUP;
    return -1;
}

int main(int count, char **arguments) {
    const char *path = count > 2 ? arguments[2] : "/";
    name = arguments[1];
    if (attack(path, atoi(path)) < 0) printf("refused %s\n", strerror(errno));
    else printf("open\n");
    return 0;
}
