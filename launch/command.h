/* SPDX-License-Identifier: Apache-2.0 */
/* command.h - from a command line and a config file to a job. Private to launch/'s base. */
#ifndef BANYAN_COMMAND_H
#define BANYAN_COMMAND_H

#include "launch/launch.h"

/* One row of verbs.def. */
typedef struct verb_entry {
    const char *name, *doc;
    const verb *verb;
} verb_entry;
extern const verb_entry verb_table[]; /* ends with a NULL name */

extern const flag common_flags[];

/* Give OpenBLAS the processor's kernels and one thread. May start the program anew: call it
 * first. */
void blas_choose(char **argv);

void help_program(FILE *out);
void help_verb(FILE *out, const verb_entry *entry);

/* Check the flags of j->verb and fill in j->value. false: reported. */
bool command_parse(job *j, char **words);
/* Apply --set and flags with a field to j->config, in the order given. false: reported. */
bool command_apply(const job *j, char **words);

/* Device and transport of the verb, as the config says: j->device and j->comm. Collective;
 * EXIT_OK, or reported. */
int choose_place(job *j);

/* Read a text config on rank 0 and give every rank the same message. path NULL: an empty
 * config. EXIT_OK, or a reported failure, the same on every rank. */
int config_load(const job *j, const char *path, Banyan__Config **out);

/* execution.timeout as a command line asks for it, before there are ranks to share a config
 * with; -1: it does not. What is wrong with it is said when the config is loaded. */
double config_time_limit(char **words);

/* Ends this process with EXIT_FAILED and words when watch_end is not called within `seconds`
 * (0: no limit): for what waits for other ranks and knows no time limit. what: "MPI to
 * start". */
void watch_begin(const char *what, double seconds);
void watch_end(void);
/* This process's rank as its launcher tells it, before MPI does; "0" without one. */
const char *launched_rank(void);

/* Set one field, "cache.max_tokens" or "rule[0].use", from its text. false: why says in
 * words. */
bool config_set(Banyan__Config *config, const char *path, const char *text, char *why,
                size_t why_bytes);
/* A field of text, "needle.csv"; NULL: not given, or no such field. */
const char *config_text(const Banyan__Config *config, const char *path);
/* Print every field of the schema with its type, one a line. */
void config_print_fields(FILE *out);

/* Text format to the wire format of banyan.Config: *out is for free(). false: why is
 * "line:column: what". */
#ifdef __cplusplus
extern "C"
#endif
    bool
    textformat_parse(const char *text, size_t text_bytes, unsigned char **out,
                     size_t *out_bytes, char *why, size_t why_bytes);

#endif
