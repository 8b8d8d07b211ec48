/*
 * The program inside every sandbox. It runs as PID 1, listens on a unix socket in a directory that
 * the runtime bind-mounted, and runs one command per connection.
 *
 *     toolserver SOCKET
 *
 * A request is one header, then its strings, then the command's stdin; all integers are
 * little-endian:
 *
 *     u32 magic  u32 flags  u32 timeout_ms  u32 argc  u32 envc  u32 strings_len
 *     u64 output_limit  u64 stdin_len
 *     strings: cwd, argc arguments, envc NAME=VALUE, each ended by a NUL byte
 *     stdin_len bytes
 *
 * The answer is a stream of frames, u8 kind and u32 length and that many bytes:
 *
 *     1  stdout     2  stderr
 *     3  result: i32 exit_code  i32 signal  u32 bits  u64 microseconds    (always the last)
 *     4  error: text; the request could not be read or no process could be made (also the last)
 *
 * Rules that the tests hold it to:
 *   - the command gets its own session; on timeout, or when the client goes away, the whole
 *     process group is killed;
 *   - the command is over when its own process is: output held open by children in the background
 *     is not waited for;
 *   - beyond output_limit bytes a stream is read and dropped, and said to be truncated;
 *   - orphans are reaped, because SIGCHLD is ignored in PID 1.
 *
 * It runs as the sandbox's own user: code in the sandbox can kill it or answer in its place. The
 * runtime therefore believes nothing that comes from here except as the word of the sandbox.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAGIC 0x31544b53u /* "SKT1" */
#define FLAG_SHELL 1u     /* argv[0] is a wish: where it is missing, use sh */
#define MAX_STRINGS (8u << 20)
#define MAX_COUNT 65536u
#define CHUNK 65536
#define SEND_TIMEOUT_S 60
#define REAP_AFTER_KILL_MS 5000

#define BIT_TIMED_OUT 1u
#define BIT_STDOUT_TRUNCATED 2u
#define BIT_STDERR_TRUNCATED 4u

enum frame { FRAME_STDOUT = 1, FRAME_STDERR = 2, FRAME_RESULT = 3, FRAME_ERROR = 4 };

struct request {
    uint32_t magic, flags, timeout_ms, argc, envc, strings_len;
    uint64_t output_limit, stdin_len;
} __attribute__((packed));

struct result {
    int32_t exit_code, signal;
    uint32_t bits;
    uint64_t microseconds;
} __attribute__((packed));

struct stream {
    int fd;
    enum frame kind;
    uint32_t truncated_bit;
    uint64_t left;
};

struct job {
    int conn;
    pid_t pid;
    int stdin_fd, sigchld_fd;
    struct stream out, err;
    uint64_t stdin_left;   /* not yet read from the client */
    size_t held, held_at;  /* read from the client, not yet given to the command */
    uint32_t bits;
    int status;
    char stdin_buffer[CHUNK];
};

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static int read_all(int fd, void *data, size_t size) {
    for (char *at = data; size > 0;) {
        ssize_t n = read(fd, at, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

static int write_all(int fd, const void *data, size_t size) {
    for (const char *at = data; size > 0;) {
        ssize_t n = send(fd, at, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return -1;
        at += n;
        size -= (size_t)n;
    }
    return 0;
}

static int send_frame(int fd, enum frame kind, const void *data, uint32_t size) {
    unsigned char head[5] = {(unsigned char)kind};
    memcpy(head + 1, &size, sizeof size);
    if (write_all(fd, head, sizeof head) < 0) return -1;
    return size ? write_all(fd, data, size) : 0;
}

static void fail(int conn, const char *what) {
    char text[256];
    int n = snprintf(text, sizeof text, "%s: %s", what, strerror(errno));
    send_frame(conn, FRAME_ERROR, text, (uint32_t)n);
    _exit(1);
}

/* Cuts `count` NUL-ended strings out of the buffer; NULL where the request lies about its size. */
static char *cut(char **out, uint32_t count, char *at, const char *end) {
    for (uint32_t i = 0; i < count; i++) {
        char *stop = memchr(at, 0, (size_t)(end - at));
        if (stop == NULL) return NULL;
        out[i] = at;
        at = stop + 1;
    }
    out[count] = NULL;
    return at;
}

static void become_command(const struct request *req, char *cwd, char **argv, char **env, int *in,
                           int *out, int *err) {
    sigset_t none;
    sigemptyset(&none);
    setsid();
    signal(SIGCHLD, SIG_DFL);
    signal(SIGPIPE, SIG_DFL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    dup2(in[0], 0);
    dup2(out[1], 1);
    dup2(err[1], 2); /* everything else is close-on-exec */
    for (char **e = env; *e; e++) putenv(*e);
    if (chdir(cwd) < 0) {
        dprintf(2, "skydeck: cannot enter %s: %s\n", cwd, strerror(errno));
        _exit(126);
    }
    execvp(argv[0], argv);
    if (errno == ENOENT && (req->flags & FLAG_SHELL)) {
        argv[0] = "sh";
        execvp(argv[0], argv);
    }
    int missing = errno == ENOENT;
    dprintf(2, "skydeck: cannot run %s: %s\n", argv[0], strerror(errno));
    _exit(missing ? 127 : 126);
}

/* Reads at most `most` bytes of one stream and passes on what the limit allows.
 * Returns bytes read, 0 at its end, -1 for "nothing now", -2 when the client is gone. */
static ssize_t pump(struct job *job, struct stream *s, size_t most) {
    static char buffer[CHUNK];
    ssize_t n = read(s->fd, buffer, most < CHUNK ? most : CHUNK);
    if (n < 0) return errno == EAGAIN || errno == EINTR ? -1 : 0;
    if (n == 0) return 0;
    uint64_t keep = (uint64_t)n < s->left ? (uint64_t)n : s->left;
    if (keep < (uint64_t)n) job->bits |= s->truncated_bit;
    s->left -= keep;
    if (keep && send_frame(job->conn, s->kind, buffer, (uint32_t)keep) < 0) return -2;
    return n;
}

static void close_stream(struct stream *s) {
    close(s->fd);
    s->fd = -1;
}

static void close_stdin(struct job *job) {
    if (job->stdin_fd >= 0) close(job->stdin_fd);
    job->stdin_fd = -1;
    job->held = 0;
}

/* The client's bytes towards the command. A command that closed its stdin loses the rest. */
static int take_stdin(struct job *job) {
    size_t want = job->stdin_left < CHUNK ? (size_t)job->stdin_left : CHUNK;
    ssize_t n = read(job->conn, job->stdin_buffer, want);
    if (n < 0) return errno == EINTR ? 0 : -1;
    if (n == 0) return -1;
    job->stdin_left -= (uint64_t)n;
    job->held = job->stdin_fd >= 0 ? (size_t)n : 0;
    job->held_at = 0;
    return 0;
}

static void give_stdin(struct job *job) {
    ssize_t n = write(job->stdin_fd, job->stdin_buffer + job->held_at, job->held);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR) close_stdin(job);
        return;
    }
    job->held -= (size_t)n;
    job->held_at += (size_t)n;
    if (job->held == 0 && job->stdin_left == 0) close_stdin(job);
}

static int reaped(struct job *job) {
    return waitpid(job->pid, &job->status, WNOHANG) == job->pid;
}

/* What the command had written before it ended still lies in the pipes: their capacity at most,
 * so that a child in the background that goes on writing cannot hold us. */
static void drain(struct job *job, struct stream *s) {
    if (s->fd < 0) return;
    int capacity = fcntl(s->fd, F_GETPIPE_SZ);
    for (ssize_t left = capacity > 0 ? capacity : CHUNK; left > 0;) {
        ssize_t n = pump(job, s, (size_t)left);
        if (n <= 0) return;
        left -= n;
    }
}

/* Returns 0 when the command has ended, 1 on timeout, -1 when the client went away. */
static int relay(struct job *job, uint64_t deadline) {
    for (;;) {
        int64_t left_ms = deadline ? ((int64_t)(deadline - now_us()) + 999) / 1000 : -1;
        if (deadline && left_ms <= 0) return 1;
        short conn_events = POLLRDHUP;
        if (job->stdin_left > 0 && job->held == 0) conn_events |= POLLIN;
        struct pollfd fds[5] = {
            {job->conn, conn_events, 0},
            {job->sigchld_fd, POLLIN, 0},
            {job->out.fd, POLLIN, 0},
            {job->err.fd, POLLIN, 0},
            {job->held ? job->stdin_fd : -1, POLLOUT, 0},
        };
        if (poll(fds, 5, left_ms > 1000000 ? 1000000 : (int)left_ms) < 0 && errno != EINTR)
            return -1;
        if (fds[0].revents & (POLLRDHUP | POLLHUP | POLLERR)) return -1;
        if ((fds[0].revents & POLLIN) && take_stdin(job) < 0) return -1;
        if (fds[4].revents) give_stdin(job);
        struct stream *streams[2] = {&job->out, &job->err};
        for (int i = 0; i < 2; i++) {
            if (!fds[2 + i].revents) continue;
            ssize_t n = pump(job, streams[i], CHUNK);
            if (n == -2) return -1;
            if (n == 0) close_stream(streams[i]);
        }
        if (fds[1].revents) {
            struct signalfd_siginfo info;
            if (read(job->sigchld_fd, &info, sizeof info) > 0 && reaped(job)) return 0;
        }
    }
}

static void reap_killed(struct job *job) {
    struct pollfd child = {job->sigchld_fd, POLLIN, 0};
    for (int waited = 0; waited < REAP_AFTER_KILL_MS; waited += 50) {
        if (reaped(job)) return;
        poll(&child, 1, 50);
    }
}

static void send_result(struct job *job, uint64_t started) {
    struct result r = {.bits = job->bits, .microseconds = now_us() - started};
    if (job->bits & BIT_TIMED_OUT) {
        r.exit_code = -1;
    } else if (WIFSIGNALED(job->status)) {
        r.signal = WTERMSIG(job->status);
        r.exit_code = 128 + r.signal;
    } else {
        r.exit_code = WEXITSTATUS(job->status);
    }
    send_frame(job->conn, FRAME_RESULT, &r, sizeof r);
}

static void nonblocking(int fd) { fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); }

static void run(int conn, const struct request *req, char *cwd, char **argv, char **env) {
    static struct job job;
    int in[2], out[2], err[2];
    sigset_t chld;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    signal(SIGCHLD, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &chld, NULL);
    job.sigchld_fd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
    if (job.sigchld_fd < 0) fail(conn, "signalfd");
    if (pipe2(in, O_CLOEXEC) < 0 || pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0)
        fail(conn, "pipe");
    uint64_t started = now_us();
    job.pid = fork();
    if (job.pid < 0) fail(conn, "fork");
    if (job.pid == 0) become_command(req, cwd, argv, env, in, out, err);
    setpgid(job.pid, job.pid); /* in case we kill before the child has reached setsid */
    close(in[0]);
    close(out[1]);
    close(err[1]);
    job.conn = conn;
    job.stdin_fd = in[1];
    job.stdin_left = req->stdin_len;
    job.out = (struct stream){out[0], FRAME_STDOUT, BIT_STDOUT_TRUNCATED, req->output_limit};
    job.err = (struct stream){err[0], FRAME_STDERR, BIT_STDERR_TRUNCATED, req->output_limit};
    nonblocking(in[1]);
    nonblocking(out[0]);
    nonblocking(err[0]);
    if (job.stdin_left == 0) close_stdin(&job);
    int how = relay(&job, req->timeout_ms ? started + (uint64_t)req->timeout_ms * 1000u : 0);
    if (how != 0) kill(-job.pid, SIGKILL);
    if (how < 0) _exit(1);
    if (how > 0) {
        job.bits |= BIT_TIMED_OUT;
        reap_killed(&job);
    }
    drain(&job, &job.out);
    drain(&job, &job.err);
    send_result(&job, started);
    _exit(0);
}

static void serve(int conn) {
    struct timeval patience = {SEND_TIMEOUT_S, 0};
    setsockopt(conn, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(conn, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    struct request req;
    if (read_all(conn, &req, sizeof req) < 0) _exit(1);
    errno = EINVAL;
    if (req.magic != MAGIC || req.argc == 0 || req.argc > MAX_COUNT || req.envc > MAX_COUNT ||
        req.strings_len > MAX_STRINGS)
        fail(conn, "request");
    char *strings = malloc(req.strings_len + 1);
    char **list = calloc((size_t)req.argc + req.envc + 4, sizeof *list);
    if (strings == NULL || list == NULL) fail(conn, "memory");
    if (read_all(conn, strings, req.strings_len) < 0) _exit(1);
    const char *end = strings + req.strings_len;
    char **cwd = list, **argv = list + 2, **env = argv + req.argc + 1;
    char *at = cut(cwd, 1, strings, end);
    if (at) at = cut(argv, req.argc, at, end);
    if (at) at = cut(env, req.envc, at, end);
    errno = EINVAL;
    if (at != end) fail(conn, "request");
    run(conn, &req, cwd[0], argv, env);
}

static int listen_at(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) return -1;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unlink(path);
    umask(0); /* the runtime may be another user; the directory above is closed to strangers */
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0) return -1;
    umask(022);
    return listen(fd, 128) < 0 ? -1 : fd;
}

int main(int argc, char **argv) {
    if (argc != 2) return 64;
    signal(SIGCHLD, SIG_IGN); /* the kernel reaps: ours and every orphan */
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_DUMPABLE, 0); /* commands of the same user must not read or trace this process */
    int fd = listen_at(argv[1]);
    if (fd < 0) {
        perror("toolserver: cannot listen");
        return 1;
    }
    for (;;) {
        int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        if (conn < 0) continue;
        if (fork() == 0) {
            close(fd);
            serve(conn);
        }
        close(conn);
    }
}
