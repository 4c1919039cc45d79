/* SPDX-License-Identifier: Apache-2.0 */
/* setup.h - from a job's flags and config to what is evaluated. The one part of launch/needle/
 * that knows flags and configs. */
#ifndef BANYAN_NEEDLE_SETUP_H
#define BANYAN_NEEDLE_SETUP_H

#include "launch/needle/evaluate.h"

enum { MOST_PATTERNS = 16 };

/* Everything that lives as long as the run. */
typedef struct setup {
    evaluation e;
    needle_wish wish;
    foreign_ids foreign;
    config_spec config;
    banyan_rule *rules;
    char *context, *retrieval, *patterns; /* cut up; rules and wish point into them */
    const char *pattern[MOST_PATTERNS];
    char dir[4096];
    uint64_t digest;     /* of the checkpoint that is there, on rank 0 */
    const char *results; /* a file that a second run resumes; NULL: none */
    int64_t length[2];   /* when none were given */
} setup;

/* Each says what was wrong; an exit code, the same on every rank. First what is asked, from
 * flags and config alone; s: zeros, but for e.j and e.wish. */
int setup_wish(const job *j, setup *s);
/* .. then the checkpoint, which may be written: s->e.shape is known. */
int setup_model(const job *j, setup *s);
/* .. then the texts and the spec. */
int setup_read(const job *j, setup *s);
void setup_free(setup *s);
/* Index of `word` in names (NULL-terminated), or -1: reported. */
int setup_choose(const job *j, const char *what, const char *word, const char *const *names);

#endif
