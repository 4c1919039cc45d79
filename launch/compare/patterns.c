/* SPDX-License-Identifier: Apache-2.0 */
/* Which patterns are compared, and their rules.
 *
 * A line's numbers are those of its paper or its published settings. "{N@L}" in it is N at L
 * tokens and more, and in proportion below, where N itself would be all or most of the context:
 * such a pattern is marked. {half} and {group} are the first query head of the second half, and
 * of the second KV head, {half-} and {group-} the ones before. {first} and {again} are
 * TidalDecode's layers, 2 and 13 where there are so many; in the constructed model layer 1 is
 * the first whose queries and keys are those of the layer that finds the needle. */
#include "launch/compare/compare.h"

#include "launch/pattern/pattern.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *use;
    const char *placement; /* where it needs one of its own */
} table[] = {
    {"dense", "dense", NULL},
    {"StreamingLLM", "sink_window sink=4t window={2000@65536}t", NULL},
    {"DuoAttention, 50 %",
     "0-{half-}: dense; {half}-: sink_window sink=64t window={256@16384}t", NULL},
    {"RazorAttention",
     "0-{group-}: dense; {group}-: razor sink=40t recent={4000@131072}t part=5", "heads"},
    {"MoA", "span alpha=0 beta=0.5 sink=64t", NULL},
    {"S2", "s2 stride=8 local=16 per=query", NULL},
    {"strides by distance", "strided local=16 stride1=2 range1=32 stride2=8 per=query", NULL},
    {"A-shape", "a_shape sink=128t window={3968@65536}t", NULL},
    {"Tri-shape", "tri_shape sink=128t window={3968@65536}t last=100", NULL},
    {"MInference",
     "vertical_slash columns={1000@65536} diagonals={6096@65536} last=64 sink=30 local=100",
     "heads"},
    {"FlexPrefill", "flex gamma=0.95 tau=0.1 budget={1024@65536} last=64", "heads"},
    {"TidalDecode", "tidal first={first} again={again} tokens={256@16384}", NULL},
    {"MoBA, block means", "top by=mean blocks={64@65536}", NULL},
    {"DHSA, 90 % of mass", "top by=scaled_mean mass=0.9 blocks={256@65536}", NULL},
    {"Quest, bounds", "top by=minmax blocks={64@65536}", NULL},
};

/* ---- a line of the table --------------------- */

/* What stands between { and }. */
static int64_t scaled_number(const comparison *c, const char *word, bool *scaled)
{
    const int32_t heads = c->s->e.shape.heads, group = heads / c->s->e.shape.kv_heads;
    const int32_t layers = c->s->e.shape.layers;
    char *rest;
    if (!strncmp(word, "half", 4)) return heads / 2 - (word[4] == '-');
    if (!strncmp(word, "first", 5)) return c->s->wish.foreign && layers > 2 ? 2 : 1;
    if (!strncmp(word, "again", 5)) return c->s->wish.foreign && layers > 13 ? 13 : 0;
    if (!strncmp(word, "group", 5)) return group - (word[5] == '-');
    const int64_t n = strtoll(word, &rest, 10), from = strtoll(rest + 1, NULL, 10);
    if (c->length >= from) return n;
    *scaled = true;
    const int64_t less = (n * c->length + from - 1) / from;
    return less > 0 ? less : 1;
}

static void fill_in(const comparison *c, const char *use, compared *p)
{
    size_t used = 0;
    while (*use && used + 24 < sizeof p->use) {
        if (*use != '{') {
            p->use[used++] = *use++;
            continue;
        }
        used += (size_t)snprintf(p->use + used, sizeof p->use - used, "%lld",
                                 (long long)scaled_number(c, use + 1, &p->scaled));
        use = strchr(use, '}') + 1;
    }
    p->use[used] = 0;
}

/* ---- rules --------------------- */

enum { ROOM = 64 };

/* Those of one line for all layers. */
static bool read_use_line(const comparison *c, compared *p)
{
    char why[NEEDLE_WHY];
    p->text = strdup(p->use);
    p->rules = calloc(ROOM, sizeof *p->rules);
    if (!p->text || !p->rules) return say_error(c->j, "out of memory"), false;
    if (!rules_append(p->rules, &p->rule_count, ROOM, 0, p->text, why, sizeof why)) {
        say_error(c->j, "--use \"%s\": %s", p->use, why);
        return false;
    }
    for (int32_t i = 0; i < p->rule_count; i++) p->rules[i].last_layer = -1;
    return true;
}

/* A file's. Collective; an exit code. */
static int read_pattern_file(const comparison *c, const char *path, compared *p)
{
    const model_shape *shape = &c->s->e.shape;
    char why[NEEDLE_WHY] = "out of memory";
    const char *slash = strrchr(path, '/');
    snprintf(p->name, sizeof p->name, "%s", slash && slash[1] ? slash + 1 : path);
    snprintf(p->use, sizeof p->use, "%s", path);
    p->config = malloc(sizeof *p->config);
    if (!job_all_good(c->j, p->config != NULL)) return EXIT_FAILED;
    banyan__config__init(p->config);
    int code =
        pattern_load(c->j, path, shape->layers, shape->heads, shape->kv_heads, p->config);
    if (code) return code;
    bool good = !spec_from_config(p->config, &p->spec, why, sizeof why);
    if (good) {
        p->rule_count = p->spec.spec.rule_count;
        p->rules = calloc((size_t)p->rule_count + 1, sizeof *p->rules);
        good = p->rules != NULL;
    }
    if (good)
        memcpy(p->rules, p->spec.rules, (size_t)p->rule_count * sizeof *p->rules);
    else
        say_error(c->j, "%s: %s", path, why);
    return job_all_good(c->j, good) ? EXIT_OK : EXIT_USAGE;
}

/* Behind the pattern's rules those that hold for all: of the layer which the constructed model
 * copies its tokens with. */
static bool append_common_rules(const comparison *c, compared *p)
{
    const banyan_spec *all = &c->s->e.spec;
    const size_t count = (size_t)(p->rule_count + all->rule_count);
    banyan_rule *rules = realloc(p->rules, (count + 1) * sizeof *rules);
    if (!rules) return say_error(c->j, "out of memory"), false;
    p->rules = rules;
    /* a checkpoint's own patterns hold where there are no rules at all */
    for (int32_t i = 0; i < all->rule_count; i++) rules[p->rule_count + i] = all->rules[i];
    p->rule_count = (int32_t)count;
    return true;
}

/* ---- which --------------------- */

static compared *next_compared(comparison *c)
{
    if (c->count < COMPARE_MOST) return &c->of[c->count++];
    say_error(c->j, "more than %d patterns", COMPARE_MOST - 1);
    return NULL;
}

/* What the others are held against: no rules for a checkpoint, whose layers may have their
 * own. */
static int add_first(comparison *c)
{
    compared *p = &c->of[c->count++];
    const bool own = c->s->wish.foreign != NULL;
    snprintf(p->name, sizeof p->name, "%s", own ? "the model's own" : table[0].name);
    snprintf(p->use, sizeof p->use, "%s", own ? "" : table[0].use);
    if (!own && !read_use_line(c, p)) return EXIT_FAILED;
    return append_common_rules(c, p) ? EXIT_OK : EXIT_FAILED;
}

static int add_given(comparison *c, const char *flag_name, const char *value)
{
    const bool is_file = !strcmp(flag_name, "pattern");
    compared *p = next_compared(c);
    if (!p) return EXIT_USAGE;
    if (is_file) {
        int code = read_pattern_file(c, value, p);
        if (code) return code;
    } else {
        snprintf(p->name, sizeof p->name, "%s", value);
        if (strlen(value) >= sizeof p->use) {
            say_error(c->j, "--use \"%.40s..\": longer than %d bytes", value,
                      (int)sizeof p->use - 1);
            return EXIT_USAGE;
        }
        snprintf(p->use, sizeof p->use, "%s", value);
        if (!read_use_line(c, p)) return EXIT_USAGE;
    }
    return append_common_rules(c, p) ? EXIT_OK : EXIT_FAILED;
}

static int add_table(comparison *c)
{
    for (size_t i = 1; i < sizeof table / sizeof *table; i++) {
        compared *p = &c->of[c->count++];
        snprintf(p->name, sizeof p->name, "%s", table[i].name);
        p->placement = table[i].placement;
        fill_in(c, table[i].use, p);
        if (!read_use_line(c, p) || !append_common_rules(c, p)) return EXIT_FAILED;
    }
    return EXIT_OK;
}

int compare_choose(comparison *c)
{
    const char *name, *value;
    int code = add_first(c);
    for (int i = 0; !code && job_given(c->j, i, &name, &value); i++)
        if (!strcmp(name, "use") || !strcmp(name, "pattern")) code = add_given(c, name, value);
    if (!code && c->count == 1) code = add_table(c);
    return job_all_good(c->j, !code) ? EXIT_OK : code ? code : EXIT_FAILED;
}

void compare_free(comparison *c)
{
    for (int32_t i = c->count; i-- > 0;) { /* the first has the weights */
        compared *p = &c->of[i];
        if (p->e.m) model_close(p->e.m);
        results_close(p->e.results);
        free(p->outputs.value);
        free(p->rules);
        free(p->text);
        spec_free(&p->spec);
        if (p->config) banyan__config__free_unpacked(p->config, NULL);
    }
}
