/* Loaded before the C library: the wall clock is an hour early, right and an hour late by
   turns, each for 20 ms. No other clock is touched. */

#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t off(void) {
    struct timespec now;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    long turn = now.tv_sec * 50 + now.tv_nsec / 20000000;
    return (turn % 3 - 1) * 3600;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += off();
    return failed;
}

int gettimeofday(struct timeval *restrict then, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    then->tv_sec = now.tv_sec;
    then->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *then) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (then)
        *then = now.tv_sec;
    return now.tv_sec;
}
