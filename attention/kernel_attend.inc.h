/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_attend.inc.h - a tile attends to its list.
 *
 * The list goes by in sets of some blocks, few enough to stay in the level 2 cache while every
 * stack of rows passes over them. Query heads that read the same blocks of a set form one run
 * of rows, so that with one row a head (decode) a loaded key still serves the whole group. When
 * many rows will use a 16-bit block and there is no dot product for its format, the block is
 * widened to fp32 once for all of them. A block of rows as they come (value_in_key) is always
 * brought into the products' layout first.
 *
 * The tile starts from the empty partial and is combined with the caller's at the end, in the
 * base that it really has: its sums are relative to exp(|scale| max), an exact product of two
 * floats, while the m that is stored is that product rounded; the factor exp(|scale| max - m)
 * makes m, l and o agree to the last bits however large m is.
 *
 * For fixed-point sums a chunk is one block and starts from the empty partial: what came before
 * it leaves no trace in its bits.
 *
 * Sums of values near the largest fp32 overflow though their mean does not: l is up to the
 * number of tokens, and o up to l times the largest value. Such a row attends again, alone,
 * with a base point that lies above its maximum, so that l is about 1/2. */

enum {
    SET = 16,              /* blocks of a set at most */
    SET_BYTES = 256 << 10, /* a quarter of a level 2 cache: the next set, q and o fit too */
    DIRECT_ROWS = 2 * VEC_ROWS, /* with more rows than this, widening a block once is cheaper */
    FEW_BUNDLES = 3,            /* with no more than this, memory is the limit */
    FEW_TOKENS = 64,
    LEAD = 4 << 10,        /* bytes: latency x bandwidth of one core (100 ns x 40 GB/s) */
    LEAD_FLOATS = 2 << 10, /* fp32 needs no work: the loop's own loads are in flight as well */
    LEAD_SUMS = 8 << 10    /* and what arrives while a block is added to fixed-point sums */
};

typedef struct block_set {
    int32_t count;
    const banyan_entry *entry;
    const char *used[SET];
} block_set;

#ifdef VEC_DOT
#define IMAGE_DTYPE BANYAN_BF16
#else
#define IMAGE_DTYPE BANYAN_F32
#endif

/* ---- the workspace ----------------------------------------------------------------------- */

static int is_widened(const banyan_block_shape *shape, int32_t total)
{
#ifdef VEC_DOT
    (void)shape, (void)total;
    return 0;
#else
    return shape->dtype != BANYAN_F32 && total > DIRECT_ROWS;
#endif
}

/* Few bundles take the blocks one by one, if they are not too short: then keys and values are
 * read in the order in which they lie in memory, which the hardware prefetcher follows as
 * well. */
static int32_t set_blocks(const layout *used, int32_t total)
{
    size_t fit = SET_BYTES / used->bytes;
    if (bundles_of(total) <= FEW_BUNDLES) return (FEW_TOKENS + used->tokens - 1) / used->tokens;
    return fit > SET ? SET : fit > 0 ? (int32_t)fit : 1;
}

/* Sets the pointers from `memory` on, and returns the bytes that they need. */
static size_t work_lay(work *w, const banyan_block_shape *shape, int32_t heads, int32_t rows,
                       void *memory)
{
    w->total = heads * rows;
    w->stored = layout_of(shape);
    const int has_image = w->stored.in_key || is_widened(shape, w->total);
    w->used = w->stored.in_key ? layout_of_image(&w->stored, IMAGE_DTYPE)
              : has_image      ? layout_widened(&w->stored)
                               : w->stored;
#ifdef VEC_DOT
    w->kind = PRODUCT_DOT;
    w->q_stride = round_up(w->used.key_steps, VEC_LANES);
#else
    w->kind = w->used.dtype == BANYAN_F32   ? PRODUCT_F32
              : w->used.dtype == BANYAN_F16 ? PRODUCT_F16
                                            : PRODUCT_BF16;
    w->q_stride = round_up(w->used.key_steps * w->used.fold, VEC_LANES);
#endif
    w->o_stride = w->stored.columns;

    const size_t total = (size_t)w->total;
    float **part[] = {&w->q, &w->o, &w->sum, &w->max, &w->score};
    const size_t floats[] = {total * (size_t)w->q_stride, total * (size_t)w->o_stride,
                             total * VEC_LANES, total, (size_t)STACK_ROWS * SCORE_STRIDE};
    size_t at = 0;
    for (int i = 0; i < 5; i++) {
        *part[i] = memory ? (float *)memory + at : NULL;
        at += (floats[i] + 15) / 16 * 16;
    }
    at *= sizeof(float);
    w->image = memory ? (char *)memory + at : NULL;
    return at + (has_image ? (size_t)set_blocks(&w->used, w->total) * w->used.bytes : 0);
}

static size_t vector_workspace_bytes(const banyan_block_shape *shape, int32_t heads,
                                     int32_t rows)
{
    work w;
    return work_lay(&w, shape, heads, rows, NULL);
}

/* ---- before ------------------------------------------------------------------------------ */

static void work_begin(work *w, const banyan_tile *tile)
{
    const float scale = tile->scale;
    w->tile = tile;
    /* with scale 0 the scores are those of q = 0, and any c will do */
    w->c = scale == 0 ? 1 : (float)(fabs((double)scale) * M_LOG2E);
    const vec sign = vec_set(scale < 0 ? -1.0f : scale == 0 ? 0.0f : 1.0f);
    source s = {(const char *)tile->q, (int64_t)tile->shape.key_dim * (int64_t)sizeof(float),
                tile->shape.key_dim, BANYAN_F32};

    for (int32_t row = 0; row < w->total; row++) {
        float *to = w->q + row * w->q_stride;
#ifdef VEC_DOT
        for (int32_t word = 0; word < w->q_stride; word += VEC_LANES) {
            vec first = vec_mul(source_load(&s, row, 2 * word), sign);
            vec second = vec_mul(source_load(&s, row, 2 * word + VEC_LANES), sign);
            pairs_store(to + word, pairs_pack(first, second));
        }
#else
        for (int32_t dim = 0; dim < w->q_stride; dim += VEC_LANES)
            vec_store(to + dim, vec_mul(source_load(&s, row, dim), sign));
#endif
        w->max[row] = -INFINITY;
    }
    memset(w->o, 0, (size_t)w->total * (size_t)w->o_stride * sizeof(float));
    memset(w->sum, 0, (size_t)w->total * VEC_LANES * sizeof(float));
}

/* ---- during ------------------------------------------------------------------------------ */

#ifndef VEC_DOT
/* `rows` steps of `width` columns, in fp32: a pair becomes two steps. */
static void widen_steps(float *to, const char *from, int32_t rows, int32_t width, int32_t fold)
{
    for (int32_t row = 0; row < rows; row++, to += fold * width) {
        for (int32_t column = 0; column < width; column += VEC_LANES) {
            if (fold == 1) {
                vec_store(to + column, vec_from_f16((const void *)(from + 2 * column)));
                continue;
            }
            pairs words = pairs_load(from + 4 * column);
            vec_store(to + column, pairs_even(words));
            vec_store(to + width + column, pairs_odd(words));
        }
        from += 2 * fold * width;
    }
}

static void widen_record(const work *w, const char *record, char *image)
{
    const layout *s = &w->stored;
    widen_steps((float *)(void *)image, record, s->tokens / s->width * s->key_steps, s->width,
                s->fold);
    for (int32_t dim = 0; dim < s->columns; dim += VEC_PANEL)
        widen_steps((float *)(void *)(image + value_at(&w->used, dim)),
                    record + value_at(s, dim), s->value_steps, value_width(s, dim), s->fold);
}
#endif

/* A block of rows as they come, into the layout that products read. */
static void arrange(const work *w, const char *record, char *image)
{
    const layout *s = &w->stored, *y = &w->used;
    const int64_t row = s->key_dim * (int64_t)banyan_dtype_bytes(s->dtype);
    source key = {record, row, s->key_dim, s->dtype},
           value = {record, row, s->value_dim, s->dtype};
    trailer_of(y, image)->not_finite = 0;
    if (is_arranged(s)) {
        pairs largest = pairs_zero();
        for (int32_t token = 0; token < s->tokens;
             token += VEC_LANES, record += VEC_LANES * row)
            largest = arrange_run(y, image, token, record, row, largest);
        trailer_of(y, image)->not_finite = pairs_highest(largest) >= 0x7f800000;
        return;
    }
    for (int32_t token = 0; token < s->tokens; token += VEC_LANES) {
        pack_run(y, image, token, &key, &value);
        key.at += VEC_LANES * row;
        value.at += VEC_LANES * row;
    }
}

/* What the sums of a row are relative to is exp of this: an exact product. */
static double base_of(const work *w, int32_t row)
{
    const double scale = w->tile->scale == 0 ? M_LN2 : fabs((double)w->tile->scale);
    return scale * (double)w->max[row];
}

/* One block of a set, into the chunk, which runs when it is full. */
static void attend_block(work *w, token_chunk *now, const block_set *x, int32_t i)
{
    const int sums = w->tile->sums != NULL;
    view seen;
    view_of(w->tile, &x->entry[i], now->row, now->rows, &seen);
    for (int32_t token = seen.first, count; token < seen.end; token += count) {
        count = seen.end - token;
        if (count > CHUNK - now->columns) count = CHUNK - now->columns;
        chunk_add(now, w, x->used[i], x->entry[i].record, &seen, token, count);
        if (now->columns == CHUNK || (sums && token + count == seen.end)) chunk_run(w, now);
    }
}

static uint32_t largest_size(const work *w, int32_t row)
{
    return fixed_largest(w->o + row * w->o_stride, w->stored.columns);
}

/* Is l a number, and o, of which the largest size is given, not? */
static int row_overflows(const work *w, int32_t row, uint32_t largest)
{
    if (largest < 0x7f800000) return 0;
    const float l = vec_total(vec_load(w->sum + row * VEC_LANES));
    return l > 0 && l < INFINITY && fabsf(w->max[row]) < INFINITY;
}

/* The row's sums are empty again, their base point lies above all scores: exp(base) is at least
 * twice the sum of all weights. */
static void raise_base(work *w, int32_t row)
{
    const double l = vec_total(vec_load(w->sum + row * VEC_LANES));
    const double above = (double)w->max[row] + (log2(l) + 1) / (double)w->c;
    w->max[row] = (float)above;
    if ((double)w->max[row] < above) w->max[row] = nextafterf(w->max[row], INFINITY);
    memset(w->o + row * w->o_stride, 0, (size_t)w->o_stride * sizeof(float));
    vec_store(w->sum + row * VEC_LANES, vec_set(0));
}

/* A row whose sums of this one block overflow takes it again. */
static void repeat_block(work *w, const block_set *x, int32_t i, int32_t row)
{
    token_chunk now = {.row = row, .rows = 1};
    raise_base(w, row);
    attend_block(w, &now, x, i);
}

/* The partials of block i that rows have just attended to, into fixed-point sums; the next
 * block starts anew. What was asked for goes on arriving meanwhile. Not inline: the registers
 * of attend_stack are for those who do without. */
__attribute__((noinline)) static void add_block_sums(work *w, const block_set *x, int32_t i,
                                                     int32_t first, int32_t rows)
{
    const banyan_tile *tile = w->tile;
    const int32_t value_dim = w->stored.value_dim;
    const size_t bytes = banyan_fixed_bytes(value_dim);
    char *sum = (char *)tile->sums + (size_t)first * bytes;
    for (int32_t row = first; row < first + rows; row++, sum += bytes) {
        uint32_t largest = largest_size(w, row);
        if (row_overflows(w, row, largest)) {
            repeat_block(w, x, i, row);
            largest = largest_size(w, row);
        }
        ahead_step(&w->ahead);
        const double base = base_of(w, row);
        const float l = vec_total(vec_load(w->sum + row * VEC_LANES));
        if (l != l || w->max[row] != -INFINITY)
            fixed_add(sum, base, l, w->o + row * w->o_stride, value_dim, w->stored.columns,
                      largest);
        w->max[row] = -INFINITY;
        vec_store(w->sum + row * VEC_LANES, vec_set(0));
    }
}

/* The blocks of `members` (bits of the set) for the rows of a stack. */
static void attend_stack(work *w, const block_set *x, uint32_t members, int32_t row,
                         int32_t rows)
{
    token_chunk now;
    now.row = row, now.rows = rows, now.segments = now.columns = 0;
    for (int32_t i = 0; i < x->count; i++) {
        if (!(members >> i & 1)) continue;
        attend_block(w, &now, x, i);
        if (w->tile->sums) add_block_sums(w, x, i, row, rows);
    }
    if (now.columns) chunk_run(w, &now);
}

static void attend_set(work *w, const block_set *x)
{
    const banyan_tile *tile = w->tile;
    uint32_t members[BANYAN_TILE_HEADS] = {0};
    const int32_t unit = banyan_tile_unit(tile), bits = tile->heads / unit;
    for (int32_t bit = 0; bit < bits; bit++)
        for (int32_t i = 0; i < x->count; i++)
            members[bit] |= (uint32_t)(x->entry[i].heads >> bit & 1) << i;

    for (int32_t bit = 0, next; bit < bits; bit = next) {
        for (next = bit + 1; next < bits && members[next] == members[bit];) next++;
        if (!members[bit]) continue;
        const int32_t first = bit * unit * tile->rows, count = (next - bit) * unit * tile->rows;
        const int32_t stacks = (count + STACK_ROWS - 1) / STACK_ROWS;
        for (int32_t i = 0; i < stacks; i++) {
            int32_t from = count * i / stacks, to = count * (i + 1) / stacks;
            attend_stack(w, x, members[bit], first + from, to - from);
        }
    }
}

/* What to ask for during set x, of which `left` entries follow. Many rows need the next set,
 * in the level 2 cache. A single bundle goes through memory from front to back, faster than
 * memory can follow: it asks for what lies some kilobytes ahead of it. */
static void plan_ahead(work *w, const block_set *x, int64_t left)
{
    const layout *y = &w->used;
    const size_t lead = w->tile->sums                   ? LEAD_SUMS
                        : w->stored.dtype == BANYAN_F32 ? LEAD_FLOATS
                                                        : LEAD;
    const int32_t tile = VEC_GROUP * VEC_LANES, bundles = bundles_of(w->total);
    const int32_t steps = round_up(y->tokens, tile) / tile * y->key_steps +
                          round_up(y->columns, tile) / tile * y->value_steps;
    const int32_t of_row = (w->tile->sums != NULL) + softmax_asks(w);
    const int32_t lines = (int32_t)(w->stored.bytes / LINE),
                  beats = bundles * steps / PRODUCT_BEAT + w->total * of_row;
    ahead *a = &w->ahead;
    *a = (ahead){.entry = x->entry + x->count,
                 .count = left,
                 .budget = (size_t)x->count * w->stored.bytes,
                 .pace = (lines + beats - 1) / beats,
                 .is_near = bundles == 1};
    if (bundles == 1 && x->count == 1 && w->stored.bytes > lead) {
        a->at = (const char *)x->entry->record + lead;
        a->end = (const char *)x->entry->record + w->stored.bytes;
        a->budget = lead;
    }
}

/* The next block of a set, as the products read it. */
static void set_add(work *w, block_set *x)
{
    const char *record = x->entry[x->count].record;
    char *image = w->image + (size_t)x->count * w->used.bytes;
    x->used[x->count] = record;
    if (w->stored.in_key) {
        arrange(w, record, image);
        x->used[x->count] = image;
    }
#ifndef VEC_DOT
    else if (w->used.dtype != w->stored.dtype) {
        widen_record(w, record, image);
        x->used[x->count] = image;
    }
#endif
    x->count++;
}

static void attend_list(work *w)
{
    const banyan_tile *tile = w->tile;
    const int32_t most = set_blocks(&w->used, w->total);
    for (int64_t i = 0; i < tile->entries; i += most) {
        block_set x = {.entry = tile->entry + i};
        while (x.count < most && i + x.count < tile->entries) set_add(w, &x);
        plan_ahead(w, &x, tile->entries + tile->behind - i - x.count);
        attend_set(w, &x);
    }
}

/* A row whose sums overflow takes the whole list again. */
static void repeat_list(work *w, int32_t row)
{
    const banyan_tile *tile = w->tile;
    const int32_t unit = banyan_tile_unit(tile);
    raise_base(w, row);
    for (int64_t i = 0; i < tile->entries; i++) {
        block_set x = {.entry = tile->entry + i};
        if (!(x.entry->heads >> row / (tile->rows * unit) & 1)) continue;
        set_add(w, &x);
        attend_stack(w, &x, 1, row, 1);
    }
}

/* ---- after ------------------------------------------------------------------------------- */

static float exp_of(double x)
{
    if (fabs(x) < 0x1p-10) return (float)(1 + x * (1 + x * (0.5 + x / 6)));
    return (float)exp(x);
}

/* to = to a + from b */
static void fold_row(float *to, float a, const float *from, float b, int32_t count)
{
    int32_t d = 0;
    for (; d + VEC_LANES <= count; d += VEC_LANES)
        vec_store(to + d, vec_fma(vec_load(to + d), vec_set(a),
                                  vec_mul(vec_load(from + d), vec_set(b))));
    for (; d < count; d++) to[d] = fmaf(to[d], a, from[d] * b);
}

static void finish_row(const work *w, int32_t row)
{
    const int32_t value_dim = w->stored.value_dim;
    float *out = w->tile->partial + row * (int64_t)banyan_partial_floats(value_dim);
    float *m_out = out + value_dim, *l_out = m_out + 1;
    double base = base_of(w, row);
    float m = (float)base, l = vec_total(vec_load(w->sum + row * VEC_LANES)), top, a, b;

    if (m == INFINITY) l = NAN; /* a score of +inf */
    if (l != l)
        m = NAN;
    else if (w->max[row] == -INFINITY || m == -INFINITY)
        return;                                 /* no score above -inf */
    if (fabs(base - (double)m) > 0.5) base = m; /* m has no fraction bits left */

    if (*m_out == -INFINITY && *l_out == 0) {
        top = m, a = 1;
    } else {
        top = m > *m_out || m != m ? m : *m_out;
        a = *m_out == top ? 1 : exp_of((double)*m_out - (double)top);
    }
    b = exp_of(base - (double)top);
    fold_row(out, a, w->o + row * w->o_stride, b, value_dim);
    *l_out = fmaf(*l_out, a, l * b);
    *m_out = top;
}

static void vector_attend(const banyan_tile *tile)
{
    work w;
    work_lay(&w, &tile->shape, tile->heads, tile->rows, tile->workspace);
    work_begin(&w, tile);
    attend_list(&w);
    for (int32_t row = 0; row < w.total && !tile->sums; row++) {
        if (row_overflows(&w, row, largest_size(&w, row))) repeat_list(&w, row);
        finish_row(&w, row);
    }
}
