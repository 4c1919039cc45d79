/* SPDX-License-Identifier: Apache-2.0 */
/* The `banyan` program: banyan VERB [flags], alone or under mpirun.
 *
 * All ranks end together and with the same exit code, and an error is printed once:
 *
 *     comm          made first, so that every later failure can be agreed on
 *     command line  compared across ranks by hash, then parsed by each: equal words, equal
 *                   errors
 *     config        read by rank 0, which broadcasts the bytes or the error
 *     place         device and transport, agreed on
 *     verb          returns a code; the largest over all ranks is everybody's */
#include "launch/command.h"
#include "launch/device.h"

#include <stdlib.h>
#include <string.h>

static uint64_t hash_words(char **words)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, the terminating zeros included */
    for (; *words; words++) {
        const char *c = *words;
        do h = (h ^ (unsigned char)*c) * 0x100000001b3u;
        while (*c++);
    }
    return h;
}

/* mpirun can start different command lines on different ranks (program : program). */
static int same_words(const job *j, char **words)
{
    uint64_t mine = hash_words(words), *all = calloc((size_t)j->ranks, sizeof *all);
    banyan_status status = all ? BANYAN_OK : BANYAN_ERR_MEMORY;
    status = banyan_comm_agree(j->comm, status);
    if (!status) status = banyan_comm_allgather(j->comm, &mine, sizeof mine, all);
    int code = status ? job_failed(j, status, "comparing command lines") : EXIT_OK;
    for (int r = 1; !code && r < j->ranks; r++) {
        if (all[r] == all[0]) continue;
        say_error(j, "rank %d was given another command line than rank 0", r);
        code = EXIT_USAGE;
    }
    free(all);
    return code;
}

static const verb_entry *find_verb(const job *j, const char *name)
{
    const char *names[64];
    int count = 0;
    for (const verb_entry *e = verb_table; e->name && count < 63; e++) {
        if (!strcmp(e->name, name)) return e;
        names[count++] = e->name;
    }
    names[count] = NULL;
    const char *near = banyan_nearest(name, names);
    if (near)
        say_error(j, "no verb \"%s\"; did you mean \"%s\"?", name, near);
    else
        say_error(j, "no verb \"%s\"; \"banyan --help\" lists them", name);
    return NULL;
}

static int run_with_outputs(job *j)
{
    output_file *early = NULL;
    j->early = &early;
    int code = output_open_early(j);
    if (!code) code = j->verb->run(j);
    output_drop_early(j);
    j->early = NULL;
    return code;
}

static int run_verb(job *j, const verb_entry *entry, char **words)
{
    j->verb = entry->verb;
    j->words = words;
    if (!job_all_good(j, command_parse(j, words))) return EXIT_USAGE;
    if (job_switch(j, "help")) {
        if (j->rank == 0) help_verb(stdout, entry);
        return EXIT_OK;
    }
    if (!j->verb->needs_comm && j->ranks > 1) {
        say_error(j, "\"%s\" runs in one process; start it without mpirun", entry->name);
        return EXIT_USAGE;
    }
    int code = config_load(j, job_text(j, "config"), &j->config);
    if (code) return code;
    if (!job_all_good(j, command_apply(j, words))) return EXIT_USAGE;
    if (j->verb->needs_comm) {
        code = choose_place(j);
        return code ? code : run_with_outputs(j);
    }
    banyan_comm *comm = j->comm;
    j->comm = NULL;
    code = run_with_outputs(j);
    j->comm = comm;
    return code;
}

static int dispatch(job *j, char **argv)
{
    int code = same_words(j, argv + 1);
    if (code) return code;
    const char *name = argv[1];
    if (!name) {
        if (j->rank == 0) help_program(stderr);
        return EXIT_USAGE;
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) {
        if (j->rank == 0) help_program(stdout);
        return EXIT_OK;
    }
    if (!strcmp(name, "--version")) {
        if (j->rank == 0) printf("banyan %s\n", banyan_version());
        return EXIT_OK;
    }
    if (name[0] == '-') {
        say_error(j, "the first word is a verb, not \"%s\"; \"banyan --help\" lists them",
                  name);
        return EXIT_USAGE;
    }
    const verb_entry *entry = find_verb(j, name);
    return entry ? run_verb(j, entry, argv + 2) : EXIT_USAGE;
}

/* The library's warnings: a coverage hole, and the like. It speaks of them on one rank. */
static void warn(void *arg, banyan_log_level level, const char *message)
{
    const char *kind = level == BANYAN_LOG_WARN ? "warning: " : "";
    for (const char *line = message; *line;) {
        int length = (int)strcspn(line, "\n");
        if (length > 0) say_error(arg, "%s%.*s", kind, length, line);
        line += length + (line[length] == '\n');
    }
}

static int same_code(const job *j, int code)
{
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "banyan: cannot write to standard output\n");
        if (code < EXIT_FAILED) code = EXIT_FAILED;
    }
    double worst = code;
    if (j->ranks == 1) return code;
    banyan_status status = banyan_comm_allreduce(j->comm, &worst, 1, BANYAN_MAX);
    if (!status) return (int)worst;
    if (code)
        say_unsaid(j); /* rank 0 may not be there to say it */
    else
        job_failed(j, status, "at the end");
    return EXIT_FAILED;
}

/* Starting takes longer than a message: processes come up one after another. */
static const double start_seconds = 15;

/* From before MPI is up, the time limit that was asked for holds. */
static banyan_status begin_comm(job *j, char **words, double *limit)
{
    const double asked = config_time_limit(words);
    *limit = asked < 0 ? 600 : asked;
    if (*limit > 0) *limit += start_seconds;
    watch_begin("all ranks to start (MPI_Init)", *limit);
    const banyan_status status = banyan_comm_create(NULL, NULL, &j->comm);
    watch_end();
    if (!status && asked >= 0) banyan_comm_timeout(j->comm, asked);
    return status;
}

int main(int argc, char **argv)
{
    (void)argc;
    blas_choose(argv);
    job j = {.verbs = verb_table, .device = &device_cpu};
    double limit;
    banyan_status status = begin_comm(&j, argv + 1, &limit);
    if (status) {
        fprintf(stderr, "banyan: rank %s: %s\n", launched_rank(), banyan_error_message());
        return status == BANYAN_ERR_CONFIG ? EXIT_USAGE : EXIT_FAILED;
    }
    j.rank = banyan_comm_rank(j.comm);
    j.ranks = banyan_comm_size(j.comm);
    banyan_log_set(BANYAN_LOG_WARN, warn, &j);
    int code = same_code(&j, dispatch(&j, argv));
    banyan_log_set(BANYAN_LOG_ERROR, NULL, NULL);
    if (j.config) banyan__config__free_unpacked(j.config, NULL);
    free(j.value);
    watch_begin("all ranks to end (MPI_Finalize)", limit);
    banyan_comm_destroy(j.comm);
    watch_end();
    device_close(j.device);
    return code;
}
