/* SPDX-License-Identifier: Apache-2.0 */
/* The decode kernels, portable, with bulk copies and of wide heads, against the float64 oracle:
 * random shapes, lists of spans with steps, ranges of tokens and edges, partials and final
 * results, few multiprocessors and many. Of long lists a second part of the batch is the same,
 * and has the same bits. Keys that nobody sees are NaN, results that nobody asked for must stay
 * as they were, and a second run must give the same bits. */
#include "emulator.h"
#include "tests/attention/cuda_decode_draw.h"

#include <cuda_runtime.h>

typedef const char *(*decode_fn)(banyan_queue *, const banyan_batch *);

/* ---- running ----------------------------------------------------------------------------- */

static void *to_device(const void *from, size_t bytes, std::vector<void *> &all)
{
    void *to = NULL;
    CHECK(cudaMalloc(&to, bytes ? bytes : 16) == cudaSuccess);
    if (bytes) CHECK(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice) == cudaSuccess);
    all.push_back(to);
    return to;
}

struct results {
    std::vector<unsigned char> out;
    std::vector<float> lse;
    std::vector<std::vector<float>> partial; /* of each query head */
};

template <typename T> static bool has_same_halves(const std::vector<T> &x)
{
    const size_t half = x.size() / 2;
    return !memcmp(x.data(), x.data() + half, half * sizeof(T));
}

static void check_halves(const results &r)
{
    CHECK_MSG(has_same_halves(r.out) && has_same_halves(r.lse),
              "a part's bits depend on others");
    for (const std::vector<float> &of_head : r.partial)
        CHECK_MSG(has_same_halves(of_head), "a part's partials depend on others");
}

/* A second part has the rows behind the first one's. */
static std::vector<banyan_strip> strips_of(const trial &t, int copies)
{
    std::vector<banyan_strip> strip = t.strip;
    for (size_t i = 0; copies == 2 && i < t.strip.size(); i++) {
        strip.push_back(t.strip[i]);
        strip.back().part = 1;
        strip.back().first_row += t.rows;
    }
    return strip;
}

static void run(const trial &t, decode_fn decode, results &r)
{
    const int copies = t.is_long ? 2 : 1, rows = copies * t.rows;
    const size_t dim = (size_t)t.shape.value_dim, vectors = (size_t)rows * t.heads;
    std::vector<void *> all;
    banyan_device_limits limits = {};
    limits.shape = t.shape;
    limits.heads = t.heads;
    limits.kv_heads = t.kv_heads;
    limits.rows = rows;
    limits.parts = copies, limits.tables = t.kv_heads;
    const std::vector<banyan_strip> strip = strips_of(t, copies);
    limits.strips = (int64_t)strip.size();
    limits.spans = (int64_t)t.span.size();
    banyan_queue *queue;
    emulator_set_multiprocessors(t.processors);
    const char *failed = banyan_cuda_open(&limits, NULL, &queue);
    CHECK_MSG(!failed, "%s", failed);
    if (failed) return;

    std::vector<unsigned char> q(t.q.size() * banyan_dtype_bytes(t.in_dtype));
    banyan_from_float(q.data(), t.in_dtype, t.q.data(), (int64_t)t.q.size());
    const std::vector<unsigned char> once = q;
    if (copies == 2) q.insert(q.end(), once.begin(), once.end());
    std::vector<banyan_table_of_blocks> table;
    for (int h = 0; h < t.kv_heads; h++)
        table.push_back(banyan_table_of_blocks{
            to_device(t.bytes[h].data(), t.bytes[h].size(), all),
            (const banyan_slot *)to_device(t.slot[h].data(),
                                           t.slot[h].size() * sizeof(banyan_slot), all)});
    r.out.assign(vectors * dim * banyan_dtype_bytes(t.out_dtype), UNTOUCHED);
    r.lse.assign(vectors, 0);
    memset(r.lse.data(), UNTOUCHED, vectors * sizeof(float));
    void *const out = to_device(r.out.data(), r.out.size(), all);
    void *const lse = to_device(r.lse.data(), vectors * sizeof(float), all);
    std::vector<float *> partial(t.heads, NULL);
    r.partial.assign(t.heads, std::vector<float>((size_t)rows * (dim + 2), -77));
    const size_t partial_bytes = (size_t)rows * (dim + 2) * sizeof(float);
    for (int h = 0; h < t.heads; h++)
        if (t.is_partial[h])
            partial[h] = (float *)to_device(r.partial[h].data(), partial_bytes, all);

    banyan_batch batch = {};
    batch.shape = t.shape;
    batch.scale = 1 / sqrtf((float)dim);
    batch.heads = t.heads;
    const banyan_batch_part part[2] = {{t.at, t.first_token, t.end_token, 0},
                                       {t.at, t.first_token, t.end_token, t.rows}};
    batch.part = part;
    batch.parts = copies;
    batch.rows = rows;
    batch.q = to_device(q.data(), q.size(), all);
    batch.in_dtype = t.in_dtype;
    batch.out_dtype = t.out_dtype;
    batch.table = table.data();
    batch.strip = strip.data();
    batch.span = t.span.data();
    batch.edge = t.edge.data();
    batch.tables = t.kv_heads;
    batch.strips = (int32_t)strip.size();
    batch.spans = (int32_t)t.span.size();
    batch.edges = (int32_t)t.edge.size();
    batch.partial = partial.data();
    batch.out = out;
    batch.lse = t.has_lse ? (float *)lse : NULL;
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    failed = decode(queue, &batch);
    CHECK_MSG(!failed, "%s", failed);
    failed = banyan_cuda_wait(queue);
    CHECK_MSG(!failed, "%s", failed);
    cudaMemcpy(r.out.data(), out, r.out.size(), cudaMemcpyDeviceToHost);
    cudaMemcpy(r.lse.data(), lse, vectors * sizeof(float), cudaMemcpyDeviceToHost);
    for (int h = 0; h < t.heads; h++)
        if (partial[h])
            cudaMemcpy(r.partial[h].data(), partial[h], partial_bytes, cudaMemcpyDeviceToHost);
    for (void *memory : all) cudaFree(memory);
    banyan_cuda_close(queue);
    if (copies == 2) check_halves(r);
}

/* ---- checking ---------------------------------------------------------------------------- */

/* Where q has few enough bits that no kernel rounds it, the weights' rounding for the product
 * with v is all that is not fp32 (bounds.h, e_p = 2^-8 and e_q = 0): fp32's bound and e_p (R +
 * |out|) for out. l is summed before that rounding: fp32's bound for lse, which one token more
 *   or less breaks. */
static double compare_exact(const trial &t, bound b, const std::vector<double> &expect,
                            double expect_lse, const float *out, banyan_dtype dtype, float lse)
{
    b.rounds = 0;
    double worst = 0;
    const double walk = BOUND_LAMBDA * b.value * b.spread;
    for (int d = 0; d < t.shape.value_dim; d++) {
        const double reach = walk < b.value ? walk : b.value;
        const double rounded = BOUND_BF16 * (reach + 2 * fabs(expect[d]));
        const double error = fabs(out[d] - expect[d]);
        const double ratio = error / (bound_out(&b, expect[d], dtype) + 1.01 * rounded);
        if (!(ratio <= worst)) worst = ratio;
    }
    if (isinf(expect_lse) || isnan(lse))
        return expect_lse == (double)lse ? worst : (double)INFINITY;
    const double ratio = fabs(lse - expect_lse) / bound_lse(&b);
    return ratio > worst ? ratio : worst;
}

/* One vector: |error| / bound. Kernels round q and weights to bf16 at worst (rounds: 2^-8 each;
 * fp16 is finer, and the weights below 2^-40 that it drops are far below 2^-8). Each rescale by
 * a new maximum, by the merge of the warps and by the combine of the partials is one of
 * `combines`. */
static double compare(const trial &t, const results &r, int head, int row)
{
    const int dim = t.shape.value_dim;
    oracle o = {};
    o.heads = t.heads;
    o.kv_heads = t.kv_heads;
    o.key_dim = t.shape.key_dim;
    o.value_dim = dim;
    o.tokens = t.tokens;
    o.scale = (double)(1 / sqrtf((float)dim));
    o.k = t.k.data();
    o.v = t.v.data();
    o.reads = reads;
    o.ctx = (void *)&t;
    bound b = {};
    std::vector<double> expect(dim);
    double expect_lse;
    oracle_row(&o, &t.q[((size_t)row * t.heads + head) * t.shape.key_dim], head, t.at + row,
               expect.data(), &expect_lse, &b);
    b.block_tokens = t.block;
    b.combines = 4 + emulator_get_multiprocessors();
    b.rounds = bound_rounds("cuda", t.shape.dtype);
    if (t.data != NORMAL || t.shape.value_in_key) b.spread = 1;

    const size_t at = (size_t)row * t.heads + head;
    std::vector<float> out(dim);
    float lse = r.lse[at];
    banyan_dtype dtype = BANYAN_F32; /* of what is compared */
    if (t.is_partial[head]) {
        banyan_partial_finish(&r.partial[head][(size_t)row * (dim + 2)], dim, 1, out.data(),
                              BANYAN_F32, dim, &lse, 1);
    } else {
        dtype = t.out_dtype;
        banyan_to_float(out.data(), &r.out[at * dim * banyan_dtype_bytes(dtype)], dtype, dim);
    }
    if (!t.has_lse && !t.is_partial[head]) lse = (float)expect_lse;
    std::vector<unsigned char> stored(dim * banyan_dtype_bytes(dtype));
    banyan_from_float(stored.data(), dtype, out.data(), dim);
    const double worst =
        oracle_compare(expect.data(), expect_lse, &b, dim, stored.data(), dtype, &lse);
    if (!t.is_exact) return worst;
    const double exact = compare_exact(t, b, expect, expect_lse, out.data(), dtype, lse);
    return exact > worst ? exact : worst;
}

/* Results that belong to no strip are as they were; so are out and lse of heads with
 * partials. */
static bool is_untouched(const trial &t, const results &r, int head, int row)
{
    const size_t at = (size_t)row * t.heads + head;
    const size_t bytes = t.shape.value_dim * banyan_dtype_bytes(t.out_dtype);
    const unsigned char *const lse = (const unsigned char *)&r.lse[at];
    bool is = true;
    for (size_t i = 0; i < bytes; i++) is &= r.out[at * bytes + i] == UNTOUCHED;
    for (size_t i = 0; i < sizeof(float); i++) is &= lse[i] == UNTOUCHED;
    return is;
}

static void check(uint64_t seed, decode_fn decode, const char *name)
{
    const trial t = draw(seed);
    results r, again;
    run(t, decode, r);
    /* on a GPU whose thread blocks have less memory, where that is enough */
    if (is_wide(seed)) emulator_set_capability(t.shape.value_in_key ? 80 : 86);
    run(t, decode, again);
    emulator_set_capability(90);
    CHECK_MSG(r.out == again.out &&
                  !memcmp(r.lse.data(), again.lse.data(), r.lse.size() * sizeof(float)),
              "%s, trial %llu: other bits the second time", name, (unsigned long long)seed);
    for (int head = 0; head < t.heads; head++) {
        for (int row = 0; row < t.rows; row++) {
            if (t.strip_of[head] < 0 || t.is_partial[head])
                CHECK(is_untouched(t, r, head, row));
            if (t.strip_of[head] < 0) continue;
            const double worst = compare(t, r, head, row);
            CHECK_MSG(
                worst <= 1,
                "%s, trial %llu (%s, dim %d, blocks of %d, data %d, %d x %d heads, %d rows, at "
                "%lld): "
                "head %d, row %d: error/bound %g",
                name, (unsigned long long)seed, banyan_dtype_name(t.shape.dtype),
                t.shape.key_dim, t.block, (int)t.data, t.kv_heads, t.group, t.rows,
                (long long)t.at, head, row, worst);
        }
    }
}

/* first seed, end, and (portable, hopper, wide) one kernel alone */
int main(int argc, char **argv)
{
    const int first = argc > 1 ? atoi(argv[1]) : 0, end = argc > 2 ? atoi(argv[2]) : 60;
    const auto is_asked = [=](const char *name) { return argc < 4 || !strcmp(argv[3], name); };
    const bool portable = is_asked("portable"), hopper = is_asked("hopper");
    for (int seed = first; seed < end; seed++) {
        for (int is_long = 0; is_long <= (seed % 5 == 0); is_long++) {
            const uint64_t number = (is_long ? 5000 : 1000) + (uint64_t)seed;
            if (portable) check(number, banyan_cuda_decode, "portable");
            if (hopper) check(number, banyan_cuda_decode_hopper, "hopper");
        }
        if (seed % 4 == 0 && is_asked("wide"))
            check(9000 + (uint64_t)seed, banyan_cuda_attend_wide, "wide");
    }
    if (first == 0) {
        if (portable) check(4004, banyan_cuda_decode, "portable");
        if (hopper) check(4002, banyan_cuda_decode_hopper, "hopper");
        if (is_asked("wide")) check(9900, banyan_cuda_attend_wide, "wide");
        if (is_asked("wide")) check(9015, banyan_cuda_attend_wide, "wide"); /* fp16, TINY */
    }
    return test_end();
}
