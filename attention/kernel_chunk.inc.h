/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_chunk.inc.h - a stack of rows takes a chunk of tokens: scores, weights, values.
 *
 * A bundle is up to VEC_ROWS rows that use the same tile of registers, a stack up to
 * VEC_BUNDLES of them: a panel of keys or values comes from the level 2 cache for the first
 * bundle and from level 1 for the others. A chunk is up to CHUNK tokens, collected from the
 * blocks that the stack reads, in segments of whole sixteens:
 *
 *     block 3             block 7             block 9 (the rows' own: only what some row sees)
 *     |---------------|   |---------------|   |------|
 *      segment 0           segment 1           segment 2        scores: [rows][columns]
 *
 * so that the running sums are touched once a chunk, and tokens that no row of the stack sees
 * cost nothing. In a segment that some rows see only in part, the scores that they do not see
 * become -inf between the two products; other segments have no code for masks. */

enum { CHUNK = 256, GRAIN = 16, SEGMENTS = CHUNK / GRAIN, SCORE_STRIDE = CHUNK + 16 };
enum { STACK_ROWS = VEC_BUNDLES * VEC_ROWS };

typedef struct work {
    const banyan_tile *tile;
    layout stored; /* of the records */
    layout used;   /* of what the products read: the records, or images of them */
    product_kind kind;
    int32_t total; /* rows of all heads */
    float c;       /* |scale| log2(e) */
    int64_t q_stride, o_stride;
    float *q;     /* [total][q_stride]: words for the products */
    float *o;     /* [total][columns] */
    float *sum;   /* [total][VEC_LANES]: l, not yet summed over lanes */
    float *max;   /* [total], before scaling */
    float *score; /* [STACK_ROWS][SCORE_STRIDE] */
    char *image;  /* [images][used.bytes] */
    ahead ahead;
} work;

/* What a row sees of a block: first <= token < end, but not gap <= token < gap_end. */
typedef struct sight {
    int32_t first, end, gap, gap_end;
} sight;

typedef struct view {
    int32_t first, end;   /* what some row sees, in whole grains */
    int partial;          /* some row does not see all of that */
    const uint64_t *mask; /* or: all rows see these bits of it */
    sight row[STACK_ROWS];
} view;

typedef struct segment {
    const char *used, *plain; /* what value_load reads: the record, or its image */
    int32_t token, count;     /* of the block */
    int32_t column;           /* of the chunk */
    int partial;
    int exact; /* some value of the block is not finite */
} segment;

typedef struct token_chunk {
    int32_t row, rows; /* the stack */
    int32_t segments, columns;
    segment segment[SEGMENTS];
    uint16_t seen[STACK_ROWS][SEGMENTS]; /* a bit for each column, where partial or exact */
} token_chunk;

static int32_t clamp32(int64_t x, int64_t low, int64_t high)
{
    return (int32_t)(x < low ? low : x > high ? high : x);
}

static sight row_sight(const banyan_tile *tile, const banyan_entry *entry, int64_t row)
{
    const int64_t tokens = tile->shape.block_tokens, base = entry->block * tokens;
    sight s = {.first = clamp32(tile->first_token - base, 0, tokens)};
    s.end = clamp32(tile->end_token < row + 1 ? tile->end_token - base : row + 1 - base,
                    s.first, tokens);
    if (entry->edge >= 0) {
        const banyan_edge *edge = &tile->edge[entry->edge];
        s.gap = clamp32(edge->sink_end - base, s.first, s.end);
        s.gap_end = clamp32(row - edge->window + 1 - base, s.gap, s.end);
        if (s.gap == s.first) s.first = s.gap_end;
        if (s.gap_end == s.end) s.end = s.gap;
        if (s.end < s.first) s.end = s.first;
    }
    return s;
}

/* GRAIN bits of a mask from `from` on, a multiple of it. */
static uint32_t grain_of(const uint64_t *mask, int32_t from)
{
    return (uint32_t)(mask[from / 64] >> from % 64) & 0xffff;
}

static void view_masked(const uint64_t *mask, int32_t tokens, view *out)
{
    out->first = 0, out->end = tokens;
    while (out->first < tokens && !grain_of(mask, out->first)) out->first += GRAIN;
    if (out->first == tokens) out->first = 0, out->end = 0;
    while (out->end > out->first && !grain_of(mask, out->end - GRAIN)) out->end -= GRAIN;
    out->mask = mask;
    out->partial = 0;
    for (int32_t t = out->first; t < out->end; t += GRAIN)
        if (grain_of(mask, t) != 0xffff) out->partial = 1;
}

static void view_of(const banyan_tile *tile, const banyan_entry *entry, int32_t row,
                    int32_t rows, view *out)
{
    const int64_t tokens = tile->shape.block_tokens, base = entry->block * tokens;
    out->first = 0, out->end = (int32_t)tokens, out->partial = 0;
    out->mask = NULL;
    if (entry->mask) {
        view_masked(entry->mask, (int32_t)tokens, out);
        return;
    }
    if (entry->edge < 0 && base + tokens - 1 <= tile->at && base >= tile->first_token &&
        base + tokens <= tile->end_token)
        return;

    out->first = (int32_t)tokens, out->end = 0;
    for (int32_t r = 0; r < rows; r++) {
        sight s = out->row[r] = row_sight(tile, entry, tile->at + (row + r) % tile->rows);
        if (s.first == s.end) continue;
        if (s.first < out->first) out->first = s.first;
        if (s.end > out->end) out->end = s.end;
    }
    if (out->end <= out->first) {
        out->first = out->end = 0;
        return;
    }
    out->first = out->first / GRAIN * GRAIN;
    out->end = round_up(out->end, GRAIN);
    for (int32_t r = 0; r < rows; r++) {
        const sight *s = &out->row[r];
        if (s->first > out->first || s->end < out->end || s->gap < s->gap_end) out->partial = 1;
    }
}

/* Bits of tokens first <= token < end among the GRAIN tokens from `from` on. */
static uint32_t bits_between(int32_t first, int32_t end, int32_t from)
{
    uint32_t below_first = (1u << clamp32(first - from, 0, GRAIN)) - 1;
    uint32_t below_end = (1u << clamp32(end - from, 0, GRAIN)) - 1;
    return below_end & ~below_first;
}

/* A block with values: those of its record, or, where that has rows as they come, of its
 * image. */
VEC_INLINE const layout *plain_layout(const work *w)
{
    return w->stored.in_key ? &w->used : &w->stored;
}

static void chunk_add(token_chunk *x, const work *w, const char *used, const char *record,
                      const view *seen, int32_t token, int32_t count)
{
    const char *plain = w->stored.in_key ? used : record;
    segment *p = &x->segment[x->segments++];
    *p = (segment){used, plain, token, count, x->columns, seen->partial, 0};
    p->exact = trailer_of(plain_layout(w), plain)->not_finite != 0;
    x->columns += count;
    if (!p->partial && !p->exact) return;
    for (int32_t r = 0; r < x->rows; r++) {
        const sight *s = &seen->row[r];
        for (int32_t i = 0; i < count; i += GRAIN) {
            uint32_t bits = 0xffff;
            if (p->partial && seen->mask)
                bits = grain_of(seen->mask, token + i);
            else if (p->partial)
                bits = bits_between(s->first, s->end, token + i) &
                       ~bits_between(s->gap, s->gap_end, token + i);
            x->seen[r][(p->column + i) / GRAIN] = (uint16_t)bits;
        }
    }
}

/* A product, and meanwhile the next part of what is asked for. */
static void product_ahead(work *w, product *p, int32_t rows, int32_t vectors)
{
    ahead *x = &w->ahead;
    if (x->then_at == x->then_end && x->count > 0 && x->budget > 0) {
        size_t bytes = x->budget < w->stored.bytes ? x->budget : w->stored.bytes;
        x->then_at = x->entry->record;
        x->then_end = x->then_at + bytes;
        x->budget -= bytes;
        x->entry++, x->count--;
    }
    p->ahead = x;
    product_run(p, w->kind, rows, vectors);
}

static int32_t bundles_of(int32_t rows)
{
    return (rows + VEC_ROWS - 1) / VEC_ROWS;
}

/* The same columns for all bundles of a stack, whose first row is that of p; observed rows may
 * be more than a stack. One bundle copies nothing: this is done for each panel of each
 * chunk. */
static void product_stack(work *w, product *p, int32_t rows, int32_t vectors)
{
    if (rows <= VEC_ROWS) {
        product_ahead(w, p, rows, vectors);
        return;
    }
    const int32_t bundles = bundles_of(rows);
    for (int32_t i = 0, from = 0, to; i < bundles; i++, from = to) {
        product bundle = *p;
        to = rows * (i + 1) / bundles;
        bundle.a += from * p->a_stride;
        bundle.c += from * p->c_stride;
        if (p->alpha) bundle.alpha += from;
        product_ahead(w, &bundle, to - from, vectors);
    }
}

static void chunk_scores(work *w, const token_chunk *x)
{
    const char *key[CHUNK / VEC_LANES];
    int32_t vectors = 0;
    for (int32_t i = 0; i < x->segments; i++) {
        const segment *p = &x->segment[i];
        for (int32_t t = 0; t < p->count; t += VEC_LANES)
            key[vectors++] = p->used + key_at(&w->used, p->token + t);
    }
    product_part part = {.steps = w->used.key_steps};
    product p = {.a = w->q + x->row * w->q_stride,
                 .a_stride = w->q_stride,
                 .part = &part,
                 .parts = 1,
                 .b_stride = key_stride(&w->used),
                 .c_stride = SCORE_STRIDE};
    for (int32_t i = 0, take; i < vectors; i += take) {
        take = product_vectors(vectors - i);
        for (int32_t g = 0; g < take; g++) part.b[g] = key[i + g];
        p.c = w->score + i * VEC_LANES;
        product_stack(w, &p, x->rows, take);
    }
}

/* Scores that a row does not see become -inf. In a segment with values that are not finite the
 * bits also lose the tokens whose own score is -inf. */
static void chunk_mask(const work *w, token_chunk *x)
{
    for (int32_t i = 0; i < x->segments; i++) {
        const segment *p = &x->segment[i];
        if (!p->partial && !p->exact) continue;
        for (int32_t r = 0; r < x->rows; r++) {
            float *score = w->score + r * SCORE_STRIDE;
            for (int32_t t = p->column; t < p->column + p->count; t += VEC_LANES) {
                uint32_t bits = (uint32_t)x->seen[r][t / GRAIN] >> t % GRAIN;
                vec_store(score + t, vec_keep(vec_load(score + t), bits));
            }
            for (int32_t t = p->column; p->exact && t < p->column + p->count; t++)
                if (score[t] == -INFINITY) x->seen[r][t / GRAIN] &= ~(1u << t % GRAIN);
        }
    }
}

static void chunk_values(work *w, const token_chunk *x, const float *alpha)
{
    const layout *y = &w->used;
    product_part part[SEGMENTS];
    product p = {.a = w->score,
                 .a_stride = SCORE_STRIDE,
                 .part = part,
                 .alpha = alpha,
                 .c_stride = w->o_stride};
    for (int32_t i = 0; i < x->segments; i++) {
        if (x->segment[i].exact) continue;
        part[p.parts].steps = x->segment[i].count / y->fold;
        part[p.parts++].a = x->segment[i].column / WEIGHTS_IN_WORD;
    }
    for (int32_t dim = 0, take; dim < y->columns; dim += take * VEC_LANES) {
        take = product_vectors((value_width(y, dim) - dim % VEC_PANEL) / VEC_LANES);
        p.b_stride = value_stride(y, dim);
        p.c = w->o + x->row * w->o_stride + dim;
        for (int32_t i = 0, n = 0; i < x->segments; i++) {
            const segment *from = &x->segment[i];
            if (from->exact) continue;
            const char *b = from->used + (size_t)(from->token / y->fold) * p.b_stride;
            for (int32_t g = 0; g < take; g++)
                part[n].b[g] = b + value_at(y, dim + g * VEC_LANES);
            n++;
        }
        product_stack(w, &p, x->rows, take);
    }
}

/* VEC_LANES values of a token. */
static vec value_load(const layout *y, const char *record, int32_t token, int32_t dim)
{
    const char *at =
        record + value_at(y, dim) + (size_t)(token / y->fold) * value_stride(y, dim);
    if (y->dtype == BANYAN_F32) return vec_load((const float *)(const void *)at);
    if (y->dtype == BANYAN_F16) return vec_from_f16((const uint16_t *)(const void *)at);
    return token % 2 ? pairs_odd(pairs_load(at)) : pairs_even(pairs_load(at));
}

/* Values of a segment that may hold NaN or inf: token by token, only those that count. */
static void chunk_values_exact(const work *w, const token_chunk *x, const segment *p)
{
    for (int32_t r = 0; r < x->rows; r++) {
        float *o = w->o + (x->row + r) * w->o_stride;
        for (int32_t t = 0; t < p->count; t++) {
            int32_t column = p->column + t;
            if (!(x->seen[r][column / GRAIN] >> column % GRAIN & 1)) continue;
            vec weight = vec_set(weight_at(w->score + r * SCORE_STRIDE, column));
            for (int32_t dim = 0; dim < w->stored.columns; dim += VEC_LANES) {
                vec value = value_load(plain_layout(w), p->plain, p->token + t, dim);
                vec_store(o + dim, vec_fma(weight, value, vec_load(o + dim)));
            }
        }
    }
}

/* Memory does not rest during the softmax either. A block of fp32 takes so long to read that
 * its products are enough to ask for it, and asking more often was seen to be slower. */
static int softmax_asks(const work *w)
{
    return w->stored.dtype != BANYAN_F32;
}

static void chunk_run(work *w, token_chunk *x)
{
    float alpha[STACK_ROWS];
    chunk_scores(w, x);
    chunk_mask(w, x);
    for (int32_t r = 0; r < x->rows; r++) {
        if (softmax_asks(w)) ahead_step(&w->ahead);
        alpha[r] = softmax_row(w->score + r * SCORE_STRIDE, x->columns, w->c,
                               &w->max[x->row + r], w->sum + (x->row + r) * VEC_LANES);
    }
    chunk_values(w, x, w->tile->sums ? NULL : alpha); /* the chunk is all there is of a block */
    for (int32_t i = 0; i < x->segments; i++)
        if (x->segment[i].exact) chunk_values_exact(w, x, &x->segment[i]);
    x->segments = x->columns = 0;
}
