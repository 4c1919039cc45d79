/* SPDX-License-Identifier: Apache-2.0 */
/* kernel_product.inc.h - the inner loops: rows of broadcast scalars times panels of columns.
 *
 *     c[row][column] = alpha[row] * c[row][column] + sum of a[row][step] b[step][column]
 *
 * The sum starts at zero and meets c at the end, which makes the rounding error grow with the
 * length of a run of steps plus the number of runs, and gives the rescaling of a softmax for
 * nothing. A tile of R rows and G vectors of columns stays in registers; for each step it loads
 * G vectors, R scalars, and does R x G multiply-adds.
 *
 * The columns' steps may lie in several places (parts): the tokens of several records. */

/* How the columns are stored, and what the scalars are. */
typedef enum product_kind {
    PRODUCT_F32,  /* floats; float scalars */
    PRODUCT_F16,  /* fp16, widened on load */
    PRODUCT_BF16, /* pairs, widened on load; two float scalars a step */
#ifdef VEC_DOT
    PRODUCT_DOT, /* pairs; pairs of bf16 as scalars */
#endif
    PRODUCT_KINDS
} product_kind;

enum { PRODUCT_BEAT = 4, LINE = 64 };

typedef struct product_part {
    const char *b[VEC_GROUP]; /* the first step of each vector of columns */
    int32_t steps;
    int32_t a; /* index of the part's first scalar in a row of a */
} product_part;

/* Memory that is asked for before it is needed, evenly: so many lines for every PRODUCT_BEAT
 * steps. */
typedef struct ahead {
    const char *at, *end;           /* what is left of one stretch */
    const char *then_at, *then_end; /* the stretch after it */
    int32_t pace;                   /* lines */
    int is_near;               /* will be needed soon: bring it into the level 1 cache, not 2 */
    const banyan_entry *entry; /* the next records, how many, and how many bytes of them */
    int64_t count;
    size_t budget;
} ahead;

/* What is asked for in a beat that no product takes. */
VEC_INLINE void ahead_step(ahead *x)
{
    const size_t pace = (size_t)x->pace * LINE;
    const char *stop = (size_t)(x->end - x->at) < pace ? x->end : x->at + pace;
    for (; x->at < stop; x->at += LINE) {
        if (x->is_near)
            vec_prefetch_near(x->at);
        else
            vec_prefetch_far(x->at);
    }
    if (x->at == x->end) {
        x->at = x->then_at, x->end = x->then_end;
        x->then_at = x->then_end;
    }
}

typedef struct product {
    const float *a;   /* 32-bit words, whatever they hold */
    int64_t a_stride; /* words between rows */
    const product_part *part;
    int32_t parts;
    size_t b_stride;    /* bytes between steps */
    const float *alpha; /* [rows], or NULL: c is only written */
    float *c;
    int64_t c_stride;
    ahead *ahead;
} product;

VEC_INLINE void product_step(vec acc[VEC_ROWS][VEC_GROUP], const float *a, int64_t a_stride,
                             const char *const b[VEC_GROUP], size_t at, const int R,
                             const int G, const product_kind kind)
{
    if (kind == PRODUCT_F32 || kind == PRODUCT_F16) {
        vec column[VEC_GROUP];
#pragma GCC unroll 4
        for (int g = 0; g < G; g++)
            column[g] = kind == PRODUCT_F32 ? vec_load((const float *)(const void *)(b[g] + at))
                                            : vec_from_f16((const void *)(b[g] + at));
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            vec scalar = vec_set(a[r * a_stride]);
#pragma GCC unroll 4
            for (int g = 0; g < G; g++) acc[r][g] = vec_fma(scalar, column[g], acc[r][g]);
        }
    } else if (kind == PRODUCT_BF16) {
#pragma GCC unroll 2
        for (int odd = 0; odd < 2; odd++) {
            vec column[VEC_GROUP];
#pragma GCC unroll 4
            for (int g = 0; g < G; g++) {
                pairs word = pairs_load(b[g] + at);
                column[g] = odd ? pairs_odd(word) : pairs_even(word);
            }
#pragma GCC unroll 6
            for (int r = 0; r < R; r++) {
                vec scalar = vec_set(a[r * a_stride + odd]);
#pragma GCC unroll 4
                for (int g = 0; g < G; g++) acc[r][g] = vec_fma(scalar, column[g], acc[r][g]);
            }
        }
    }
#ifdef VEC_DOT
    else {
        pairs column[VEC_GROUP];
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) column[g] = pairs_load(b[g] + at);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            uint32_t word;
            memcpy(&word, a + r * a_stride, sizeof(word));
            pairs scalar = pairs_set(word);
#pragma GCC unroll 4
            for (int g = 0; g < G; g++) acc[r][g] = pairs_dot(acc[r][g], scalar, column[g]);
        }
    }
#endif
}

VEC_INLINE void product_tile(product *p, const int R, const int G, const product_kind kind)
{
    const int words = kind == PRODUCT_BF16 ? 2 : 1; /* of a, a step */
    vec acc[VEC_ROWS][VEC_GROUP];
#pragma GCC unroll 6
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) acc[r][g] = vec_set(0);

    const product_part *part = p->part, *part_end = part + p->parts;
    const int64_t a_stride = p->a_stride;
    const size_t b_stride = p->b_stride;
    const size_t pace = (size_t)p->ahead->pace * LINE;
    const int is_near = p->ahead->is_near;
    const char *ask = p->ahead->at, *ask_end = p->ahead->end;
    for (; part < part_end; part++) {
        const float *a = p->a + part->a;
        const char *b[VEC_GROUP];
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) b[g] = part->b[g];
        const size_t end = (size_t)part->steps * b_stride, beat = PRODUCT_BEAT * b_stride;
        for (size_t at = 0; at < end;) {
            const size_t pause = at + (end - at < beat ? end - at : beat);
            const char *stop = (size_t)(ask_end - ask) < pace ? ask_end : ask + pace;
            if (is_near)
                for (; ask < stop; ask += LINE) vec_prefetch_near(ask);
            else
                for (; ask < stop; ask += LINE) vec_prefetch_far(ask);
            if (ask == ask_end) {
                ask = p->ahead->then_at, ask_end = p->ahead->then_end;
                p->ahead->then_at = ask_end;
            }
            for (; at < pause; at += b_stride, a += words)
                product_step(acc, a, a_stride, b, at, R, G, kind);
        }
    }
    p->ahead->at = ask, p->ahead->end = ask_end;

    const float *alpha = p->alpha;
    float *c = p->c;
    const int64_t c_stride = p->c_stride;
#pragma GCC unroll 6
    for (int r = 0; r < R; r++, c += c_stride) {
        if (alpha) {
            const vec factor = vec_set(alpha[r]);
#pragma GCC unroll 4
            for (int g = 0; g < G; g++)
                acc[r][g] = vec_fma(factor, vec_load(c + g * VEC_LANES), acc[r][g]);
        }
#pragma GCC unroll 4
        for (int g = 0; g < G; g++) vec_store(c + g * VEC_LANES, acc[r][g]);
    }
}

/* The tiles of one kind: [rows - 1][0: one vector, 1: two, 2: four]. */
typedef void (*product_function)(product *p);

#define PRODUCT_TILE(kind, R, G)                                                               \
    static void product_##kind##_##R##x##G(product *p)                                         \
    {                                                                                          \
        product_tile(p, R, G, PRODUCT_##kind);                                                 \
    }
#ifdef VEC_GROUP_OF_4
#define PRODUCT_ROW(kind, R)                                                                   \
    PRODUCT_TILE(kind, R, 1) PRODUCT_TILE(kind, R, 2) PRODUCT_TILE(kind, R, 4)
#define PRODUCT_NAMES(kind, R)                                                                 \
    {                                                                                          \
        product_##kind##_##R##x1, product_##kind##_##R##x2, product_##kind##_##R##x4           \
    }
#else
#define PRODUCT_ROW(kind, R) PRODUCT_TILE(kind, R, 1) PRODUCT_TILE(kind, R, 2)
#define PRODUCT_NAMES(kind, R)                                                                 \
    {                                                                                          \
        product_##kind##_##R##x1, product_##kind##_##R##x2, NULL                               \
    }
#endif
#define PRODUCT_KIND(kind)                                                                     \
    PRODUCT_ROW(kind, 1)                                                                       \
    PRODUCT_ROW(kind, 2)                                                                       \
    PRODUCT_ROW(kind, 3) PRODUCT_ROW(kind, 4) PRODUCT_ROW(kind, 5) PRODUCT_ROW(kind, 6)
#define PRODUCT_TABLE(kind)                                                                    \
    {                                                                                          \
        PRODUCT_NAMES(kind, 1), PRODUCT_NAMES(kind, 2), PRODUCT_NAMES(kind, 3),                \
            PRODUCT_NAMES(kind, 4), PRODUCT_NAMES(kind, 5), PRODUCT_NAMES(kind, 6)             \
    }

#ifdef VEC_DOT
PRODUCT_KIND(DOT)
#else
PRODUCT_KIND(F32)
PRODUCT_KIND(F16)
PRODUCT_KIND(BF16)
#endif

static const product_function product_table[PRODUCT_KINDS][VEC_ROWS][3] = {
#ifdef VEC_DOT
    [PRODUCT_DOT] = PRODUCT_TABLE(DOT),
#else
    [PRODUCT_F32] = PRODUCT_TABLE(F32),
    [PRODUCT_F16] = PRODUCT_TABLE(F16),
    [PRODUCT_BF16] = PRODUCT_TABLE(BF16),
#endif
};

/* How many of the vectors that are left the next tile takes: 4, 2 or 1. */
VEC_INLINE int32_t product_vectors(int32_t left)
{
    int32_t most = left < VEC_GROUP ? left : VEC_GROUP;
    return most == 3 ? 2 : most;
}
VEC_INLINE void product_run(product *p, product_kind kind, int32_t rows, int32_t vectors)
{
    product_table[kind][rows - 1][vectors / 2](p);
}
