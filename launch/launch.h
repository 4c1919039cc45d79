/* SPDX-License-Identifier: Apache-2.0 */
/* launch.h - what the verbs of the `banyan` program share.
 *
 * Knows: the command line, configs, exit codes, output. Uses the library through banyan.h, as
 * any user would; generated protobuf types appear in launch/ only.
 *
 * A verb is one file, verb_NAME.c, with one const struct, and one row of verbs.def. */
#ifndef BANYAN_LAUNCH_H
#define BANYAN_LAUNCH_H

#include "banyan.h"
#include "banyan.pb-c.h" /* generated: Banyan__Config */

#include <stdbool.h>

struct json_t;
struct device;

/* Exit codes: what a script can tell apart. Ranks may return different ones; all of them end
 * with the largest. */
enum {
    EXIT_OK = 0,
    EXIT_MISMATCH = 1, /* it ran, and what was measured is not what was expected */
    EXIT_USAGE = 2, /* bad input: flag, config, checkpoint, spec, more memory than there is */
    EXIT_FAILED = 3 /* the run itself failed: disk, communication, device */
};

/* One flag of a verb. With `field`, "--name VALUE" sets that config field ("needle.depths");
 * repeated fields take comma-separated lists, integers the suffixes k, m, g (powers of 1024).
 * Without, the verb asks for it by name. arg NULL: a switch. arg "OUTPUT": a file that the verb
 * writes; it is opened before the verb runs, so that a folder which is not there is noticed
 * before the work. */
typedef struct flag {
    const char *name, *arg, *field, *doc;
} flag;

/* One run of a verb, on one rank. config is complete: file, --set and flags applied, the same
 * bytes on every rank. Strings are NULL when not given. */
typedef struct job {
    const struct verb_entry *verbs; /* of the program, for the verb that lists them */
    const struct verb *verb;
    Banyan__Config *config;
    banyan_comm *comm; /* NULL for verbs that need none */
    int rank, ranks;
    struct device *device;      /* never NULL: the CPU, or what execution.device asks for */
    char **words;               /* of the command line, behind the verb */
    char **value;               /* [flags of the verb, then the common ones], NULL: not given */
    struct output_file **early; /* a list: outputs that no output_open has asked for yet */
} job;

typedef struct verb {
    const char *name, *doc;
    const flag *flags;   /* ends with a NULL name; --config, --set, --json, --help are common */
    const char *operand; /* the flag that a word without "--" stands for, or NULL */
    int needs_comm;      /* collective: started by mpirun with any number of ranks */
    int (*run)(job *j);  /* returns an exit code, the same on every rank */
} verb;

const char *job_text(const job *j, const char *flag_name); /* NULL: not given */
bool job_switch(const job *j, const char *flag_name);
/* The flags as they were given, one after another, for those that may be repeated. false: no
 * more. */
bool job_given(const job *j, int index, const char **name, const char **value);

/* Print "banyan: ..." once, from rank 0, on stderr. Should rank 0 be gone in the end, the first
 * error of every other rank is printed there (say_unsaid). */
void say_error(const job *j, const char *format, ...) __attribute__((format(printf, 2, 3)));
void say_warning(const job *j, const char *format, ...) __attribute__((format(printf, 2, 3)));
void say_unsaid(const job *j);
/* Every rank passes whether it has what it needs, having said what it lacks: for what can fail
 * on one rank alone, which must not leave the others waiting. The words of the first that
 * failed are said. Collective (without a comm: `mine`). */
bool job_all_good(const job *j, bool mine);
/* The exit code for a failed library call, its message printed once. For failures that every
 * rank knows of: what set-up calls return, or banyan_comm_agree after calls that do not agree.
 * (Each rank speaks for itself when communication failed.) */
int job_failed(const job *j, banyan_status status, const char *what);

/* Every rank passes its own status; if any is not OK, all return an error, for job_failed,
 * which then has the words of the first rank that failed: of the device, or of the library.
 * Collective. */
banyan_status job_agree(const job *j, banyan_status mine);
/* .. of a comm of fewer ranks. */
banyan_status job_agree_on(const job *j, banyan_comm *comm, banyan_status mine);

/* Does a person watch descriptor `fd`? false on other ranks than 0. */
bool job_on_terminal(const job *j, int fd);
/* Progress on one line of a terminal; silent on other ranks and when stderr is no terminal. */
void progress(const job *j, const char *format, ...) __attribute__((format(printf, 2, 3)));
void progress_end(const job *j);
/* Of a checkpoint's weights: for model_loading, with the job as arg. */
void progress_loading(void *j, double share);

/* A spec from the config: shape, cache, rules, execution. Holds the rules that spec->rules
 * points to; free with spec_free. heads and layers in `spec` may be filled in later by a
 * checkpoint, so range texts are resolved by spec_rules once they are known. */
typedef struct config_spec {
    banyan_spec spec;
    banyan_rule *rules;
    double *bandwidth;
} config_spec;
banyan_status spec_from_config(const Banyan__Config *config, config_spec *out, char *why,
                               size_t why_bytes);
void spec_free(config_spec *s);
/* Are values the first numbers of their keys, in all layers? Of a spec that was made so, or its
 * plan's. */
bool spec_value_in_key(const banyan_spec *spec);
/* Of the key and the value of a token of one KV head in the cache. */
double spec_token_bytes(const banyan_spec *spec);

/* A file that appears under its name only when it is complete (temporary file, then rename).
 * Collective where the verb is: rank 0 writes, what other ranks print goes nowhere. */
typedef struct output_file output_file;
output_file *output_open(const job *j, const char *path); /* NULL on all ranks: reported */
/* Open everything that a flag or a config field of this verb says it writes; output_open hands
 * it out. EXIT_OK, or reported. */
int output_open_early(job *j);
void output_drop_early(job *j); /* nothing remains of what nobody asked for */
FILE *output_stream(output_file *f);
/* keep: under its name, else nothing remains. f may be NULL. EXIT_OK, or on every rank
 * EXIT_FAILED */
int output_close(output_file *f, const job *j, bool keep);

/* Every rank passes its verdict and, where it failed, words: all get the first failing rank's
 * verdict and, in `why`, its words. Collective. */
banyan_status agree_words(banyan_comm *comm, banyan_status mine, char *why, size_t why_bytes);
/* Is there room for `bytes` more on this rank, and for what the other ranks of its node ask
 * for? MEMORY, with words, on all ranks when some node has none. Collective. */
banyan_status agree_room(banyan_comm *comm, int64_t bytes, const char *what, char *why,
                         size_t why_bytes);

/* What gnuplot draws for a script that sets an svg terminal and no output. */
typedef enum plot_result { PLOT_DRAWN, PLOT_NO_GNUPLOT, PLOT_FAILED } plot_result;
plot_result plot_svg(const char *script, FILE *out);
/* A picture to a file (path NULL: none), drawn on rank 0. One that cannot be drawn is a
 * warning: the numbers are elsewhere. An exit code. */
int plot_write(const job *j, const char *path, plot_result (*draw)(const void *arg, FILE *out),
               const void *arg);

/* One line of JSON; takes `line` (of jansson; NULL, out of memory, writes nothing). */
void output_line(FILE *out, struct json_t *line);

/* Any text as a JSON string: bytes that are no UTF-8 (in a name of a file) are shown as "\xFC".
 * NULL: out of memory. */
struct json_t *json_text(const char *text);
/* A number; null where JSON has none: infinity, NaN. NULL: out of memory. */
struct json_t *json_finite(double value);

/* All bytes of a file ("-": standard input), with a 0 behind them; for free(). NULL: why. */
char *input_read(const char *path, size_t *bytes, char *why, size_t why_bytes);
/* The token ids in a file ("-": standard input), 32-bit little endian or decimal text, at least
 * one, with `room` free places behind them; for free(). NULL: why. */
uint32_t *ids_read(const char *path, int64_t room, int64_t *count, char *why, size_t why_bytes);
/* .. read by rank 0 alone, which may read a pipe, and given to all. Collective; EXIT_OK, or
 *   reported. */
int ids_share(const job *j, const char *path, int64_t room, uint32_t **ids, int64_t *count);
/* Are all of them below `vocab`? */
bool ids_check(const uint32_t *ids, int64_t count, int32_t vocab, const char *path, char *why,
               size_t why_bytes);

/* "12", "-3", "64k", "1m": with a suffix k, m or g, of powers of 1024, from low to high. */
bool number_read(const char *text, int64_t low, uint64_t high, int64_t *out);
int number_suffix(char c); /* 10, 20 or 30 bits for k, m, g; 0: none of them */
void numbers_sort(double *values, int count);     /* ascending */
double numbers_median(double *values, int count); /* sorts them; count > 0 */
/* memory.c: bytes of this process that are in memory; 0 where nobody tells. */
int64_t memory_resident(void);
/* Of sorted values: half of the middle half, relative to the median; the nearest rank, share 0
 * .. 1. */
double numbers_spread(const double *sorted, int count);
double numbers_percentile(const double *sorted, int count, double share);

/* Is there a row of that name in a table of the library, and can it be used here? */
bool row_is_available(banyan_table table, const char *row);

double now_seconds(void); /* monotonic */

#endif
