/* More probes, each a phase of a plugin: what stands above tries the rest. */
#undef main
#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <sys/fanotify.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#define NOT_HERE -2
#define SECRET "@SECRET@"
#define GRANTED "@GRANTED@"
#define ABSTRACT "@ABSTRACT@"
static const int victim = @VICTIM@;
static const unsigned char handle_of_secret[] = {@HANDLE@};

static long opens(const char *path) { return open(path, O_RDONLY | O_NONBLOCK); }

/* What is missing is missing where it was looked for. */
static long seen(long got) { return got < 0 && errno == ENODATA ? 0 : got; }

static long of_victim(const char *what) {
    char path[100];
    snprintf(path, sizeof path, "/proc/%d/%s", victim, what);
    int fd = opens(path);
    return fd < 0 ? fd : read(fd, room, 1);
}

/* Also where the program only starts. */
static long runs(const char *program) {
    int pid = fork(), status;
    if (pid < 0) return -1;
    if (pid == 0) {
        char *with[] = {"it", 0};
        dup2(open("/dev/null", O_WRONLY), 1);
        execve(program, with, with + 1);
        _exit(99);
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

static long to_port(int port, int kind, int protocol) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, kind, protocol);
    if (fd < 0) return -1;
    if (kind == SOCK_DGRAM) return sendto(fd, "x", 1, 0, (void *)&to, sizeof to);
    return connect(fd, (void *)&to, sizeof to) ? -1 : fd;
}

static long proxied(const char *target) {
    const char *proxy = getenv("https_proxy");
    int fd = proxy ? to_port(atoi(strrchr(proxy, ':') + 1), SOCK_STREAM, 0) : -1;
    if (fd < 0) return -1;
    sprintf(room, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target);
    write(fd, room, strlen(room));
    return read(fd, room, 12) == 12 && !memcmp(room, "HTTP/1.1 200", 12) ? 0 : -1;
}

static long to_unix(int kind, const char *path) {
    int fd = socket(AF_UNIX, kind, 0);
    return fd < 0 ? -1 : unix_to(fd, path);
}

/* By a handle that somebody outside has made. */
static long by_handle(void) {
    memcpy(room, handle_of_secret, sizeof handle_of_secret);
    return open_by_handle_at(open(GRANTED, O_RDONLY | O_DIRECTORY), (void *)room, O_RDONLY);
}

static long more_files(void) {
    if (is("granted")) return opens(GRANTED "/file");
    if (is("granted-stat")) { struct stat it; return stat(GRANTED "/file", &it); }
    if (is("granted-write")) return open(GRANTED "/file", O_WRONLY);
    if (is("granted-create")) return open(GRANTED "/new", O_WRONLY | O_CREAT, 0600);
    if (is("granted-chmod")) return chmod(GRANTED "/file", 0600);
    if (is("granted-times")) return utimes(GRANTED "/file", 0);
    if (is("granted-setxattr")) return setxattr(GRANTED "/file", "user.it", "x", 1, 0);
    if (is("granted-rename")) return rename(GRANTED "/renamed", GRANTED "/newer");
    if (is("granted-mkfifo")) return mkfifo(GRANTED "/pipe", 0600);
    if (is("dotdot")) return opens(GRANTED "/../secret/file");
    if (is("beside")) return opens(GRANTED "-evil/file");
    if (is("link")) return opens(GRANTED "/link");
    if (is("new-link")) { symlink(SECRET "/file", GRANTED "/soft"); return opens(GRANTED "/soft"); }
    if (is("hard-link")) return link(SECRET "/file", GRANTED "/hard");
    if (is("hard-link-out")) return link(GRANTED "/file", SECRET "/hard");
    if (is("rename-in")) return rename(SECRET "/moved", GRANTED "/moved");
    if (is("rename-out")) return rename(GRANTED "/leaves", SECRET "/left");
    if (is("exchange")) return syscall(SYS_renameat2, AT_FDCWD, GRANTED "/mine", AT_FDCWD, SECRET "/theirs", 2);
    if (is("self-root")) return opens("/proc/self/root" SECRET "/file");
    if (is("first-root")) return opens("/proc/1/root" SECRET "/file");
    if (is("first-cwd")) return opens("/proc/1/cwd" SECRET "/file");
    if (is("known-handle")) return by_handle();
    if (is("list")) return opendir(SECRET) ? 0 : -1;
    if (is("enter")) return chdir(SECRET);
    if (is("make")) return mkdir(SECRET "/made", 0700);
    if (is("make-link")) return symlink("x", SECRET "/soft");
    if (is("make-pipe")) return mkfifo(SECRET "/pipe", 0600);
    if (is("remove")) return unlink(SECRET "/removed");
    return NOT_HERE;
}

static long metadata(void) {
    const char *file = SECRET "/file";
    if (is("access")) return access(file, F_OK);
    if (is("readlink")) return readlink(SECRET "/link", room, sizeof room);
    if (is("statx")) return syscall(SYS_statx, AT_FDCWD, file, 0, 0xfff, room);
    if (is("statfs")) return statfs(SECRET, (void *)room);
    if (is("getxattr")) return seen(getxattr(file, "user.none", room, 10));
    if (is("listxattr")) return listxattr(file, room, 1000);
    if (is("chown")) return chown(file, -1, getegid());
    if (is("lchown")) return lchown(SECRET "/link", -1, getegid());
    if (is("setxattr")) return setxattr(file, "user.it", "x", 1, 0);
    if (is("removexattr")) return seen(removexattr(file, "user.none"));
    if (is("fanotify")) return fanotify_mark(fanotify_init(0, O_RDONLY), FAN_MARK_ADD, FAN_OPEN, -1, file);
    return NOT_HERE;
}

static long network(void) {
    if (is("tcp-connect")) return to_port(@PORT@, SOCK_STREAM, 0);
    if (is("tcp-connect-other")) return to_port(@OTHER_PORT@, SOCK_STREAM, 0);
    if (is("tcp-bind")) { int fd = socket(AF_INET, SOCK_STREAM, 0); return fd < 0 ? -1 : listen(fd, 1); }
    if (is("udp-send")) return to_port(9, SOCK_DGRAM, 0);
    if (is("udp-connect")) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
        return connect(socket(AF_INET, SOCK_DGRAM, 0), (void *)&to, sizeof to);
    }
    if (is("mptcp-connect")) return to_port(@PORT@, SOCK_STREAM, 262);
    if (is("sctp")) return socket(AF_INET, SOCK_STREAM, 132);
    if (is("raw6")) return socket(AF_INET6, SOCK_RAW, 58);
    if (is("alg")) return socket(38, SOCK_SEQPACKET, 0);
    if (is("unix-path")) return to_unix(SOCK_STREAM, SECRET "/socket");
    if (is("unix-datagram")) return to_unix(SOCK_DGRAM, SECRET "/datagrams");
    if (is("unix-abstract")) return to_unix(SOCK_STREAM, "@" ABSTRACT);
    if (is("unix-bind")) { name = "bind_path"; return attack(SECRET "/bound", 0); }
    if (is("pair-to-path")) { name = "pair_to_path"; return attack(SECRET "/datagrams", 0); }
    if (is("proxied")) return proxied("127.0.0.1:@PORT@");
    if (is("proxied-other")) return proxied("127.0.0.1:@OTHER_PORT@");
    return NOT_HERE;
}

static long processes(void) {
    if (is("victim-seen")) return of_victim("stat");
    if (is("victim-cwd")) return of_victim("cwd/file");
    if (is("victim-root")) return of_victim("root" SECRET "/file");
    if (is("victim-environ")) return of_victim("environ");
    if (is("victim-memory")) return of_victim("maps");
    if (is("parent-environ")) {
        snprintf(room, 100, "/proc/%d/environ", getppid());
        int fd = opens(room);
        return fd < 0 ? -1 : read(fd, room, 1);
    }
    if (is("signal-all")) return kill(-1, 0);
    if (is("signal-group")) { int group = getpgid(victim); return group < 0 ? -1 : kill(-group, 0); }
    if (is("signal-by-descriptor")) return syscall(SYS_pidfd_send_signal, syscall(SYS_pidfd_open, victim, 0), 0, 0, 0);
    if (is("signal-queued")) { *(int *)(room + 8) = -1; return syscall(SYS_rt_sigqueueinfo, victim, 0, room); }
    if (is("limit-host")) return prlimit(getppid() ? getppid() : victim, RLIMIT_CORE, 0, (void *)room);
    if (is("set-limit")) {
        struct rlimit it;
        return prlimit(victim, RLIMIT_CORE, 0, &it) ? -1 : prlimit(victim, RLIMIT_CORE, &it, 0);
    }
    if (is("scheduler")) { int none = 0; return sched_setscheduler(victim, SCHED_OTHER, (void *)&none); }
    if (is("io-priority")) return syscall(SYS_ioprio_set, 1, victim, 0);
    if (is("seen-affinity")) return sched_getaffinity(victim, sizeof room, (void *)room);
    if (is("granted-program")) return runs("/usr/bin/true");
    if (is("other-program")) return runs("/usr/bin/id");
    if (is("copied-program")) {
        int from = open("/usr/bin/id", O_RDONLY), to = open(GRANTED "/program", O_WRONLY | O_CREAT, 0755);
        long got;
        if (from < 0 || to < 0) return -1;
        while ((got = read(from, room, sizeof room)) > 0) write(to, room, got);
        close(to);
        return runs(GRANTED "/program");
    }
    return NOT_HERE;
}

static long rest(void) {
    if (is("request-key")) return syscall(SYS_request_key, "user", "it", 0, 0) < 0 && errno == EPERM ? -1 : 0;
    if (is("memory")) return opens("/proc/meminfo");
    if (is("load")) return opens("/proc/loadavg");
    if (is("kernel")) return opens("/proc/sys/kernel/osrelease");
    if (is("devices")) return opens("/sys/devices");
    if (is("terminal")) return open("/dev/ptmx", O_RDWR);
    if (is("machine-memory")) return opens("/dev/mem");
    if (is("passwords")) return opens("/etc/passwd");
    if (is("secret-variable")) return getenv("HOST_SECRET") ? 0 : -1;
    if (is("other-variable")) return getenv("OTHER_SECRET") ? 0 : -1;
    if (is("descriptors")) {
        for (int fd = 3; fd < 1024; fd++) if (fcntl(fd, F_GETFD) >= 0) return fd;
        return -1;
    }
    return NOT_HERE;
}

static long any(const char *asked) {
    long (*const all[])(void) = {more_files, metadata, network, processes, rest};
    name = asked;
    for (int of = 0; of < 5; of++) {
        long got = all[of]();
        if (got != NOT_HERE) return got;
    }
    char spelled[100];
    snprintf(spelled, sizeof spelled, "%s", asked);
    for (char *it = spelled; *it; it++) if (*it == '-') *it = '_';
    name = spelled;
    return attack(SECRET "/file", victim);
}

int main(int count, char **arguments) {
    if (count > 1 && !strcmp(arguments[1], "validate")) return 0;
    if (count > 1 && !strcmp(arguments[1], "info")) {
        puts("{\"id\":\"attacker\",\"version\":\"0.1.0\",\"phases\":[@PHASES@]}");
        return 0;
    }
    if (count > 2 && !strcmp(arguments[1], "execute")) {
        int own = getpid();
        long got = any(arguments[2]);
        if (getpid() != own) _exit(0);
        if (got < 0) {
            puts("\"refused\"");
            return 0;
        }
    }
    /* Also when it has executed itself, or was started by hand. */
    puts("\"open\"");
    return 0;
}
