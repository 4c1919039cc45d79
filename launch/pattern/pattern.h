/* SPDX-License-Identifier: Apache-2.0 */
/* pattern.h - head patterns that other projects publish as files, read as rules.
 *
 * Knows: the files' shapes, and what their numbers mean there (readers.c has the table).
 * Refuses to know: what a rule does. A file says something of each layer and head; here that
 * becomes a rule text of each, and those become rules of a config, few as they can be. */
#ifndef BANYAN_PATTERN_H
#define BANYAN_PATTERN_H

#include "launch/launch.h"

#include <jansson.h>

enum {
    PATTERN_MOST_LAYERS = 4096,
    PATTERN_MOST_HEADS = 4096, /* of a layer */
    PATTERN_MOST = 1 << 18,    /* heads of all layers */
    PATTERN_USE = 256
};

/* The flags of a verb that takes patterns. */
#define PATTERN_FLAGS                                                                          \
    {"pattern", "FILE", NULL,                                                                  \
     "rules from a file: DuoAttention's full_attention_heads.tsv, Razor's head lists, MoA's "  \
     "alphas and betas, MInference's best patterns, retrieval head scores"},                   \
        {"sparsity", "S", NULL,                                                                \
         "of a file of scores: this share of the heads, the lowest, is not dense"},            \
        {"threshold", "T", NULL, "of a file of scores: heads below it are not dense"},         \
    {                                                                                          \
        "rest", "RULE", NULL, "what heads read that a file calls not dense"                    \
    }

/* What is asked of a file, and the model that it is for: 0 what is not known. */
typedef struct pattern_wish {
    const char *path;
    const char *sparsity, *threshold, *rest; /* NULL: not given */
    int32_t layers, heads, kv_heads;
} pattern_wish;

/* A file as it is read. */
typedef struct pattern {
    const pattern_wish *wish;
    char path[4096]; /* of the file itself */
    char *text;
    size_t bytes;
    json_t *root; /* NULL: it is no JSON */
    int32_t layers, heads;
    bool per_kv_head;         /* heads are KV heads, else query heads */
    char (*use)[PATTERN_USE]; /* [layers][heads] */
    char note[256];           /* what the rules do not say of it; "" for nothing */
    char *why;                /* the caller's, where the first fault's words go */
    size_t why_bytes;
} pattern;

/* A kind of file: one row of the table in readers.c. */
typedef struct pattern_reader {
    const char *name;
    bool (*is_it)(const pattern *p);
    bool (*read)(pattern *p); /* layers, heads and use; false: why */
} pattern_reader;
extern const pattern_reader pattern_duo, pattern_razor, pattern_moa, pattern_minference,
    pattern_retrieval;

/* The rules of a file, as text of a config; for free(). The wish's layers, heads and kv_heads
 * become what the file says of them, where they are not known. NULL: why. */
char *pattern_read(pattern_wish *wish, char *note, size_t note_bytes, char *why,
                   size_t why_bytes);

/* What readers share. false or NULL: the first fault, "PATH: what". */
bool pattern_fail(pattern *p, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool pattern_shape(pattern *p, int64_t layers, int64_t heads, bool per_kv_head);
char *pattern_use(pattern *p, int32_t layer, int32_t head); /* PATTERN_USE bytes */
/* By scores [layers][heads]: heads that are dense as --sparsity or --threshold says (neither:
 * `share` of them not, if it is not NULL, else those below `threshold`), and all others read
 * `rest`. */
bool pattern_rank(pattern *p, const double *score, const double *share, double threshold,
                  const char *rest);
/* A whole number of JSON, low .. high. what: where it stands. */
bool pattern_integer(pattern *p, const json_t *value, int64_t low, int64_t high,
                     const char *what, int64_t *out);
/* "12", of a key: a number below `end`. */
bool pattern_index(const char *text, int64_t end, int64_t *out);
/* A value of JSON as short text, for words. */
const char *pattern_shown(const json_t *value, char *text, size_t bytes);

/* --pattern and the flags beside it, for a model of this shape (0: not known): its rules come
 * behind those of the config, which has its shape where it had none. Nothing without the flag.
 * Collective where the verb is; EXIT_OK, or reported. */
int pattern_apply(const job *j, int32_t layers, int32_t heads, int32_t kv_heads);
/* The rules of one file, to `config`. Collective where the verb is; EXIT_OK, or reported. */
int pattern_load(const job *j, const char *path, int32_t layers, int32_t heads,
                 int32_t kv_heads, Banyan__Config *config);
/* .. the shape being what the config says. */
int pattern_apply_config(const job *j);
/* Rules of selectors with a parameter `prompt` that do not give it: this many tokens. rules (or
 * NULL): what was made of the config's, which point to their texts. false: out of memory. */
bool pattern_prompt(Banyan__Config *config, int64_t tokens, banyan_rule *rules);
/* .. of rules that are nobody's config: copies of them, with their texts, for free(). NULL: out
 *   of memory. */
banyan_rule *pattern_prompt_rules(const banyan_rule *rules, int32_t count, int64_t tokens);
/* ` name: "text"`, as a config is written; nothing where text is NULL. */
void pattern_field(const char *name, const char *text, FILE *out);
/* The rules of a config as text that reads as one. */
void pattern_print(const Banyan__Config *config, FILE *out);

#endif
