/* SPDX-License-Identifier: Apache-2.0 */
/* banyan tokenize: text to token ids as a checkpoint's tokenizer does it, and back. */
#include "launch/launch.h"
#include "launch/text/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static bool write_ids(const token_ids *ids, bool binary, FILE *out)
{
    for (int64_t i = 0; i < ids->count; i++) {
        uint32_t id = ids->id[i];
        unsigned char four[4] = {(unsigned char)id, (unsigned char)(id >> 8),
                                 (unsigned char)(id >> 16), (unsigned char)(id >> 24)};
        if (binary ? fwrite(four, 1, 4, out) != 4 : fprintf(out, "%" PRIu32 "\n", id) < 0)
            return false;
    }
    return true;
}

static int tokenize_encode(const job *j, tokenizer *t, const char *path)
{
    char why[2048];
    token_ids ids = {0};
    size_t bytes;
    char *data = input_read(path, &bytes, why, sizeof why);
    bool ends = job_switch(j, "ends"), chat = job_switch(j, "chat");
    int code = EXIT_USAGE;
    if (!data) {
        say_error(j, "%s", why);
    } else if (chat ? !chat_encode(t, job_text(j, "system"), data, bytes, &ids, why, sizeof why)
                    : !tokenizer_encode(t, data, bytes, ends, &ids, why, sizeof why)) {
        say_error(j, "%s: %s", path, why);
    } else {
        code = write_ids(&ids, job_switch(j, "u32"), stdout) ? EXIT_OK : EXIT_FAILED;
    }
    free(data);
    free(ids.id);
    return code;
}

static int tokenize_decode(const job *j, tokenizer *t, const char *path)
{
    char why[1024];
    int64_t count = 0;
    uint32_t *ids = ids_read(path, 0, &count, why, sizeof why);
    if (!ids || !ids_check(ids, count, tokenizer_ids(t), path, why, sizeof why)) {
        say_error(j, "%s", why);
        free(ids);
        return EXIT_USAGE;
    }
    token_decoder d = {.t = t};
    text out = {0};
    bool good = true;
    for (int64_t i = 0; good && i < count; i++) good = decoder_add(&d, ids[i], &out);
    good = good && decoder_end(&d, &out);
    if (!good) say_error(j, "out of memory for the text of %" PRId64 " ids", count);
    int code = good ? EXIT_OK : EXIT_USAGE;
    if (good && fwrite(out.data, 1, out.bytes, stdout) != out.bytes) code = EXIT_FAILED;
    free(out.data);
    free(ids);
    return code;
}

static int tokenize_run(job *j)
{
    char why[1200];
    const char *dir = job_text(j, "model"), *path = job_text(j, "file");
    if (!dir) {
        say_error(j, "tokenize: --model DIR is needed");
        return EXIT_USAGE;
    }
    if (job_text(j, "system") && !job_switch(j, "chat")) {
        say_error(j, "--system: only with --chat");
        return EXIT_USAGE;
    }
    tokenizer *t = tokenizer_open(dir, why, sizeof why);
    if (!t) {
        say_error(j, "%s", why);
        return EXIT_USAGE;
    }
    if (!path) path = "-";
    int code =
        job_switch(j, "decode") ? tokenize_decode(j, t, path) : tokenize_encode(j, t, path);
    tokenizer_close(t);
    return code;
}

static const flag flags[] = {
    {"model", "DIR", NULL, "the checkpoint: its tokenizer.json is read, no weights"},
    {"file", "FILE", NULL, "read this, default - (standard input): text, or ids to decode"},
    {"decode", NULL, NULL, "the other way: from ids (decimal or u32) to text"},
    {"ends", NULL, NULL, "also the tokens that the model expects around a text (bos)"},
    {"chat", NULL, NULL, "as a question to a chat model, as generate --chat asks it"},
    {"system", "TEXT", NULL, "what stands before the question; with --chat"},
    {"u32", NULL, NULL, "write ids as 32-bit little endian instead of one a line"},
    {NULL, NULL, NULL, NULL}};

const verb verb_tokenize = {.name = "tokenize",
                            .doc = "Text to token ids, as the checkpoint's tokenizer.json "
                                   "says; with --decode ids to text.",
                            .flags = flags,
                            .needs_comm = 0,
                            .run = tokenize_run};
