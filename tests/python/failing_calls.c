/* For LD_PRELOAD: system calls on files below a folder fail from a chosen one on, or only that one. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE, FSYNC, RENAME, READ };

static int armed = -1;
static int error;
static atomic_long left, seen;
static char folder[4096];

/* `call` is one of the above, -1 none; the call number `at`, counted from 0, fails, and with `on` those after it. */
static int goes_on;

void fault_arm(int call, const char *below, long at, int number, int on) {
    armed = -1;
    strncpy(folder, below, sizeof folder - 1);
    error = number;
    goes_on = on;
    atomic_store(&left, at);
    atomic_store(&seen, 0);
    armed = call;
}

long fault_seen(void) { return atomic_load(&seen); }

static int fails(void) {
    atomic_fetch_add(&seen, 1);
    long now = atomic_fetch_sub(&left, 1);
    if (now == 0 || (goes_on && now < 0)) {
        errno = error;
        return 1;
    }
    return 0;
}

static int is_below(const char *path) { return strncmp(path, folder, strlen(folder)) == 0; }

static int fails_for(int call, int file) {
    if (armed != call) return 0;
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_below(path) && fails();
}

/* The function of that name that this one stands before. */
#define NEXT(name) \
    static __typeof__(&name) next; \
    if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *data, size_t count) {
    NEXT(write);
    return fails_for(WRITE, file) ? -1 : next(file, data, count);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    NEXT(writev);
    return fails_for(WRITE, file) ? -1 : next(file, parts, count);
}

ssize_t pwrite64(int file, const void *data, size_t count, off64_t at) {
    NEXT(pwrite64);
    return fails_for(WRITE, file) ? -1 : next(file, data, count, at);
}

ssize_t read(int file, void *data, size_t count) {
    NEXT(read);
    return fails_for(READ, file) ? -1 : next(file, data, count);
}

ssize_t pread64(int file, void *data, size_t count, off64_t at) {
    NEXT(pread64);
    return fails_for(READ, file) ? -1 : next(file, data, count, at);
}

int fsync(int file) {
    NEXT(fsync);
    return fails_for(FSYNC, file) ? -1 : next(file);
}

int fdatasync(int file) {
    NEXT(fdatasync);
    return fails_for(FSYNC, file) ? -1 : next(file);
}

int rename(const char *from, const char *to) {
    NEXT(rename);
    return armed == RENAME && is_below(to) && fails() ? -1 : next(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    NEXT(renameat);
    return armed == RENAME && is_below(to) && fails() ? -1 : next(a, from, b, to);
}
