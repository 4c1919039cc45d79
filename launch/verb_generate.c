/* SPDX-License-Identifier: Apache-2.0 */
/* banyan generate: what a checkpoint goes on with, from text to text or from token ids to token
 * ids. */
#include "launch/device.h"
#include "launch/generate/generate.h"
#include "launch/launch.h"
#include "launch/model/model.h"
#include "launch/pattern/pattern.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Where the time went, on this rank. */
typedef struct effort {
    int64_t tokens;
    double seconds, attention; /* of these, in calls of banyan */
} effort;

typedef struct task {
    job *j;
    prompt_wish wish;
    continuation text; /* ids on every rank, the rest on rank 0 */
    int64_t read;      /* ids that a snapshot has read */
    int64_t made;      /* ids that follow the prompt */
    int32_t vocab;
    float *first;   /* [vocab] the logits of the prompt's last token; NULL: not asked for */
    float *logits;  /* [vocab] of every token, where ids are drawn; else NULL */
    scored *scored; /* [vocab], rank 0, likewise */
    effort prefill, decode;
} task;

/* Rank 0 reads, all get it. */
static int share_prompt(task *t)
{
    continuation *c = &t->text;
    banyan_comm *comm = t->j->comm;
    char why[2048];
    bool good = t->j->rank != 0 || continuation_begin(&t->wish, c, why, sizeof why);
    if (!good) say_error(t->j, "%s", why);
    int64_t prompt = good ? c->prompt : 0;
    banyan_status status = banyan_comm_broadcast(comm, &prompt, sizeof prompt, 0);
    if (!status) status = banyan_comm_broadcast(comm, &c->digest, sizeof c->digest, 0);
    if (status) return job_failed(t->j, status, "sharing the prompt");
    if (prompt == 0) return EXIT_USAGE;
    c->prompt = prompt;
    if (t->j->rank != 0) c->ids = malloc((size_t)(prompt + t->wish.count) * sizeof *c->ids);
    status = banyan_comm_agree(comm, c->ids ? BANYAN_OK : BANYAN_ERR_MEMORY);
    if (!status)
        status = banyan_comm_broadcast(comm, c->ids, (size_t)prompt * sizeof *c->ids, 0);
    return status ? job_failed(t->j, status, "sharing the prompt") : EXIT_OK;
}

static int make_token_room(task *t, int32_t vocab)
{
    char why[1024];
    const char *what = t->wish.ids ? t->wish.ids : "the tokenizer";
    if (!ids_check(t->text.ids, t->text.prompt, vocab, what, why, sizeof why)) {
        say_error(t->j, "%s", why);
        return EXIT_USAGE;
    }
    bool draws = t->wish.sampling.temperature > 0, good = true;
    t->vocab = vocab;
    if (job_text(t->j, "logits"))
        good = (t->first = malloc((size_t)vocab * sizeof *t->first)) != NULL;
    if (draws) good = good && (t->logits = malloc((size_t)vocab * sizeof *t->logits)) != NULL;
    if (draws) good = good && (t->scored = malloc((size_t)vocab * sizeof *t->scored)) != NULL;
    banyan_status status = banyan_comm_agree(t->j->comm, good ? BANYAN_OK : BANYAN_ERR_MEMORY);
    return status ? job_failed(t->j, status, "logits") : EXIT_OK;
}

/* What model_forward returned, on every rank: the worst of all. */
static int failed(const task *t, const model *m, banyan_status status)
{
    device *d = t->j->device;
    if (status && d->row->memory->is_apart)
        snprintf(d->why, sizeof d->why, "%s", model_message(m));
    if (status != BANYAN_ERR_COMM) status = job_agree(t->j, status);
    if (!status) return EXIT_OK;
    say_error(t->j, "%s", d->why[0] ? d->why : model_message(m));
    return status == BANYAN_ERR_ARGUMENT ? EXIT_USAGE : EXIT_FAILED;
}

static void show_progress(void *arg, int64_t done)
{
    const task *t = arg;
    progress(t->j, "prefill %3.0f %%", 100.0 * (double)done / (double)t->text.prompt);
}

/* The next token's id; logits that are not finite are model_forward's error. */
static banyan_status next(task *t, model *m, int64_t at, int64_t rows, uint32_t *id)
{
    bool is_first = at == t->read;
    float *logits = t->logits ? t->logits : is_first ? t->first : NULL;
    banyan_status status = model_forward(m, at, t->text.ids + at, rows, 1, logits, id, NULL,
                                         is_first ? show_progress : NULL, t);
    if (status) return status;
    if (is_first && t->first && t->first != logits)
        memcpy(t->first, logits, (size_t)t->vocab * sizeof *logits);
    if (t->logits && t->j->rank == 0)
        *id = sample(&t->wish.sampling, logits, t->vocab, at + rows, t->scored);
    return BANYAN_OK;
}

/* What rank 0 makes of an id, told to all. */
typedef struct step {
    uint32_t id;
    int32_t ends, failed;
} step;

static int take(task *t, step *s)
{
    if (t->j->rank == 0) {
        bool ends = false;
        s->failed = !continuation_add(&t->text, s->id, &ends);
        s->ends = ends;
    }
    banyan_status status = banyan_comm_broadcast(t->j->comm, s, sizeof *s, 0);
    if (status) return job_failed(t->j, status, "sharing the next id");
    if (s->failed) say_error(t->j, "out of memory for the text");
    return s->failed ? EXIT_FAILED : EXIT_OK;
}

static double attention_seconds(model *m)
{
    banyan_stats stats;
    banyan_cache_stats(model_cache(m), &stats);
    return stats.append_seconds + stats.attend_seconds + stats.merge_seconds;
}

static void spend(effort *e, model *m, int64_t tokens, double began, double attended)
{
    e->tokens += tokens;
    e->seconds += now_seconds() - began;
    e->attention += attention_seconds(m) - attended;
}

static int generate_tokens(task *t, model *m)
{
    int64_t at = t->read, rows = t->text.prompt - t->read;
    int code = EXIT_OK;
    step s = {0};
    while (!code && !s.ends && t->made < t->wish.count) {
        const double began = now_seconds(), attended = attention_seconds(m);
        banyan_status status = next(t, m, at, rows, &s.id);
        spend(at == t->read ? &t->prefill : &t->decode, m, rows, began, attended);
        if (at == t->read) progress_end(t->j);
        code = failed(t, m, status);
        if (!code) code = take(t, &s);
        if (!code) t->text.ids[t->text.prompt + t->made++] = s.id;
        at += rows;
        rows = 1;
    }
    const bool good = t->j->rank > 0 || continuation_end(&t->text);
    if (!good) say_error(t->j, "out of memory for the text");
    return job_all_good(t->j, good) || code ? code : EXIT_FAILED;
}

/* What the snapshot has read. */
static int load(task *t, model *m)
{
    const char *folder = t->wish.load;
    if (!folder) return EXIT_OK;
    if (t->text.digest != model_get_digest(m)) {
        say_error(t->j,
                  "the snapshot in \"%s\" is of another model: digest %016" PRIx64
                  ", not %016" PRIx64,
                  folder, t->text.digest, model_get_digest(m));
        return EXIT_USAGE;
    }
    const int code = failed(t, m, model_load(m, folder, t->text.ids, t->text.prompt));
    if (code) return code;
    t->read = model_length(m);
    if (t->read < t->text.prompt) return EXIT_OK;
    say_error(t->j,
              "the snapshot in \"%s\" has read all of its %" PRId64
              " ids: expected a prompt that follows them",
              folder, t->text.prompt);
    return EXIT_USAGE;
}

/* After the last token that was read. With --count 0 nothing has been read yet. */
static int save(task *t, model *m)
{
    if (!t->wish.save) return EXIT_OK;
    banyan_status status = BANYAN_OK;
    if (t->wish.count == 0) {
        status = model_forward(m, t->read, t->text.ids + t->read, t->text.prompt - t->read, 0,
                               NULL, NULL, NULL, show_progress, t);
        progress_end(t->j);
    }
    int code = failed(t, m, status);
    if (!code)
        code = failed(t, m, model_save(m, t->wish.save, t->text.ids, t->text.prompt + t->made));
    return code;
}

static int write_logits(task *t)
{
    output_file *f = output_open(t->j, job_text(t->j, "logits"));
    if (!f) return EXIT_FAILED;
    fwrite(t->first, sizeof *t->first, (size_t)t->vocab, output_stream(f));
    return output_close(f, t->j, true); /* which asks whether all was written */
}

/* The same ids, with the positions where they stand; then what the prompt and the tokens after
 * it took, on rank 0. */
static int generate_write_json(const task *t, model *m)
{
    const effort *p = &t->prefill, *d = &t->decode;
    output_file *f = output_open(t->j, job_text(t->j, "json"));
    banyan_stats stats;
    if (!f) return EXIT_FAILED;
    banyan_cache_stats(model_cache(m), &stats);
    for (int64_t i = t->text.prompt; i < t->text.prompt + t->made; i++)
        fprintf(output_stream(f), "{\"position\":%" PRId64 ",\"id\":%" PRIu32 "}\n", i,
                t->text.ids[i]);
    fprintf(output_stream(f),
            "{\"prefill_tokens\":%" PRId64 ",\"prefill_seconds\":%.6f,"
            "\"prefill_attention_seconds\":%.6f,\"decode_tokens\":%" PRId64
            ",\"decode_seconds\":%.6f,\"decode_attention_seconds\":%.6f,"
            "\"cache_bytes\":%" PRId64 ",\"workspace_bytes\":%" PRId64 "}\n",
            p->tokens, p->seconds, p->attention, d->tokens, d->seconds, d->attention,
            stats.capacity_bytes, stats.workspace_bytes + model_workspace(m));
    return output_close(f, t->j, true);
}

static void warn_length(const task *t, const model_shape *shape, int64_t tokens)
{
    if (shape->max_positions > 0 && tokens > shape->max_positions)
        say_warning(t->j,
                    "%" PRId64 " tokens, and the model was made for %" PRId64
                    " (max_position_embeddings and its scaling)",
                    tokens, shape->max_positions);
}

static int open_and_decode(task *t, banyan_spec *spec)
{
    char why[1024];
    model *m = NULL;
    int64_t tokens = t->text.prompt + t->wish.count; /* the last id is never read */
    if (t->wish.count) tokens--;
    if (spec->max_tokens > 0 && spec->max_tokens < tokens) {
        say_error(t->j,
                  "cache.max_tokens %" PRId64 ": a prompt of %" PRId64 " and %" PRId64
                  " more tokens need %" PRId64,
                  spec->max_tokens, t->text.prompt, t->wish.count, tokens);
        return EXIT_USAGE;
    }
    if (spec->max_tokens == 0) spec->max_tokens = tokens;
    const model_loading loading = {progress_loading, t->j};
    banyan_status status = model_open(t->wish.model, spec, t->j->comm, t->j->device, &loading,
                                      &m, why, sizeof why);
    progress_end(t->j);
    if (status) {
        say_error(t->j, "%s", why);
        return status == BANYAN_ERR_COMM || status == BANYAN_ERR_DEVICE ? EXIT_FAILED
                                                                        : EXIT_USAGE;
    }
    warn_length(t, model_get_shape(m), tokens);
    int code = make_token_room(t, model_get_shape(m)->vocab);
    if (!code) code = load(t, m);
    if (!code) code = generate_tokens(t, m);
    if (!code) code = save(t, m);
    if (!code) code = failed(t, m, model_unchanged(m));
    if (!code && t->first) code = write_logits(t);
    if (!code && job_text(t->j, "json")) code = generate_write_json(t, m);
    model_close(m);
    return code;
}

/* Rules of a file are made for the model's shape. */
static int apply_model_pattern(const task *t)
{
    char why[1024];
    model_shape shape = {0};
    banyan_status status = BANYAN_OK;
    if (job_text(t->j, "pattern"))
        status = model_shape_read(t->wish.model, &shape, why, sizeof why);
    status = agree_words(t->j->comm, status, why, sizeof why); /* each reads its own disk */
    if (status) {
        say_error(t->j, "%s", why);
        return status == BANYAN_ERR_COMM ? EXIT_FAILED : EXIT_USAGE;
    }
    const int code = pattern_apply(t->j, shape.layers, shape.heads, shape.kv_heads);
    if (code) return code;
    const bool good = pattern_prompt(t->j->config, t->text.prompt, NULL);
    if (!good) say_error(t->j, "out of memory for the rules");
    return job_all_good(t->j, good) ? EXIT_OK : EXIT_USAGE;
}

static int generate(task *t)
{
    char why[1024];
    config_spec asked;
    if (!wish_read(t->j, &t->wish)) return EXIT_USAGE;
    int code = share_prompt(t);
    if (code) return code;
    code = apply_model_pattern(t);
    if (code) return code;
    if (spec_from_config(t->j->config, &asked, why, sizeof why)) {
        say_error(t->j, "%s", why);
        return EXIT_USAGE;
    }
    code = open_and_decode(t, &asked.spec);
    spec_free(&asked);
    return code;
}

static int generate_run(job *j)
{
    task t = {.j = j};
    int code = generate(&t);
    continuation_free(&t.text);
    free(t.first);
    free(t.logits);
    free(t.scored);
    return code;
}

static const flag flags[] = {
    {"model", "DIR", NULL,
     "checkpoint: config.json and safetensors of a model of \"banyan list\""},
    {"prompt", "TEXT", NULL, "the prompt; what follows is printed as text, too"},
    {"prompt-file", "FILE", NULL, "the prompt is in this file; -: standard input"},
    {"chat", NULL, NULL, "the prompt is a question: put it as the chat model expects it"},
    {"system", "TEXT", NULL, "what the chat's system says"},
    {"ids", "FILE", NULL,
     "the prompt as token ids, decimal or 32-bit little endian (-: standard input); ids are "
     "printed, one a line"},
    {"save", "DIR", NULL,
     "write a snapshot of what was read in the end; with --count 0 of the prompt alone"},
    {"load", "DIR", NULL,
     "go on from a snapshot, on as many ranks as there are; the prompt follows it"},
    {"count", "N", NULL, "tokens to generate at most, default 256; with --ids 16"},
    {"stop", "TEXT", NULL, "end before this text"},
    {"ignore-eos", NULL, NULL, "go on beyond the model's own end (eos_token_id)"},
    {"temperature", "T", NULL, "draw each token; default: the most probable"},
    {"top-p", "P", NULL, "draw of the most probable ones, as few as have this probability"},
    {"top-k", "K", NULL, "draw of the K most probable ones"},
    {"seed", "N", NULL, "of the random numbers, default 0"},
    {"logits", "OUTPUT", NULL, "write the logits of the prompt's last token: fp32, one per id"},
    {"use", "RULE", "rule[0].use",
     "what the first rule's heads read, \"s2 stride=8 local=16\"; selectors: {selectors}"},
    PATTERN_FLAGS,
    {"device", "NAME", "execution.device", "cpu (default) or cuda"},
    {"strict", NULL, "execution.strict", "refuse patterns that leave context unseen"},
    {"cache", "NAME", "cache.dtype", "format of cached keys and values: FP32, BF16, FP16, FP8"},
    {NULL, NULL, NULL, NULL}};

const verb verb_generate = {
    .name = "generate",
    .doc = "A checkpoint goes on with a text, through banyan, on any number of ranks. Text in, "
           "text out;\nor token ids in, and ids out, one a line.",
    .flags = flags,
    .needs_comm = 1,
    .run = generate_run};
