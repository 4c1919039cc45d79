/* SPDX-License-Identifier: Apache-2.0 */
/* A tokenizer is opened: tokenizer.json is read, or it is said what else there is. truncation
 * and padding in the file are a library's habits, which are off unless a call asks for them. */
#include "launch/text/tokenizer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH = 4096 };

/* What other tokenizers' files are called, and what makes tokenizer.json of them. */
static const struct {
    const char *name, *command;
} other[] = {
    {"tekken.json",
     "python3 -c \"from transformers.integrations.mistral import "
     "convert_tekken_tokenizer as c; c('%s/tekken.json').save_pretrained('%s')\""},
    {"tokenizer.model", "python3 -c \"from transformers import AutoTokenizer as a; "
                        "a.from_pretrained('%s').save_pretrained('%s')\""},
    {"vocab.json", "python3 -c \"from transformers import AutoTokenizer as a; "
                   "a.from_pretrained('%s').save_pretrained('%s')\""},
    {"qwen.tiktoken", NULL},
    {"cl100k_base.tiktoken", NULL},
    {"o200k_base.tiktoken", NULL},
    {"tokenizer.tiktoken", NULL},
};
static const char tiktoken[] =
    "python3 -c \"from transformers import AutoTokenizer as a; a.from_pretrained('%s', "
    "trust_remote_code=True).save_pretrained('%s')\"";

static void say_missing(const char *dir, char *why, size_t why_bytes)
{
    char path[PATH], command[PATH];
    for (size_t i = 0; i < sizeof other / sizeof other[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, other[i].name);
        if (access(path, R_OK)) continue;
        const char *format = other[i].command ? other[i].command : tiktoken;
        snprintf(command, sizeof command, format, dir, dir);
        snprintf(why, why_bytes,
                 "%s: no tokenizer.json, only %s; this makes one (with transformers): %s", dir,
                 other[i].name, command);
        return;
    }
    snprintf(why, why_bytes, "%s/tokenizer.json: %s", dir, strerror(ENOENT));
}

static bool read_tokenizer(tokenizer *t, char *why, size_t why_bytes)
{
    const json_t *added = json_object_get(t->file, "added_tokens");
    if (!known_keys(t->file,
                    "version truncation padding added_tokens normalizer pre_tokenizer "
                    "post_processor decoder model",
                    "the file", why, why_bytes))
        return false;
    t->classes = classes_make();
    if (!t->classes) {
        snprintf(why, why_bytes, "out of memory");
        return false;
    }
    if (!read_steps(t, why, why_bytes)) return false;
    if (t->is_byte_level != t->bpe.is_byte_level) {
        snprintf(why, why_bytes, "ByteLevel stands in the %s and not in the %s",
                 t->is_byte_level ? "decoder" : "pre_tokenizer",
                 t->is_byte_level ? "pre_tokenizer" : "decoder");
        return false;
    }
    return read_model(t, json_object_get(t->file, "model"), why, why_bytes) &&
           read_added(t, added, why, why_bytes) && read_ends(t, why, why_bytes);
}

tokenizer *tokenizer_open(const char *dir, char *why, size_t why_bytes)
{
    char path[PATH], reason[1024];
    json_error_t error;
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    if (access(path, R_OK)) {
        if (errno == ENOENT)
            say_missing(dir, why, why_bytes);
        else
            snprintf(why, why_bytes, "%s: %s", path, strerror(errno));
        return NULL;
    }
    tokenizer *t = calloc(1, sizeof *t);
    if (t && !(t->file = json_load_file(path, 0, &error))) {
        snprintf(why, why_bytes, "%s:%d:%d: %s", path, error.line, error.column, error.text);
    } else if (t && !read_tokenizer(t, reason, sizeof reason)) {
        snprintf(why, why_bytes, "%s: %s", path, reason);
    } else if (t) {
        return t;
    } else {
        snprintf(why, why_bytes, "out of memory");
    }
    tokenizer_close(t);
    return NULL;
}

static void free_set(added_set *set)
{
    for (int32_t i = 0; i < set->count; i++) free(set->token[i].data);
    free(set->token);
}

void tokenizer_close(tokenizer *t)
{
    if (!t) return;
    for (int32_t i = 0; i < t->bpe.vocab.ids && t->bpe.vocab.token; i++)
        if (t->bpe.vocab.token[i].is_added) free((char *)t->bpe.vocab.token[i].data);
    bpe_free(&t->bpe);
    free_set(&t->early);
    free_set(&t->late);
    for (int i = 0; i < 2 * STEPS; i++) free(t->arena[i].data);
    free(t->before.id);
    free(t->behind.id);
    free(t->classes);
    free(t->canon);
    free(t->strings);
    json_decref(t->file);
    free(t);
}

int32_t tokenizer_ids(const tokenizer *t)
{
    return t->bpe.vocab.ids;
}

int64_t tokenizer_added(const tokenizer *t, const char *name)
{
    json_t *entry;
    size_t i;
    json_array_foreach(json_object_get(t->file, "added_tokens"), i, entry)
    {
        const char *content = json_string_value(json_object_get(entry, "content"));
        if (content && !strcmp(content, name))
            return json_integer_value(json_object_get(entry, "id"));
    }
    return -1;
}
