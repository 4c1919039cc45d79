/* SPDX-License-Identifier: Apache-2.0 */
/* From a pattern file to the rules of a job's config. Rank 0 reads the file and gives all ranks
 * the rules as text of a config, or the words of what is wrong with it. */
#include "launch/pattern/pattern.h"

#include "launch/command.h"

#include <stdlib.h>
#include <string.h>

enum { WHY = 1024, PROMPT_BYTES = 40 };

/* What rank 0 tells. */
typedef struct told {
    int64_t bytes; /* of the rules' text; -1: it failed */
    int32_t layers, heads, kv_heads;
    char why[WHY], note[256];
} told;

/* Moves rules of `from` behind those of `to`. */
static bool move_rules(Banyan__Config *to, Banyan__Config *from)
{
    const size_t count = to->n_rule + from->n_rule;
    Banyan__Rule **rules = realloc(to->rule, (count + 1) * sizeof *rules);
    if (!rules) return false;
    memcpy(rules + to->n_rule, from->rule, from->n_rule * sizeof *rules);
    to->rule = rules;
    to->n_rule = count;
    from->n_rule = 0;
    return true;
}

static bool add_rules(Banyan__Config *config, const char *text, size_t text_bytes, char *why,
                      size_t why_bytes)
{
    unsigned char *wire = NULL;
    size_t bytes;
    if (!textformat_parse(text, text_bytes, &wire, &bytes, why, why_bytes)) return false;
    Banyan__Config *more = banyan__config__unpack(NULL, bytes, wire);
    const bool good = more && move_rules(config, more);
    if (!good) snprintf(why, why_bytes, "out of memory for the rules");
    if (more) banyan__config__free_unpacked(more, NULL);
    free(wire);
    return good;
}

/* A config's shape has what the file says, where it said nothing itself. */
static bool set_shape(Banyan__Config *config, const told *t)
{
    if (!config->shape) {
        config->shape = malloc(sizeof *config->shape);
        if (!config->shape) return false;
        banyan__shape__init(config->shape);
    }
    Banyan__Shape *s = config->shape;
    if (!s->has_layers) s->has_layers = 1, s->layers = t->layers;
    if (!s->has_heads && t->heads) s->has_heads = 1, s->heads = t->heads;
    if (!s->has_kv_heads && t->kv_heads) s->has_kv_heads = 1, s->kv_heads = t->kv_heads;
    return true;
}

static bool has_flags(const job *j)
{
    static const char *const beside[] = {"sparsity", "threshold", "rest"};
    if (job_text(j, "pattern")) {
        if (!job_text(j, "use")) return true;
        say_error(j, "--pattern and --use: give one or the other");
        return false;
    }
    for (int i = 0; i < 3; i++)
        if (job_text(j, beside[i]))
            say_error(j, "--%s is of a pattern file: expected --pattern FILE", beside[i]);
    return false;
}

static bool has_wrong_flags(const job *j)
{
    return job_text(j, "pattern") || job_text(j, "sparsity") || job_text(j, "threshold") ||
           job_text(j, "rest");
}

static char *read_rules(const job *j, const char *path, int32_t layers, int32_t heads,
                        int32_t kv_heads, told *t)
{
    pattern_wish wish = {.path = path,
                         .sparsity = job_text(j, "sparsity"),
                         .threshold = job_text(j, "threshold"),
                         .rest = job_text(j, "rest"),
                         .layers = layers,
                         .heads = heads,
                         .kv_heads = kv_heads};
    char *text = pattern_read(&wish, t->note, sizeof t->note, t->why, sizeof t->why);
    t->bytes = text ? (int64_t)strlen(text) : -1;
    t->layers = wish.layers;
    t->heads = wish.heads;
    t->kv_heads = wish.kv_heads;
    return text;
}

/* The same text on every rank; NULL: reported. */
static char *share_rules(const job *j, char *text, told *t)
{
    if (!j->comm) return text;
    banyan_status status = banyan_comm_broadcast(j->comm, t, sizeof *t, 0);
    if (!status && t->bytes >= 0) {
        if (j->rank != 0) text = malloc((size_t)t->bytes + 1);
        status = banyan_comm_agree(j->comm, text ? BANYAN_OK : BANYAN_ERR_MEMORY);
        if (!status) status = banyan_comm_broadcast(j->comm, text, (size_t)t->bytes, 0);
    }
    if (!status) return text;
    job_failed(j, status, "sharing the pattern's rules");
    free(text);
    t->bytes = 0;
    return NULL;
}

int pattern_load(const job *j, const char *path, int32_t layers, int32_t heads,
                 int32_t kv_heads, Banyan__Config *config)
{
    told t = {0};
    char why[WHY] = "out of memory", *text = NULL;
    if (j->rank == 0) text = read_rules(j, path, layers, heads, kv_heads, &t);
    text = share_rules(j, text, &t);
    if (t.bytes < 0) say_error(j, "%s", t.why);
    if (!text) return t.bytes < 0 ? EXIT_USAGE : EXIT_FAILED;
    if (*t.note) say_warning(j, "%s: %s", path, t.note);
    const bool good =
        add_rules(config, text, (size_t)t.bytes, why, sizeof why) && set_shape(config, &t);
    if (!good) say_error(j, "%s: %s", path, why);
    free(text);
    return job_all_good(j, good) ? EXIT_OK : EXIT_USAGE;
}

int pattern_apply(const job *j, int32_t layers, int32_t heads, int32_t kv_heads)
{
    if (!has_flags(j)) return has_wrong_flags(j) ? EXIT_USAGE : EXIT_OK;
    return pattern_load(j, job_text(j, "pattern"), layers, heads, kv_heads, j->config);
}

int pattern_apply_config(const job *j)
{
    const Banyan__Shape *s = j->config->shape;
    return pattern_apply(j, s && s->has_layers ? s->layers : 0,
                         s && s->has_heads ? s->heads : 0,
                         s && s->has_kv_heads ? s->kv_heads : 0);
}

/* ---- prompts ----------------------------------------------------------------------------- */

/* Has the selector of a rule a parameter `prompt` that the rule leaves out? */
static bool lacks_prompt(const char *use)
{
    char selector[64];
    const char *name;
    use += strspn(use, " \t\n");
    snprintf(selector, sizeof selector, "%.*s", (int)strcspn(use, " \t\n"), use);
    for (int i = 0; banyan_list_param(selector, i, &name, NULL, NULL); i++)
        if (!strcmp(name, "prompt")) return !strstr(use, " prompt=");
    return false;
}

/* Into `out`, which has room for PROMPT_BYTES more than the text. */
static void write_use(const char *use, int64_t tokens, char *out)
{
    if (lacks_prompt(use))
        snprintf(out, strlen(use) + PROMPT_BYTES, "%s prompt=%lld", use, (long long)tokens);
    else
        snprintf(out, strlen(use) + PROMPT_BYTES, "%s", use);
}

banyan_rule *pattern_prompt_rules(const banyan_rule *rules, int32_t count, int64_t tokens)
{
    size_t bytes = ((size_t)count + 1) * sizeof *rules;
    for (int32_t i = 0; i < count; i++) bytes += strlen(rules[i].use) + PROMPT_BYTES;
    banyan_rule *out = malloc(bytes);
    if (!out) return NULL;
    char *text = (char *)(out + count + 1);
    for (int32_t i = 0; i < count; i++) {
        write_use(rules[i].use, tokens, text);
        out[i] = rules[i];
        out[i].use = text;
        text += strlen(text) + 1;
    }
    return out;
}

bool pattern_prompt(Banyan__Config *config, int64_t tokens, banyan_rule *rules)
{
    for (size_t i = 0; i < config->n_rule; i++) {
        Banyan__Rule *rule = config->rule[i];
        if (!rule->use || !lacks_prompt(rule->use)) continue;
        char *use = malloc(strlen(rule->use) + PROMPT_BYTES);
        if (!use) return false;
        write_use(rule->use, tokens, use);
        free(rule->use);
        rule->use = use;
        if (rules) rules[i].use = use;
    }
    return true;
}

/* ---- print ------------------------------------------------------------------------------- */

void pattern_print(const Banyan__Config *config, FILE *out)
{
    for (size_t i = 0; i < config->n_rule; i++) {
        fputs("rule {", out);
        pattern_field("layers", config->rule[i]->layers, out);
        pattern_field("heads", config->rule[i]->heads, out);
        pattern_field("use", config->rule[i]->use, out);
        fputs(" }\n", out);
    }
}
