/* SPDX-License-Identifier: Apache-2.0 */
/* The table of rotary kinds, and what config.json says of one. */
#include "launch/model/rope.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define BANYAN_ROW(name, needs, doc) extern const rope_row rope_##name;
#include "launch/model/ropes.def"
#undef BANYAN_ROW

#define BANYAN_ROW(name, needs, doc) {&rope_##name, doc},
static const struct {
    const rope_row *row;
    const char *doc;
} kinds[] = {
#include "launch/model/ropes.def"
};
#undef BANYAN_ROW
enum { kind_count = sizeof kinds / sizeof kinds[0] };

const rope_row *rope_kind(int index)
{
    return index >= 0 && index < kind_count ? kinds[index].row : NULL;
}

const char *rope_doc(int index)
{
    return kinds[index].doc;
}

double rope_reach(const rope_params *p)
{
    double from = p->original > 0 ? p->original : p->trained;
    return p->row->extends ? fmax(p->trained, from * p->factor) : p->trained;
}

static const rope_row *find_rope(hf_config *c, const json_t *object)
{
    const char *names[kind_count + 1] = {NULL};
    const char *name = hf_text(c, object, "rope_type", hf_text(c, object, "type", NULL));
    if (!name && hf_get(c, object, "factor"))
        hf_fail(c, "rope_type", NULL, "the kind of scaling, since there is a factor");
    for (int i = 0; i < kind_count; i++) {
        names[i] = kinds[i].row->name;
        if (name && kinds[i].row->also && !strcmp(name, kinds[i].row->also)) name = names[i];
    }
    return kinds[name ? hf_choice(c, "rope_type", name, names) : 0].row;
}

/* A number that may stand at the top of the file and in the object: once, or the same in
 * both. */
static double either(hf_config *c, const json_t *object, const char *field, bool given,
                     double top)
{
    double value = hf_number(c, object, field, top);
    char want[96];
    snprintf(want, sizeof want, "%.17g, which stands at the top of the file", top);
    if (given && value != top) hf_fail(c, field, hf_get(c, object, field), want);
    return value;
}

static void check_needs(hf_config *c, const json_t *object, const rope_params *p)
{
    const struct {
        const char *field;
        double value;
    } known[] = {{"max_position_embeddings", p->trained},
                 {"original_max_position_embeddings", p->original}};
    for (int i = 0; p->row->needs[i] && !c->failed; i++) {
        const char *field = p->row->needs[i];
        bool there = hf_get(c, object, field) != NULL;
        for (int k = 0; k < 2; k++)
            if (!strcmp(field, known[k].field)) there = known[k].value > 0;
        char want[96];
        snprintf(want, sizeof want, "a value, as rope_type is \"%s\"", p->row->name);
        if (!there) hf_fail(c, field, NULL, want);
    }
}

static void read_scaling(hf_config *c, const json_t *object, rope_params *p)
{
    const struct {
        const char *field;
        double *to;
    } fields[] = {{"factor", &p->factor},
                  {"low_freq_factor", &p->low_freq_factor},
                  {"high_freq_factor", &p->high_freq_factor},
                  {"beta_fast", &p->beta_fast},
                  {"beta_slow", &p->beta_slow},
                  {"attention_factor", &p->attention_factor},
                  {"mscale", &p->mscale},
                  {"mscale_all_dim", &p->mscale_all_dim}};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        const json_t *value = hf_get(c, object, fields[i].field);
        if (json_is_number(value) && json_number_value(value) == 0) continue; /* as if absent */
        *fields[i].to = hf_number(c, object, fields[i].field, 0);
    }
    p->truncate = hf_truth(c, object, "truncate", true);
    hf_numbers(c, object, "short_factor", p->dims / 2, p->short_factor);
    hf_numbers(c, object, "long_factor", p->dims / 2, p->long_factor);
}

void rope_read(hf_config *c, const json_t *object, const rope_defaults *d, rope_params *out)
{
    const json_t *empty = json_object(), *from = object ? object : empty;
    *out = (rope_params){.row = find_rope(c, from), .trained = d->trained};
    out->theta = either(c, from, "rope_theta", d->theta_given, d->theta);
    double partial = either(c, from, "partial_rotary_factor", d->partial_given, d->partial);
    out->original =
        either(c, from, "original_max_position_embeddings", d->original > 0, d->original);
    out->dims = (int32_t)(d->head_dim * fmin(partial, 1e6));
    if (!c->failed && (out->dims < 2 || out->dims % 2 || out->dims > d->head_dim)) {
        const json_t *value = json_real(partial);
        hf_fail(c, "partial_rotary_factor", value, "an even number of a head's entries");
        json_decref((json_t *)value);
    }
    if (!c->failed) read_scaling(c, from, out);
    /* transformers takes the trained length for the original one where none is given */
    if (out->original == 0) out->original = out->trained;
    check_needs(c, from, out);
    json_decref((json_t *)empty);
}
