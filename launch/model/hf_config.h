/* SPDX-License-Identifier: Apache-2.0 */
/* hf_config.h - config.json of a checkpoint, read as transformers reads it.
 *
 * Knows: JSON as Python writes it (Infinity and NaN included), fields with what they mean
 * when they are absent or null, and the first fault, in words that name the file, the field
 * and its value. Refuses to know: what a family makes of the fields.
 *
 * After a fault every call returns something harmless, so that readers need not test each
 * one. */
#ifndef BANYAN_HF_CONFIG_H
#define BANYAN_HF_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct hf_config {
    char path[4096];
    json_t *root;
    char *why; /* the caller's, where the first fault's words go */
    size_t why_bytes;
    bool failed;
} hf_config;

/* false: why. */
bool hf_config_open(const char *dir, hf_config *out, char *why, size_t why_bytes);
/* Another file of the folder that is written alike. */
bool hf_file_open(const char *dir, const char *name, hf_config *out, char *why,
                  size_t why_bytes);
void hf_config_close(hf_config *c);

/* A file whole, with a 0 behind it, for free(); NULL: why. */
char *hf_read(const char *path, size_t *bytes, char *why, size_t why_bytes);

/* "PATH: FIELD is VALUE; expected WANT" */
void hf_out_of_memory(hf_config *c);
void hf_fail(hf_config *c, const char *field, const json_t *value, const char *want);

/* In these, `object` is an object of the file (NULL: the whole). Absent and null are the
 * same, but for hf_has, which says whether the field is there at all. */
bool hf_has(const hf_config *c, const json_t *object, const char *field);
const json_t *hf_get(const hf_config *c, const json_t *object, const char *field);
/* An integer 1 .. INT32_MAX, or `absent` (negative: required). */
int32_t hf_count(hf_config *c, const json_t *object, const char *field, int32_t absent);
/* A field that files have under either name; different numbers under both are a fault. */
int32_t hf_count_either(hf_config *c, const char *field, const char *other, int32_t absent);
/* Greater than 0 and finite, or `absent`. */
double hf_number(hf_config *c, const json_t *object, const char *field, double absent);
bool hf_truth(hf_config *c, const json_t *object, const char *field, bool absent);
const char *hf_text(hf_config *c, const json_t *object, const char *field, const char *absent);
/* A list of `count` numbers into out; false where it is absent. */
bool hf_numbers(hf_config *c, const json_t *object, const char *field, int32_t count,
                double *out);
/* Which of `words` (ends with NULL) a text is; a fault that lists them where it is none. */
int hf_choice(hf_config *c, const char *field, const char *text, const char *const *words);

#endif
