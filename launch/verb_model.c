/* SPDX-License-Identifier: Apache-2.0 */
/* banyan model: write the constructed checkpoint. */
#include "launch/launch.h"
#include "launch/model/model.h"

#include <jansson.h>

#define TAKE(part, field, otherwise)                                                           \
    ((part) && (part)->has_##field ? (part)->field : (otherwise))

static int model_write_json(const job *j, const char *dir, const constructed_spec *s)
{
    const char *path = job_text(j, "json");
    output_file *f = path ? output_open(j, path) : NULL;
    if (!f) return path ? EXIT_FAILED : EXIT_OK;
    json_t *line =
        json_pack("{s:o,s:I,s:i,s:i,s:s,s:i}", "out", json_text(dir), "max_tokens",
                  (json_int_t)s->max_tokens, "heads", s->heads, "kv_heads", s->kv_heads,
                  "dtype", banyan_dtype_name(s->dtype), "shards", s->shards);
    output_line(output_stream(f), line);
    return output_close(f, j, true);
}

static int model_run(job *j)
{
    static const banyan_dtype dtypes[] = {[BANYAN__CONSTRUCTED__DTYPE__FP32] = BANYAN_F32,
                                          [BANYAN__CONSTRUCTED__DTYPE__BF16] = BANYAN_BF16,
                                          [BANYAN__CONSTRUCTED__DTYPE__FP16] = BANYAN_F16};
    const Banyan__Constructed *c = j->config->constructed;
    const char *dir = job_text(j, "out");
    char why[1024] = "";
    if (!dir) {
        say_error(j, "model: --out DIR is needed: where the checkpoint is written");
        return EXIT_USAGE;
    }
    constructed_spec spec = {.max_tokens = TAKE(c, max_tokens, INT64_C(1) << 20),
                             .heads = TAKE(c, heads, 8),
                             .kv_heads = TAKE(c, kv_heads, 2),
                             .dtype = dtypes[TAKE(c, dtype, BANYAN__CONSTRUCTED__DTYPE__BF16)],
                             .shards = TAKE(c, shards, 1),
                             .layers = TAKE(c, layers, 2),
                             .retrieval = TAKE(c, retrieval, 0)};
    banyan_status status = constructed_write(dir, &spec, why, sizeof why);
    if (!status) return model_write_json(j, dir, &spec);
    say_error(j, "%s", why);
    return status == BANYAN_ERR_ARGUMENT ? EXIT_USAGE : EXIT_FAILED;
}

static const flag flags[] = {
    {"out", "DIR", NULL, "where it is written; made if missing"},
    {"tokens", "N", "constructed.max_tokens",
     "context for which it is exact, default 1m, at most 16m"},
    {"heads", "N", "constructed.heads", "query heads, default 8, at least 3"},
    {"kv-heads", "N", "constructed.kv_heads", "key/value heads, default 2"},
    {"dtype", "NAME", "constructed.dtype", "of the weights, default BF16"},
    {"layers", "N", "constructed.layers", "layers, default 2"},
    {"shards", "N", "constructed.shards", "safetensors files, default 1"},
    {NULL, NULL, NULL, NULL}};

const verb verb_model = {
    .name = "model",
    .doc = "Writes a Llama checkpoint (config.json, model.safetensors) whose weights are "
           "constructed, not\n"
           "learned: it finds a needle at any depth of its context, and says so when there is "
           "none.",
    .flags = flags,
    .run = model_run};
