/* SPDX-License-Identifier: Apache-2.0 */
/* What a verb asks of its job: flags by name, errors said once, progress. */
#include "launch/command.h"
#include "launch/device.h"

#include <stdarg.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static char *value_of(const job *j, const char *name)
{
    int i = 0;
    for (const flag *f = j->verb->flags; f && f->name; f++, i++)
        if (!strcmp(f->name, name)) return j->value[i];
    for (const flag *f = common_flags; f->name; f++, i++)
        if (!strcmp(f->name, name)) return j->value[i];
    return NULL;
}

const char *job_text(const job *j, const char *flag_name)
{
    return value_of(j, flag_name);
}

bool job_switch(const job *j, const char *flag_name)
{
    return value_of(j, flag_name) != NULL;
}

/* Memory runs out on one rank: which? */
static bool lacks_rank(const job *j, const char *text)
{
    return j->ranks > 1 && !strstr(text, "rank ") &&
           (strstr(text, "out of memory") || strstr(text, "Cannot allocate memory"));
}

static void say(const job *j, const char *kind, const char *format, va_list args)
{
    char text[2048], rank[32] = "";
    vsnprintf(text, sizeof text, format, args);
    if (lacks_rank(j, text)) snprintf(rank, sizeof rank, "rank %d: ", j->rank);
    fflush(stdout);
    fprintf(stderr, "banyan: %s%s%s\n", kind, rank, text); /* one write: a shared terminal */
}

/* What this rank would have said first, were it rank 0: rank 0 may be the one that is gone. */
static char unsaid[2048];

void say_error(const job *j, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (j->rank == 0)
        say(j, "", format, args);
    else if (!*unsaid)
        vsnprintf(unsaid, sizeof unsaid, format, args);
    va_end(args);
}

void say_unsaid(const job *j)
{
    if (*unsaid) fprintf(stderr, "banyan: rank %d: %s\n", j->rank, unsaid);
    *unsaid = 0;
}

bool job_all_good(const job *j, bool mine)
{
    char why[sizeof unsaid] = "it failed";
    if (!j->comm || j->ranks == 1) return mine;
    if (*unsaid) memcpy(why, unsaid, sizeof why);
    const banyan_status status =
        agree_words(j->comm, mine ? BANYAN_OK : BANYAN_ERR_CONFIG, why, sizeof why);
    if (status && mine) say_error(j, "%s", why); /* else it has been said */
    return !status;
}

void say_warning(const job *j, const char *format, ...)
{
    if (j->rank != 0) return;
    va_list args;
    va_start(args, format);
    say(j, "warning: ", format, args);
    va_end(args);
}

/* A PEER's code is the failing rank's: the largest over ranks is taken in the end. */
static int exit_code(banyan_status status)
{
    switch (status) {
    case BANYAN_OK: return EXIT_OK;
    case BANYAN_ERR_ARGUMENT:
    case BANYAN_ERR_CONFIG:
    case BANYAN_ERR_MEMORY:
    case BANYAN_ERR_UNSUPPORTED:
    case BANYAN_ERR_PEER: return EXIT_USAGE;
    case BANYAN_ERR_DEVICE:
    case BANYAN_ERR_FILE:
    case BANYAN_ERR_COMM: return EXIT_FAILED;
    }
    return EXIT_FAILED;
}

int job_failed(const job *j, banyan_status status, const char *what)
{
    const char *colon = what && *what ? ": " : "";
    const char *words = j->device->why[0] ? j->device->why : banyan_error_message();
    char rank[32] = "";
    if (!*words && status == BANYAN_ERR_MEMORY)
        words = "out of memory"; /* ours, not the library's */
    /* One machine's memory is one rank's matter: whose, the words say, unless it is this
     * one's. */
    if (status == BANYAN_ERR_MEMORY && j->ranks > 1 && !strstr(words, "rank "))
        snprintf(rank, sizeof rank, "rank %d: ", j->rank);
    if (!what) what = "";
    if (status == BANYAN_ERR_COMM && j->ranks > 1) {
        fprintf(stderr, "banyan: rank %d: %s%s%s\n", j->rank, what, colon, words);
        *unsaid = 0;
    } else
        say_error(j, "%s%s%s%s", what, colon, rank, words);
    return exit_code(status);
}

/* The library's own agreement knows the library's words; a device's travel apart. */
banyan_status job_agree_on(const job *j, banyan_comm *comm, banyan_status mine)
{
    device *d = j->device;
    if (!d->row->memory->is_apart) return banyan_comm_agree(comm, mine);
    if (mine && !d->why[0])
        snprintf(d->why, sizeof d->why, "%s",
                 mine == BANYAN_ERR_MEMORY ? "out of memory" : banyan_error_message());
    return agree_words(comm, mine, d->why, sizeof d->why);
}

banyan_status job_agree(const job *j, banyan_status mine)
{
    return job_agree_on(j, j->comm, mine);
}

/* Open MPI gives each rank a pseudo-terminal as stdout and a pipe as stderr, whatever mpirun
 * itself writes to. What counts is then the launcher's own, which is rank 0's parent. */
bool job_on_terminal(const job *j, int fd)
{
    if (j->rank != 0) return false;
    char path[64], parent[64] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", (int)getppid());
    FILE *f = fopen(path, "r");
    bool known = f && fgets(parent, sizeof parent, f);
    if (f) fclose(f);
    bool launched = known && (!strncmp(parent, "mpirun", 6) || !strncmp(parent, "orte", 4) ||
                              !strncmp(parent, "mpiexec", 7) || !strncmp(parent, "prte", 4));
    if (!launched) return isatty(fd);
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getppid(), fd);
    ssize_t length = readlink(path, parent, sizeof parent - 1);
    if (length <= 0) return false;
    parent[length] = 0;
    return !strncmp(parent, "/dev/pts/", 9) || !strncmp(parent, "/dev/tty", 8);
}

void progress(const job *j, const char *format, ...)
{
    if (!job_on_terminal(j, 2)) return;
    char text[160];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "\r\033[K%s", text);
    fflush(stderr);
}

void progress_loading(void *j, double share)
{
    progress(j, "opening the checkpoint, %3.0f %%", 100 * share);
}

void progress_end(const job *j)
{
    if (!job_on_terminal(j, 2)) return;
    fprintf(stderr, "\r\033[K");
    fflush(stderr);
}

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
