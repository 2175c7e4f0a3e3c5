/* A disk that fails when it is told to. Preloaded (LD_PRELOAD) into a program, it counts the calls
 * that concern files below one folder, writes each into a log, and lets chosen ones fail. All other
 * files, and every call that is not chosen, go through untouched.
 *
 *     gcc -shared -fPIC -O1 -o preload.so preload.c -ldl
 *
 * It is armed by `faults_arm`, or at the program's start by three variables: FAULTS_FOLDER (an
 * absolute path without links), FAULTS_LOG (outside of it), FAULTS_PLAN ("37 eio; 52 kill": at the
 * 37th call from 1 on, and so on). The faults:
 *
 *     eio, enospc  the call does nothing and fails
 *     short        half of the bytes are written or read, and that is said
 *     torn         half of the bytes are written, and the call fails with EIO
 *     lost         a sync fails, and what was not synced of this file is gone, as where a kernel
 *                  marks pages clean that it could not write
 *     kill         the program dies before the call
 *     cut          half of the bytes are written, and the program dies
 *     power        the program dies, and no file has more than what was synced; names stay
 *     full         from here on there is no room: writes and new files fail with ENOSPC
 *     dead         from here on everything fails with EIO
 *
 * A sync that succeeds only notes what the file holds: what survives is decided here, not by the
 * disk below, so that thousands of trials do not wait for it. One thread.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum fault { NONE, EIO_, ENOSPC_, SHORT, TORN, LOST, KILL, CUT, POWER, FULL, DEAD, FAULTS };
static const char *const fault_names[FAULTS] = {"none", "eio", "enospc", "short", "torn", "lost",
                                                "kill", "cut", "power", "full", "dead"};

static struct {
    long at;
    enum fault fault;
} plan[8];
static int planned;
static char folder[PATH_MAX];
static size_t folder_length; /* 0: not armed */
static int log_fd = -1;
static long calls;
static enum fault lasting = NONE;

/* The function that would have been called without this library. */
#define REAL(name) ((__typeof__(&name))real(#name))
static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static int is_below(const char *path) {
    return folder_length && strncmp(path, folder, folder_length) == 0 &&
           (path[folder_length] == '/' || path[folder_length] == 0);
}

/* The absolute path of an open file, "" if it has none below the folder. */
static const char *path_of(int fd) {
    static char path[PATH_MAX];
    char link[32];
    if (!folder_length || fd < 0) return "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return is_below(path) ? path : "";
}

/* What a path means to a call with a directory's descriptor, "" if it is not below the folder. */
static const char *path_at(int dir, const char *path) {
    static char joined[2 * PATH_MAX];
    if (!folder_length || !path) return "";
    if (path[0] == '/') return is_below(path) ? path : "";
    char here[PATH_MAX];
    if (dir == AT_FDCWD) {
        if (!getcwd(here, sizeof here)) return "";
    } else {
        snprintf(here, sizeof here, "%s", path_of(dir));
    }
    snprintf(joined, sizeof joined, "%s/%s", here, path);
    return is_below(joined) ? joined : "";
}

/* --- What would survive a power cut. ------------------------------------------------------- */

static struct durable {
    dev_t device;
    ino_t inode;
    char *path;
    char *content;
    size_t size;
} files[4096];
static int file_count;

static struct durable *find(const struct stat *about) {
    for (int i = 0; i < file_count; i++)
        if (files[i].inode == about->st_ino && files[i].device == about->st_dev) return &files[i];
    return NULL;
}

static void forget(const char *path) {
    struct stat about;
    struct durable *file;
    if (stat(path, &about) == 0 && (file = find(&about))) {
        free(file->path);
        free(file->content);
        *file = files[--file_count];
    }
}

/* Notes that what a file holds now is durable. */
static void keep(int fd, int only_if_unknown) {
    struct stat about;
    char link[32];
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode)) return;
    struct durable *file = find(&about);
    if (file && only_if_unknown) return;
    if (!file) {
        if (file_count == (int)(sizeof files / sizeof *files)) abort();
        file = &files[file_count++];
        memset(file, 0, sizeof *file);
        file->device = about.st_dev;
        file->inode = about.st_ino;
        file->path = strdup(path_of(fd));
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int copy = REAL(open)(link, O_RDONLY | O_CLOEXEC);
    file->content = realloc(file->content, about.st_size + 1);
    ssize_t got = copy < 0 ? -1 : REAL(pread)(copy, file->content, about.st_size, 0);
    if (got < 0) abort();
    file->size = got;
    REAL(close)(copy);
}

/* Lets a file have what was durable of it, and no more. */
static void fall_back(struct durable *file) {
    /* SQLite's index of its log lies in shared memory; it is made anew at every first opening. */
    size_t length = strlen(file->path);
    if (length > 4 && strcmp(file->path + length - 4, "-shm") == 0) return;
    int fd = REAL(open)(file->path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (REAL(ftruncate)(fd, file->size) != 0) abort();
    if (REAL(pwrite)(fd, file->content, file->size, 0) != (ssize_t)file->size) abort();
    REAL(close)(fd);
}

static void fall_back_all(void) {
    for (int i = 0; i < file_count; i++) fall_back(&files[i]);
}

/* --- The plan. ----------------------------------------------------------------------------- */

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static void note(const char *kind, const char *path, enum fault fault) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%ld %s %s %s\n", calls, kind, fault_names[fault],
                          path + folder_length + (path[folder_length] == '/'));
    if (log_fd >= 0 && REAL(write)(log_fd, line, length) != length) abort();
}

/* What is to happen to the next call. `takes_room`: it fails where there is none left. */
static enum fault next(const char *kind, const char *path, int takes_room) {
    if (!*path) return NONE;
    enum fault fault = NONE;
    calls++;
    for (int i = 0; i < planned; i++)
        if (plan[i].at == calls) fault = plan[i].fault;
    if (fault == FULL || fault == DEAD) lasting = fault;
    if (fault == NONE || fault == lasting)
        fault = lasting == DEAD ? EIO_ : lasting == FULL && takes_room ? ENOSPC_ : NONE;
    note(kind, path, fault);
    if (fault == POWER) fall_back_all();
    if (fault == POWER || fault == KILL) die();
    return fault;
}

/* Whether a call that moves no bytes fails; it has its errno then. */
static int fails(enum fault fault) {
    if (fault == NONE || fault == SHORT) return 0;
    if (fault == CUT) die();
    errno = fault == ENOSPC_ ? ENOSPC : EIO;
    return 1;
}

/* The descriptor of an armed log must not meet what the program does with its own. */
static void close_log(void) {
    if (log_fd >= 0) REAL(close)(log_fd);
    log_fd = -1;
}

/* Begins to count, with these faults; an empty folder ends it. Returns 0, or -1 if the plan is
 * none. */
int faults_arm(const char *below, const char *log, const char *faults) {
    close_log();
    folder_length = 0;
    calls = planned = file_count = 0;
    lasting = NONE;
    for (const char *at = faults; *at;) {
        char name[16];
        int used = 0, known = -1;
        if (planned == 8 || sscanf(at, " %ld %15[a-z] %n", &plan[planned].at, name, &used) != 2)
            return -1;
        for (int i = 0; i < FAULTS; i++)
            if (strcmp(name, fault_names[i]) == 0) known = i;
        if (known < 0) return -1;
        plan[planned++].fault = known;
        at += used;
        if (*at == ';') at++;
    }
    if (!*below) return 0;
    log_fd = REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0) return -1;
    snprintf(folder, sizeof folder, "%s", below);
    folder_length = strlen(folder);
    return 0;
}

__attribute__((constructor)) static void begin(void) {
    const char *below = getenv("FAULTS_FOLDER");
    const char *log = getenv("FAULTS_LOG"), *faults = getenv("FAULTS_PLAN");
    if (below && log && faults_arm(below, log, faults ? faults : "") != 0) abort();
}

/* --- The calls. ---------------------------------------------------------------------------- */

static int open_at(int dir, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    struct stat about;
    snprintf(path, sizeof path, "%s", path_at(dir, name));
    if (!*path) return REAL(openat)(dir, name, flags, mode);
    int is_new = stat(path, &about) != 0;
    if (fails(next("open", path, is_new && flags & O_CREAT))) return -1;
    if (!is_new && flags & O_TRUNC) { /* what is durable of it does not go at once */
        int before = REAL(open)(path, O_RDONLY | O_CLOEXEC);
        if (before >= 0) keep(before, 1);
        if (before >= 0) REAL(close)(before);
    }
    int fd = REAL(openat)(dir, name, flags, mode);
    if (fd >= 0 && is_new) forget(path); /* the number of a removed file may come again */
    if (fd >= 0) keep(fd, 1);
    return fd;
}

static mode_t mode_of(int flags, va_list rest) {
    return flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
}

#define OPEN(name)                                           \
    int name(const char *path, int flags, ...) {             \
        va_list rest;                                        \
        va_start(rest, flags);                               \
        mode_t mode = mode_of(flags, rest);                  \
        va_end(rest);                                        \
        return open_at(AT_FDCWD, path, flags, mode);         \
    }
#define OPENAT(name)                                         \
    int name(int dir, const char *path, int flags, ...) {    \
        va_list rest;                                        \
        va_start(rest, flags);                               \
        mode_t mode = mode_of(flags, rest);                  \
        va_end(rest);                                        \
        return open_at(dir, path, flags, mode);              \
    }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

/* How many of the bytes are moved before the call ends as it will. */
static size_t part(enum fault fault, size_t size) {
    return fault == SHORT || fault == TORN || fault == CUT ? (size + 1) / 2 : size;
}

static ssize_t moved(enum fault fault, ssize_t done) {
    if (fault == CUT) die();
    if (fault != TORN) return done;
    errno = EIO;
    return -1;
}

static int moves_none(enum fault fault) {
    return (fault == EIO_ || fault == ENOSPC_ || fault == LOST) && fails(fault);
}

ssize_t write(int fd, const void *data, size_t size) {
    enum fault fault = next("write", path_of(fd), 1);
    if (moves_none(fault)) return -1;
    return moved(fault, REAL(write)(fd, data, part(fault, size)));
}

static ssize_t write_at(int fd, const void *data, size_t size, off_t offset) {
    enum fault fault = next("write", path_of(fd), 1);
    if (moves_none(fault)) return -1;
    return moved(fault, REAL(pwrite)(fd, data, part(fault, size), offset));
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return write_at(fd, data, size, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    return write_at(fd, data, size, offset);
}

ssize_t read(int fd, void *data, size_t size) {
    enum fault fault = next("read", path_of(fd), 0);
    if (moves_none(fault)) return -1;
    return moved(fault, REAL(read)(fd, data, part(fault, size)));
}

static ssize_t read_at(int fd, void *data, size_t size, off_t offset) {
    enum fault fault = next("read", path_of(fd), 0);
    if (moves_none(fault)) return -1;
    return moved(fault, REAL(pread)(fd, data, part(fault, size), offset));
}

ssize_t pread(int fd, void *data, size_t size, off_t offset) {
    return read_at(fd, data, size, offset);
}

ssize_t pread64(int fd, void *data, size_t size, off_t offset) {
    return read_at(fd, data, size, offset);
}

/* Several pieces in one call: as many calls of one piece. The caller sees a short one at worst. */
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) {
    if (!*path_of(fd)) return REAL(pwritev)(fd, pieces, count, offset);
    return count ? write_at(fd, pieces->iov_base, pieces->iov_len, offset) : 0;
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
    if (!*path_of(fd)) return REAL(writev)(fd, pieces, count);
    return count ? write(fd, pieces->iov_base, pieces->iov_len) : 0;
}

static int sync_file(int fd, int (*really)(int)) {
    const char *path = path_of(fd);
    if (!*path) return really(fd);
    enum fault fault = next("sync", path, 0);
    struct stat about;
    struct durable *file;
    if (fault == LOST && fstat(fd, &about) == 0 && (file = find(&about))) fall_back(file);
    if (fails(fault)) return -1;
    keep(fd, 0);
    return 0;
}

int fsync(int fd) { return sync_file(fd, REAL(fsync)); }
int fdatasync(int fd) { return sync_file(fd, REAL(fdatasync)); }

int sync_file_range(int fd, off64_t offset, off64_t size, unsigned int flags) {
    if (fails(next("sync", path_of(fd), 0))) return -1;
    return REAL(sync_file_range)(fd, offset, size, flags);
}

int ftruncate(int fd, off_t size) {
    if (fails(next("truncate", path_of(fd), 0))) return -1;
    return REAL(ftruncate)(fd, size);
}

int ftruncate64(int fd, off64_t size) { return ftruncate(fd, size); }

int close(int fd) {
    int failed = fails(next("close", path_of(fd), 0)); /* it is closed all the same: close(2) */
    int saved = errno, done = REAL(close)(fd);
    if (failed) errno = saved;
    return failed ? -1 : done;
}

int fchmod(int fd, mode_t mode) {
    if (fails(next("chmod", path_of(fd), 0))) return -1;
    return REAL(fchmod)(fd, mode);
}

static int rename_at(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    char old[PATH_MAX], new[PATH_MAX];
    snprintf(old, sizeof old, "%s", path_at(from_dir, from));
    snprintf(new, sizeof new, "%s", path_at(to_dir, to));
    if (fails(next("rename", new, 0))) return -1;
    if (*new) forget(new);
    int done = REAL(renameat2)(from_dir, from, to_dir, to, flags);
    struct stat about;
    struct durable *file;
    if (done == 0 && *new && stat(new, &about) == 0 && (file = find(&about))) {
        free(file->path);
        file->path = strdup(new);
    }
    return done;
}

int rename(const char *from, const char *to) {
    return rename_at(AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to) {
    return rename_at(from_dir, from, to_dir, to, 0);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags) {
    return rename_at(from_dir, from, to_dir, to, flags);
}

int link(const char *from, const char *to) {
    if (fails(next("link", path_at(AT_FDCWD, to), 1))) return -1;
    return REAL(link)(from, to);
}

static int remove_at(const char *kind, int dir, const char *name, int flags) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", path_at(dir, name));
    if (fails(next(kind, path, 0))) return -1;
    if (*path) forget(path);
    return REAL(unlinkat)(dir, name, flags);
}

int unlink(const char *path) { return remove_at("unlink", AT_FDCWD, path, 0); }
int unlinkat(int dir, const char *path, int flags) { return remove_at("unlink", dir, path, flags); }
int rmdir(const char *path) { return remove_at("rmdir", AT_FDCWD, path, AT_REMOVEDIR); }

int mkdir(const char *path, mode_t mode) {
    if (fails(next("mkdir", path_at(AT_FDCWD, path), 1))) return -1;
    return REAL(mkdir)(path, mode);
}

int mkdirat(int dir, const char *path, mode_t mode) {
    if (fails(next("mkdir", path_at(dir, path), 1))) return -1;
    return REAL(mkdirat)(dir, path, mode);
}

DIR *opendir(const char *path) {
    if (fails(next("list", path_at(AT_FDCWD, path), 0))) return NULL;
    return REAL(opendir)(path);
}
