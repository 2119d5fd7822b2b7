/* A plugin of either kind that takes all it gets of what its phase names, up to an end that
   spares the machine where nothing bounds it. It answers how much it got, or "refused". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <arpa/inet.h>

#define MIB (1L << 20)
#define TASKS 2000
#define DESCRIPTORS 100000

static const char *phase;
static int is(const char *other) { return !strcmp(phase, other); }
static char piece[MIB];
static int node = -1;

/* As long as whoever looks may take. */
static void hold(void) {
    for (int second = 0; second < 45; second++) sleep(1);
}

/* Each of them makes others, in a session of its own and without the pipes of the first. */
static long forks(void) {
    int *count = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int first = fork(), refusals = 0;
    if (first < 0) return -1;
    if (first > 0) {
        hold();
        return *count;
    }
    for (int fd = 1; fd < 16; fd++) close(fd);
    while (refusals < 20 && __sync_fetch_and_add(count, 1) < TASKS) {
        int pid = fork();
        if (pid < 0) refusals++;
        if (pid == 0) setsid();
    }
    hold();
    _exit(0);
}

static void *thread(void *it) { hold(); return it; }

static long threads(void) {
    pthread_attr_t small;
    pthread_t it;
    long count = 0;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    while (count < TASKS && !pthread_create(&it, &small, thread, 0)) count++;
    hold();
    return count;
}

static long memory(int sharing, long most) {
    long got = 0;
    for (; got < most; got += 16 * MIB) {
        char *it = mmap(0, 16 * MIB, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
        if (it == MAP_FAILED) break;
        memset(it, 1, 16 * MIB);
        if (is("hidden-memory")) madvise(it, 16 * MIB, MADV_DONTNEED);
        usleep(10000);
    }
    hold();
    return got / MIB;
}

/* Written and never mapped. */
static long memory_files(long most) {
    long got = 0, count;
    int fd = memfd_create("it", 8 /* MFD_NOEXEC_SEAL */);
    if (fd < 0 && errno == EINVAL) fd = memfd_create("it", 0);
    if (fd < 0) return -1;
    while (got < most && (count = write(fd, piece, MIB)) > 0) {
        got += count;
        if (got % (16 * MIB) == 0) usleep(10000);
    }
    hold();
    return got / MIB;
}

/* Fills whatever it may write to, then makes as many names as it can; answers the KiB. */
static long files(void) {
    const char *places[] = {getenv("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm", "/run", "/", "."};
    long got = 0, count;
    for (int place = 0; place < 7; place++) {
        if (!places[place]) continue;
        for (int n = 0; n < 40000; n++) {
            char path[4096];
            snprintf(path, sizeof path, "%s/%s-%d", places[place], program_invocation_short_name, n);
            int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
            if (fd < 0) break;
            while (got < 256 * MIB && (count = write(fd, piece, MIB)) > 0) got += count;
            while (got < 256 * MIB && (count = write(fd, piece, 1024)) > 0) got += count;
            close(fd);
        }
    }
    /* So long that it is looked at. */
    sleep(3);
    return got / 1024;
}

static long descriptors(void) {
    long count = 0;
    while (count < DESCRIPTORS && open("/dev/null", O_RDONLY) >= 0) count++;
    return count;
}

static long descriptors_of_many(void) {
    for (int child = 0; child < 20; child++) {
        int pid = fork();
        if (pid < 0) return -1;
        if (pid == 0) {
            descriptors();
            hold();
            _exit(0);
        }
    }
    hold();
    return 0;
}

static long flood(int fd, const char *text, long bytes) {
    long written = 0, count, length = strlen(text);
    for (long at = 0; at < MIB; at += length)
        memcpy(piece + at, text, at + length > MIB ? MIB - at : length);
    while (written < bytes && (count = write(fd, piece, MIB)) > 0) written += count;
    return written / MIB;
}

static void send_frame(int kind, const char *header, const char *payload) {
    unsigned char head[7];
    unsigned long heads = strlen(header), length = 3 + heads + strlen(payload);
    *(unsigned *)head = htonl(length);
    head[4] = kind;
    head[5] = heads >> 8;
    head[6] = heads;
    write(node, head, 7);
    write(node, header, heads);
    write(node, payload, strlen(payload));
}

/* The kind of the next frame, with its header in `into`. */
static int next_frame(char *into, unsigned long room) {
    unsigned char head[7];
    if (recv(node, head, 7, MSG_WAITALL) != 7) exit(0);
    unsigned long length = ntohl(*(unsigned *)head) - 3, heads = head[5] << 8 | head[6];
    if (heads >= room || recv(node, into, heads, MSG_WAITALL) != (long)heads) exit(9);
    into[heads] = 0;
    for (length -= heads; length > 0; length--) {
        char one;
        if (recv(node, &one, 1, MSG_WAITALL) != 1) exit(9);
    }
    return head[4];
}

/* Keeps as much as it can with the host; answers the keys. */
static long session(const char *call) {
    static char header[60000], value[32769], answer[65536];
    long keys = 0;
    if (node < 0) return -1;
    memset(value, 'x', 32768);
    for (; keys < 5000; keys++) {
        snprintf(header, sizeof header,
            "{\"id\":%ld,\"call\":%s,\"request\":{\"operation\":\"session_set\",\"key\":\"key%ld\","
            "\"value\":\"%s\"}}", keys + 1, call, keys, value);
        send_frame(12, header, "");
        if (next_frame(answer, sizeof answer) != 13) exit(9);
        if (strstr(answer, "\"error\"")) break;
    }
    return keys;
}

static long explode(const char *call) {
    if (is("forks")) return forks();
    if (is("threads")) return threads();
    if (is("memory")) return memory(MAP_PRIVATE, 2048 * MIB);
    if (is("shared-memory")) return memory(MAP_SHARED, 512 * MIB);
    if (is("hidden-memory")) return memory(MAP_SHARED, 512 * MIB);
    if (is("memory-files")) return memory_files(512 * MIB);
    if (is("files")) return files();
    if (is("descriptors")) return descriptors();
    if (is("descriptors-of-many")) return descriptors_of_many();
    if (is("line")) return flood(2, "x", 256 * MIB);
    if (is("lines")) return flood(2, "ERROR \033[31mforged\033[0m \"line\"\n", 32 * MIB);
    if (is("output")) return flood(1, "x\n", 2048 * MIB);
    if (is("session")) return session(call);
    if (is("burn") || is("burn-deaf")) {
        sigset_t all;
        sigfillset(&all);
        if (is("burn-deaf")) sigprocmask(SIG_BLOCK, &all, 0);
        for (volatile long turn = 0;; turn++);
    }
    return 1;
}

static char *answer(const char *call) {
    static char said[40];
    long got = explode(call);
    sprintf(said, got < 0 ? "\"refused\"" : "%ld", got);
    return said;
}

static void serve(void) {
    static char header[65536], hello[4096];
    snprintf(hello, sizeof hello,
        "{\"protocol\":1,\"plugin\":\"%s\",\"version\":\"0.1.0\",\"phases\":[" PHASES "]}",
        getenv("ORCHESTRATOR_PLUGIN"));
    send_frame(1, hello, "");
    if (next_frame(header, sizeof header) != 2) exit(9);
    for (;;) {
        send_frame(3, "{\"calls\":1}", "");
        int kind = next_frame(header, sizeof header);
        if (kind != 4) exit(kind == 10 ? 0 : 9);
        char call[24] = "", name[64] = "", result[200];
        sscanf(strstr(header, "\"call\":") + 7, "%20[0-9]", call);
        sscanf(strstr(header, "\"phase\":\"") + 9, "%60[^\"]", name);
        phase = name;
        char *said = answer(call);
        snprintf(result, sizeof result, "{\"call\":%s,\"length\":%zu}", call, strlen(said));
        send_frame(8, result, said);
    }
}

int main(int count, char **arguments) {
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    if (getenv("ORCHESTRATOR_NODE_FD")) {
        node = atoi(getenv("ORCHESTRATOR_NODE_FD"));
        serve();
    }
    if (count > 1 && !strcmp(arguments[1], "info"))
        printf("{\"id\":\"%s\",\"version\":\"0.1.0\",\"phases\":[" PHASES "]}",
            getenv("ORCHESTRATOR_PLUGIN"));
    if (count > 2 && !strcmp(arguments[1], "execute")) {
        phase = arguments[2];
        puts(answer(""));
    }
    return 0;
}
