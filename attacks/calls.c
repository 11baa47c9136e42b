/* Counts the calls that change files below one folder; the n-th fails, or kills the process.
 *
 * Preloaded into Python (LD_PRELOAD), armed through ctypes. Where strace may not trace, this still
 * reaches what lies below Python: libc's functions, whoever calls them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { OPEN, WRITE, PWRITE, FSYNC, RENAME, UNLINK, MKDIR, LINK, KINDS };

static char folder[PATH_MAX];
static int armed_kind = -1, armed_number, armed_error, armed_for_good;
static atomic_int counts[KINDS], total;

/* kind -1: no call fails; KINDS: any kind. error 0 kills. for_good: all later calls fail, too. */
void attack_arm(const char *below, int kind, int number, int error, int for_good) {
    strncpy(folder, below, sizeof folder - 1);
    for (int k = 0; k < KINDS; k++) counts[k] = 0;
    total = 0;
    armed_number = number;
    armed_error = error;
    armed_for_good = for_good;
    armed_kind = kind;
}

int attack_count(int kind) { return kind == KINDS ? total : counts[kind]; }

static int is_below(const char *path) {
    if (!folder[0] || !path) return 0;
    return path[0] != '/' || !strncmp(path, folder, strlen(folder));
}

static int is_file_below(int descriptor) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || path[0] != '/') return 0; /* a pipe, a socket */
    path[length] = 0;
    return is_below(path);
}

/* Whether the call is to fail; errno is set. */
static int refused(int kind) {
    int number = ++counts[kind], all = ++total;
    if (armed_kind == KINDS) number = all;
    else if (armed_kind != kind) return 0;
    if (number != armed_number && !(armed_for_good && number > armed_number)) return 0;
    if (!armed_error) kill(getpid(), SIGKILL);
    errno = armed_error;
    return 1;
}

#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define OPENER(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && is_below(path) && refused(OPEN)) return -1; \
        return real(path, flags, mode); \
    }
OPENER(open)
OPENER(open64)

#define OPENER_AT(name) \
    int name(int directory, const char *path, int flags, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && is_below(path) && refused(OPEN)) return -1; \
        return real(directory, path, flags, mode); \
    }
OPENER_AT(openat)
OPENER_AT(openat64)

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(write);
    if (is_file_below(descriptor) && refused(WRITE)) return -1;
    return real(descriptor, data, size);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t place) {
    REAL(pwrite);
    if (is_file_below(descriptor) && refused(PWRITE)) return -1;
    return real(descriptor, data, size, place);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t place) {
    REAL(pwrite64);
    if (is_file_below(descriptor) && refused(PWRITE)) return -1;
    return real(descriptor, data, size, place);
}

int fsync(int descriptor) {
    REAL(fsync);
    if (is_file_below(descriptor) && refused(FSYNC)) return -1;
    return real(descriptor);
}

int rename(const char *from, const char *to) {
    REAL(rename);
    if (is_below(to) && refused(RENAME)) return -1;
    return real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    if (is_below(path) && refused(UNLINK)) return -1;
    return real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (is_below(path) && refused(MKDIR)) return -1;
    return real(path, mode);
}

int link(const char *from, const char *to) {
    REAL(link);
    if (is_below(to) && refused(LINK)) return -1;
    return real(from, to);
}

int linkat(int old, const char *from, int new, const char *to, int flags) {
    REAL(linkat);
    if (is_below(to) && refused(LINK)) return -1;
    return real(old, from, new, to, flags);
}
