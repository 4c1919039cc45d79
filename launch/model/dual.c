/* SPDX-License-Identifier: Apache-2.0 */
/* Dual chunk attention (An et al., Training-Free Long-Context Scaling of Large Language Models,
 * arXiv 2402.17463, section 3; Qwen2.5-1M, arXiv 2501.15383): no key is further from its query,
 * as rotation has it, than the model was trained for. With chunks of C tokens of which S are
 * local, and L = C - S, a key at token j is turned to j mod L and kept so. A row at p, in chunk
 * c = p / L at u = p mod L, asks three times:
 *
 *     keys of its own chunk, [c L, p]               with its query turned to u
 *     keys of the chunk before, [(c - 1) L, c L)                          to min(u + L, C)
 *     keys of all others, [0, (c - 1) L)                                  to min(2 L - 1, C)
 *
 * each a softmax over other tokens, joined by their lse (banyan_combine). Beyond the original
 * length scores are sharpened by s^2, s = 0.1 ln(n / original) + 1, n the whole sequence's
 * tokens. Up to L tokens all of this is plain attention, and is done as such. */
#include "launch/model/runner.h"

#include <math.h>
#include <string.h>

int64_t dual_reach(const description *d)
{
    return d->dual_chunk ? d->dual_chunk - d->dual_local : INT64_MAX;
}

double dual_sharpness(const description *d, double tokens)
{
    if (!d->dual_chunk || d->dual_original <= 0) return 1;
    const double s = fmax(1, 0.1 * log(tokens / d->dual_original) + 1);
    return s * s;
}

bool dual_is_on(const model *m, const chunk *c)
{
    return c->at + c->rows > dual_reach(&m->is);
}

void dual_turns(model *m, const chunk *c)
{
    const int64_t reach = dual_reach(&m->is), far = m->is.dual_chunk;
    const rope *r = &m->rope[0];
    workspace *w = &m->work;
    for (int64_t row = 0, n; row < c->rows; row += n) {
        const int64_t u = (c->at + row) % reach;
        n = reach - u < c->rows - row ? reach - u : c->rows - row;
        rope_table(r, u, (int32_t)n, w->turn[0] + row * 2 * r->pairs);
    }
    for (int64_t row = 0; row < c->rows; row++) {
        const int64_t next = (c->at + row) % reach + reach;
        rope_table(r, next < far ? next : far, 1, w->turn_next + row * 2 * r->pairs);
    }
    rope_table(r, 2 * reach - 1 < far ? 2 * reach - 1 : far, 1, w->turn_far);
}

void dual_turn_queries(model *m, int64_t row, int64_t wanted, int32_t head, int32_t heads)
{
    workspace *w = &m->work;
    const int32_t dim = m->shape.head_dim, pairs = m->rope[0].pairs;
    const int64_t at = (wanted * m->shape.heads + head) * dim;
    const float *const turn[] = {w->turn_next + row * 2 * pairs, w->turn_far};
    for (int i = 0; i < 2; i++) {
        memcpy(w->dual_q[i] + at, w->q + at, (size_t)heads * (size_t)dim * sizeof *w->q);
        rope_turn(w->dual_q[i] + at, heads, dim, pairs, turn[i]);
    }
}

/* The parts of the wanted rows from `first` on, one for each chunk that they lie in, with their
 * version's keys; 0: none of them has any. *skip: rows before the first that has. */
static int32_t list_parts(const model *m, const chunk *c, int version,
                          const banyan_range *probe, float *mass, int32_t *skip)
{
    const int64_t reach = dual_reach(&m->is), end = c->at + c->rows;
    int32_t count = 0;
    *skip = 0;
    for (int64_t at = end - c->wanted, n; at < end; at += n) {
        const int64_t chunk_of = at / reach;
        n = (chunk_of + 1) * reach < end ? (chunk_of + 1) * reach - at : end - at;
        if (chunk_of < version) {
            *skip += (int32_t)n;
            continue;
        }
        const int64_t first = version < 2 ? (chunk_of - version) * reach : 0;
        const int64_t after = (chunk_of - version + 1) * reach;
        m->work.dual_part[count++] = (banyan_rows){
            .sequence = m->sequence,
            .at = at,
            .rows = (int32_t)n,
            .first = first,
            .end = after,
            .probes = probe,
            .probe_count = probe ? 1 : 0,
            .mass = probe ? mass + (at - (end - c->wanted)) * m->shape.heads : NULL};
    }
    return count;
}

/* One version of the queries with its keys. */
static banyan_status attend_version(model *m, int32_t layer, const chunk *c, int version,
                                    const banyan_range *probe)
{
    workspace *w = &m->work;
    const int64_t heads = m->shape.heads, width = heads * m->shape.head_dim;
    const float *q = version ? w->dual_q[version - 1] : w->q;
    float *out = version ? w->dual_out[version - 1] : w->out;
    float *lse = w->dual_lse[version];
    int32_t skip, count = list_parts(m, c, version, probe, w->dual_mass[version], &skip);
    for (int64_t i = 0; i < skip * heads; i++) {
        lse[i] = -INFINITY; /* sees none of these */
        w->dual_mass[version][i] = 0;
    }
    if (count == 0) return BANYAN_OK;
    return banyan_attend(m->cache, layer, w->dual_part, count, q + skip * width, NULL, NULL,
                         out + skip * width, lse + skip * heads);
}

/* Shares of the whole softmax, from those of its parts. */
static void join_mass(model *m, int32_t rows)
{
    workspace *w = &m->work;
    for (int64_t i = 0; i < (int64_t)rows * m->shape.heads; i++) {
        double sum = 0;
        for (int v = 0; v < DUAL; v++)
            if (w->dual_lse[v][i] > -INFINITY)
                sum += w->dual_mass[v][i] * exp((double)w->dual_lse[v][i] - w->lse[i]);
        w->mass[i] = (float)sum;
    }
}

banyan_status dual_attend(model *m, int32_t layer, const chunk *c, const model_probe *probe)
{
    workspace *w = &m->work;
    const float *const outs[DUAL] = {w->out, w->dual_out[0], w->dual_out[1]};
    const float *const lses[DUAL] = {w->dual_lse[0], w->dual_lse[1], w->dual_lse[2]};
    const bool with_mass = probe && probe->mass;
    const banyan_range range = {with_mass ? probe->first_token : 0,
                                with_mass ? probe->first_token + probe->token_count : 0};
    banyan_status status = single_attend(m->cache, m->sequence, layer, c->at, c->rows, NULL,
                                         w->k, w->v, NULL, NULL);
    for (int v = 0; !status && v < DUAL && c->wanted > 0; v++)
        status = attend_version(m, layer, c, v, with_mass ? &range : NULL);
    if (!status && c->wanted > 0)
        status = banyan_combine(m->cache, layer, c->wanted, DUAL, (const void *const *)outs,
                                lses, w->out, w->lse);
    if (!status && with_mass) join_mass(m, c->wanted);
    return status;
}
