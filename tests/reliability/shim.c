// Loaded before libc (LD_PRELOAD): numbers the calls of a process that change one folder, writes them down, and lets
// the one that was asked for fail, be cut short, or be the last before the process is killed. Real calls, real kills.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { count_only, kill_after, fail, cut_short };
enum { most_descriptors = 4096 };

static char root[PATH_MAX];
static int armed, when, what, error_number, persistent, reads_too, log_descriptor = -1;
static int counted;
static long clock_step, clock_calls;
static char *name_of[most_descriptors];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

// To be called in the process that is tested, after it was forked.
void shim_arm(const char *folder, int at, int kind, int error, int from_then_on, int also_reads, const char *log) {
    strncpy(root, folder, sizeof root - 1);
    when = at, what = kind, error_number = error, persistent = from_then_on, reads_too = also_reads;
    log_descriptor = log[0] ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    counted = 0, armed = 1;
}

// From now on the clock of the day steps by so many seconds whenever it is looked at.
void shim_step_clock(long seconds) { clock_step = seconds; }

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (clock == CLOCK_REALTIME && clock_step) now->tv_sec += clock_step * ++clock_calls;
    return result;
}

static int inside(const char *path) {
    size_t n = strlen(root);
    return armed && path && !strncmp(path, root, n) && (path[n] == '/' || path[n] == 0);
}

static const char *of_descriptor(int descriptor) {
    return armed && descriptor >= 0 && descriptor < most_descriptors ? name_of[descriptor] : NULL;
}

// The path of a name relative to an open folder; NULL if that is none of ours.
static const char *joined(int folder, const char *name, char *room) {
    if (name[0] == '/' || folder == AT_FDCWD) return name;
    const char *base = of_descriptor(folder);
    if (!base) return NULL;
    snprintf(room, PATH_MAX, "%s/%s", base, name);
    return room;
}

// One record: number, name of the call, result, offset, two paths, and what was written; numbers in ASCII, ends in \n.
static void note(const char *call, long result, const char *path, const char *second, long offset, const void *data,
                 size_t size) {
    if (log_descriptor < 0) return;
    char line[3 * PATH_MAX];
    int n = snprintf(line, sizeof line, "%d\t%s\t%ld\t%ld\t%s\t%s\t%zu\n", counted, call, result, offset, path,
                     second ? second : "", size);
    (void)!syscall(SYS_write, log_descriptor, line, (size_t)n);
    if (size) (void)!syscall(SYS_write, log_descriptor, data, size);
}

// Whether this call is to fail; *size is halved where it is to be cut short.
static int must_fail(size_t *size) {
    counted++;
    int now = counted == when || (persistent && when > 0 && counted > when);
    if (now && what == cut_short && size && *size > 1) *size /= 2;
    if (!now || what != fail) return 0;
    errno = error_number;
    return 1;
}

static void after(const char *call, long result, const char *path, const char *second, long offset, const void *data,
                  size_t size) {
    int kept = errno;
    note(call, result, path, second, offset, data, result > 0 && size ? (size_t)result : 0);
    if (counted == when && what == kill_after) syscall(SYS_kill, getpid(), SIGKILL);
    errno = kept;
}

#define CHANGE(call, path, second, offset, data, size_pointer, size, expression)                                       \
    pthread_mutex_lock(&mutex);                                                                                        \
    long result = must_fail(size_pointer) ? -1 : (long)(expression);                                                   \
    after(call, result, path, second, offset, data, size);                                                             \
    pthread_mutex_unlock(&mutex);                                                                                      \
    return result

static int opened(int folder, const char *name, int flags, mode_t mode) {
    char room[PATH_MAX];
    const char *path = joined(folder, name, room);
    if (!inside(path)) return (int)syscall(SYS_openat, folder, name, flags, mode);
    pthread_mutex_lock(&mutex);
    // Opening to read changes nothing; a file that is there already is changed only if it is emptied.
    int changes = (flags & (O_CREAT | O_TRUNC)) != 0;
    if (changes && (flags & O_CREAT) && !(flags & O_TRUNC) && syscall(SYS_access, path, F_OK) == 0) changes = 0;
    int result;
    if (changes && must_fail(NULL)) {
        result = -1;
    } else {
        result = (int)syscall(SYS_openat, folder, name, flags, mode);
        if (result >= 0 && result < most_descriptors) {
            free(name_of[result]);
            name_of[result] = strdup(path);
        }
    }
    if (changes) after("create", result, path, NULL, 0, NULL, 0);
    pthread_mutex_unlock(&mutex);
    return result;
}

#define MODE                                                                                                           \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                               \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode = va_arg(list, mode_t);                                                                                   \
        va_end(list);                                                                                                  \
    }
int open(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE return opened(folder, path, flags, mode); }

int close(int descriptor) {
    pthread_mutex_lock(&mutex);
    if (of_descriptor(descriptor)) {
        free(name_of[descriptor]);
        name_of[descriptor] = NULL;
    }
    pthread_mutex_unlock(&mutex);
    return (int)syscall(SYS_close, descriptor);
}

ssize_t write(int descriptor, const void *data, size_t size) {
    const char *path = of_descriptor(descriptor);
    if (!path) return syscall(SYS_write, descriptor, data, size);
    long offset = lseek(descriptor, 0, SEEK_CUR);
    CHANGE("write", path, NULL, offset, data, &size, size, syscall(SYS_write, descriptor, data, size));
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
    const char *path = of_descriptor(descriptor);
    if (!path) return syscall(SYS_pwrite64, descriptor, data, size, offset);
    CHANGE("write", path, NULL, offset, data, &size, size, syscall(SYS_pwrite64, descriptor, data, size, offset));
}
ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    return pwrite64(descriptor, data, size, offset);
}

int ftruncate64(int descriptor, off64_t size) {
    const char *path = of_descriptor(descriptor);
    if (!path) return (int)syscall(SYS_ftruncate, descriptor, size);
    CHANGE("truncate", path, NULL, size, NULL, NULL, 0, syscall(SYS_ftruncate, descriptor, size));
}
int ftruncate(int descriptor, off_t size) { return ftruncate64(descriptor, size); }
int fallocate64(int descriptor, int mode, off64_t offset, off64_t size) {
    const char *path = of_descriptor(descriptor);
    if (!path) return (int)syscall(SYS_fallocate, descriptor, mode, offset, size);
    CHANGE("reserve", path, NULL, size, NULL, NULL, 0, syscall(SYS_fallocate, descriptor, mode, offset, size));
}
int fallocate(int descriptor, int mode, off_t offset, off_t size) {
    return fallocate64(descriptor, mode, offset, size);
}

int fsync(int descriptor) {
    const char *path = of_descriptor(descriptor);
    if (!path) return (int)syscall(SYS_fsync, descriptor);
    CHANGE("fsync", path, NULL, 0, NULL, NULL, 0, syscall(SYS_fsync, descriptor));
}

int rename(const char *from, const char *to) {
    if (!inside(from) && !inside(to)) return (int)syscall(SYS_rename, from, to);
    CHANGE("rename", from, to, 0, NULL, NULL, 0, syscall(SYS_rename, from, to));
}

int unlinkat(int folder, const char *name, int flags) {
    char room[PATH_MAX];
    const char *path = joined(folder, name, room);
    if (!inside(path)) return (int)syscall(SYS_unlinkat, folder, name, flags);
    struct stat status;
    if (lstat(path, &status)) return (int)syscall(SYS_unlinkat, folder, name, flags); // nothing there: no change
    CHANGE("remove", path, NULL, 0, NULL, NULL, 0, syscall(SYS_unlinkat, folder, name, flags));
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdir(const char *path, mode_t mode) {
    struct stat status;
    if (!inside(path) || !lstat(path, &status)) return (int)syscall(SYS_mkdir, path, mode);
    CHANGE("mkdir", path, NULL, 0, NULL, NULL, 0, syscall(SYS_mkdir, path, mode));
}

// Reading, for folders of inputs only.
ssize_t preadv64(int descriptor, const struct iovec *places, int count, off64_t offset) {
    const char *path = of_descriptor(descriptor);
    if (!path || !reads_too || count != 1) return syscall(SYS_preadv, descriptor, places, count, offset, 0);
    struct iovec place = places[0];
    CHANGE("read", path, NULL, offset, NULL, &place.iov_len, 0, syscall(SYS_preadv, descriptor, &place, 1, offset, 0));
}
ssize_t preadv(int descriptor, const struct iovec *places, int count, off_t offset) {
    return preadv64(descriptor, places, count, offset);
}
ssize_t preadv64v2(int descriptor, const struct iovec *places, int count, off64_t offset, int flags) {
    return flags ? syscall(SYS_preadv2, descriptor, places, count, offset, 0, flags)
                 : preadv64(descriptor, places, count, offset);
}
ssize_t preadv2(int descriptor, const struct iovec *places, int count, off_t offset, int flags) {
    return preadv64v2(descriptor, places, count, offset, flags);
}
ssize_t read(int descriptor, void *data, size_t size) {
    const char *path = of_descriptor(descriptor);
    if (!path || !reads_too) return syscall(SYS_read, descriptor, data, size);
    CHANGE("read", path, NULL, 0, NULL, &size, 0, syscall(SYS_read, descriptor, data, size));
}
ssize_t pread64(int descriptor, void *data, size_t size, off64_t offset) {
    const char *path = of_descriptor(descriptor);
    if (!path || !reads_too) return syscall(SYS_pread64, descriptor, data, size, offset);
    CHANGE("read", path, NULL, offset, NULL, &size, 0, syscall(SYS_pread64, descriptor, data, size, offset));
}
ssize_t pread(int descriptor, void *data, size_t size, off_t offset) { return pread64(descriptor, data, size, offset); }
