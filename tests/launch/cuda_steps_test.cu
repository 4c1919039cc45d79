/* SPDX-License-Identifier: Apache-2.0 */
/* Each step of launch/cuda_steps.cu against its formula in float64, over widths and rows that
 * divide nothing. Bounds: a sum of n numbers, of which a thread adds n / threads, is off by a
 * relative (n / threads + 5 + warps) u of the sum of their sizes, u = 2^-24; what is rounded
 * once is exact. */
#include "launch/cuda.h"
#include "launch/model/steps.h"
#include "tests/test.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <vector>

static const double u = 0x1p-24;
static const int widths[] = {1, 33, 4097}, row_counts[] = {1, 3, 65};
static banyan_cuda_line line;
static uint64_t seed = 7;

typedef std::vector<float> numbers;

static numbers drawn(size_t count, double scale = 1)
{
    numbers x(count);
    for (float &one : x) one = (float)(scale * test_normal(&seed));
    return x;
}

/* A copy on the device. */
template <typename T> struct there {
    T *at = nullptr;
    size_t count;
    explicit there(const std::vector<T> &x) : count(x.size())
    {
        CHECK(!cudaMalloc((void **)&at, (count ? count : 1) * sizeof(T)));
        CHECK(!cudaMemcpy(at, x.data(), count * sizeof(T), cudaMemcpyHostToDevice));
        CHECK(!cudaDeviceSynchronize());
    }
    there(const there &) = delete;
    ~there()
    {
        cudaFree(at);
    }
    std::vector<T> back() const
    {
        std::vector<T> x(count);
        CHECK(!cudaStreamSynchronize(line.stream));
        CHECK(!cudaMemcpy(x.data(), at, count * sizeof(T), cudaMemcpyDeviceToHost));
        return x;
    }
};

/* Are all within their bounds? Says the worst one. */
struct closeness {
    const char *what;
    double worst = 0;
    explicit closeness(const char *name) : what(name)
    {
    }
    void add(double got, double expected, double bound)
    {
        const double off = fabs(got - expected);
        if (!(off <= bound)) worst = fmax(worst, isnan(off) ? INFINITY : off / bound);
    }
    ~closeness()
    {
        CHECK_MSG(worst == 0, "%s: %g of what is allowed", what, worst);
    }
};

/* ---- embedding, moves, numbers one by one ------------------------------------------------ */

static void embed(int width, int rows)
{
    enum { VOCAB = 7 };
    const numbers table = drawn((size_t)(VOCAB * width));
    std::vector<uint32_t> ids((size_t)rows);
    std::vector<__nv_bfloat16> half(table.size());
    for (uint32_t &id : ids) id = (uint32_t)test_below(&seed, VOCAB);
    for (size_t i = 0; i < half.size(); i++) half[i] = __float2bfloat16_rn(table[i]);
    const there<float> wide(table);
    const there<__nv_bfloat16> narrow(half);
    const there<uint32_t> these(ids);
    const there<float> x(numbers((size_t)(rows * width), NAN));
    for (int is_half = 0; is_half < 2; is_half++) {
        const float scale = is_half ? 1 : 1.7f;
        const step_table t = {nullptr, is_half ? (const void *)narrow.at : wide.at,
                              is_half ? BANYAN_BF16 : BANYAN_F32};
        step_row_cuda.embed(&line, &t, these.at, rows, width, scale, x.at);
        const numbers got = x.back();
        int wrong = 0;
        for (int i = 0; i < rows * width; i++) {
            const size_t from = ids[(size_t)(i / width)] * (size_t)width + (size_t)(i % width);
            const float one = is_half ? __bfloat162float(half[from]) : table[from];
            wrong += got[(size_t)i] != one * scale;
        }
        CHECK_MSG(wrong == 0, "embedding, %d rows of %d: %d wrong", rows, width, wrong);
    }
}

/* Two rectangles, of which one is the other in fewer rows and columns. */
static void moves(int width, int rows)
{
    const int stride = width + 3, fewer = (rows + 1) / 2, less = (width + 1) / 2;
    const size_t whole = (size_t)(rows * stride);
    const numbers a = drawn(whole), b = drawn(whole), c = drawn(whole), d = drawn(whole);
    for (int adds = 0; adds < 2; adds++) {
        const there<float> from(a), to(b), also(c), into(d);
        const step_move list[] = {{from.at + 1, to.at + 2, stride, stride, rows, width, 0.3f},
                                  {also.at + 2, into.at + 1, stride, stride, fewer, less, -2}};
        (adds ? step_row_cuda.add : step_row_cuda.move)(&line, list, 2);
        const numbers got[] = {to.back(), into.back()};
        closeness near(adds ? "add" : "move");
        for (int which = 0; which < 2; which++)
            for (int i = 0; i < rows * stride; i++) {
                const int row = i / stride, column = i % stride - (which ? 1 : 2);
                const bool is_in =
                    column >= 0 && column < list[which].width && row < list[which].rows;
                const numbers &source = which ? c : a, &before = which ? d : b;
                const double old = before[(size_t)i], add = list[which].scale;
                const double x =
                    is_in ? source[(size_t)(row * stride + column + (which ? 2 : 1))] : 0;
                near.add(got[which][(size_t)i],
                         !is_in ? old
                         : adds ? old + add * x
                                : x,
                         is_in && adds ? 2 * u * (fabs(old) + fabs(add * x)) : 0);
            }
    }
}

/* In bf16: the lower half of the fp32 number is rounded away, ties to even. */
static uint32_t rounded(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t low = bits & 0xffff, up = bits >> 16;
    return up + (low > 0x8000 || (low == 0x8000 && up % 2));
}

static void one_by_one(int width, int rows)
{
    const size_t count = (size_t)(rows * width);
    const numbers a = drawn(count), b = drawn((size_t)width);
    const there<float> x(a), bias(b);
    const there<uint16_t> half(std::vector<uint16_t>(count, 0));
    step_row_cuda.narrow(&line, x.at, (int64_t)count, half.at);
    step_row_cuda.bias(&line, x.at, rows, width, bias.at);
    const numbers biased = x.back();
    step_row_cuda.scale(&line, x.at, (int64_t)count, 0.7f);
    const numbers scaled = x.back();
    step_row_cuda.zero(&line, x.at, (int64_t)count);
    const numbers zero = x.back();
    const std::vector<uint16_t> narrow = half.back();
    int wrong = 0;
    for (size_t i = 0; i < count; i++) {
        wrong += narrow[i] != rounded(a[i]);
        wrong += biased[i] != a[i] + b[i % (size_t)width];
        wrong += scaled[i] != biased[i] * 0.7f || zero[i] != 0;
    }
    CHECK_MSG(wrong == 0, "numbers one by one, %d rows of %d: %d wrong", rows, width, wrong);
}

/* ---- activation, norms ------------------------------------------------------------------- */

static double activated(activation act, double gate, double up, double cap)
{
    const double pi = 3.14159265358979323846;
    if (act == ACT_SILU) return gate / (1 + exp(-gate)) * up;
    if (act == ACT_GELU) return gate * 0.5 * erfc(-gate / sqrt(2.0)) * up;
    if (act == ACT_GELU_TANH)
        return 0.5 * gate * (1 + tanh(sqrt(2 / pi) * (gate + 0.044715 * gate * gate * gate))) *
               up;
    gate = fmin(gate, cap);
    return gate / (1 + exp(-1.702 * gate)) * (fmin(fmax(up, -cap), cap) + 1);
}

/* An exponential of x is off by a relative (|x| + 2) u, of which its quotient has |x| / (1 +
 * e^x) < 0.3; what is added to 1 by 8 u of that; five operations around them. */
static void activate(int width, int rows)
{
    const activation acts[] = {ACT_SILU, ACT_GELU, ACT_GELU_TANH, ACT_GEGELU};
    numbers a = drawn((size_t)(2 * rows * width), 3);
    a[0] = -100; /* e^100 is infinite in fp32 */
    a[(size_t)(2 * rows * width) / 2] = 100;
    const there<float> in(a), out(numbers((size_t)(rows * width), NAN));
    for (activation act : acts) {
        const double cap = 2.5;
        step_row_cuda.activate(&line, act, (float)cap, in.at, rows, width, out.at);
        const numbers got = out.back();
        closeness near("activation");
        for (int i = 0; i < rows * width; i++) {
            const size_t at = (size_t)(i / width * 2 * width + i % width);
            const double gate = a[at], up = a[at + (size_t)width];
            near.add(got[(size_t)i], activated(act, gate, up, cap),
                     16 * u * fabs(gate) * (fabs(up) + 1));
        }
    }
}

/* A row's own two numbers, and the mean size of what its mean is made of. */
struct row_of_norm {
    double mean = 0, inverse = 0, sizes = 0;
    row_of_norm(const float *x, int width, const step_norm &n)
    {
        const bool is_centred = n.kind == NORM_LAYER;
        double squares = 0;
        for (int i = 0; i < width && is_centred; i++) {
            mean += (double)x[i] / width;
            sizes += fabs((double)x[i]) / width;
        }
        for (int i = 0; i < width; i++) squares += (x[i] - mean) * (x[i] - mean);
        inverse = 1 / sqrt(squares / width + n.eps);
    }
    double of(double x, double weight, double bias) const
    {
        return (x - mean) * inverse * weight + bias;
    }
    double size(double x, double weight) const
    {
        return (fabs(x) + 2 * sizes) * inverse * fabs(weight);
    }
};

static void norm(int width, int rows)
{
    const numbers a = drawn((size_t)(rows * width), 2), w = drawn((size_t)width),
                  b = drawn((size_t)width);
    const there<float> x(a), weight(w), bias(b), h(numbers(a.size(), NAN));
    const there<uint16_t> half(std::vector<uint16_t>(a.size(), 1));
    const double depth = (width + 1023) / 1024 + 5 + 32 + 8;
    for (int kind = 0; kind < 4; kind++) { /* RMS; centred, without and with a bias; in place */
        const step_norm n = {kind ? NORM_LAYER : NORM_RMS, 1e-5, weight.at,
                             kind > 1 ? bias.at : nullptr};
        step_row_cuda.norm(&line, &n, x.at, rows, width, kind == 3 ? x.at : h.at,
                           kind ? half.at : nullptr);
        const numbers got = kind == 3 ? x.back() : h.back();
        const std::vector<uint16_t> narrow = half.back();
        int wrong = 0;
        for (size_t i = 0; i < got.size(); i++)
            wrong += narrow[i] != (kind ? rounded(got[i]) : 1);
        CHECK_MSG(wrong == 0, "norm, %d rows of %d: %d wrong in bf16", rows, width, wrong);
        closeness near("norm");
        for (int row = 0; row < rows; row++) {
            const float *const from = a.data() + row * width;
            const row_of_norm stats(from, width, n);
            for (int i = 0; i < width; i++) {
                const double y = stats.of(from[i], w[(size_t)i], kind > 1 ? b[(size_t)i] : 0);
                near.add(got[(size_t)(row * width + i)], y,
                         depth * u * (stats.size(from[i], w[(size_t)i]) + fabs(y)));
            }
        }
    }
}

/* ---- rotary embedding -------------------------------------------------------------------- */

static void turns(int pairs, int rows)
{
    const double pi2 = 6.283185307179586476925286766559;
    std::vector<double> turn((size_t)pairs);
    for (int i = 0; i < pairs; i++) turn[(size_t)i] = pow(1e4, -(double)i / pairs) / pi2;
    const there<double> these(turn);
    const there<float> out(numbers((size_t)(2 * pairs * rows), NAN));
    for (int64_t at : {(int64_t)0, (int64_t)1000003, ((int64_t)1 << 24) - rows}) {
        const there<int64_t> from(std::vector<int64_t>(1, at));
        const step_rope r = {nullptr, these.at, 1.25, pairs};
        step_row_cuda.turns(&line, &r, from.at, rows, out.at);
        const numbers got = out.back();
        closeness near("turns");
        for (int64_t row = 0; row < rows; row++)
            for (int i = 0; i < pairs; i++) {
                const long double angle =
                    (long double)(at + row) * powl(1e4L, -(long double)i / pairs);
                const float *const of = got.data() + row * 2 * pairs;
                near.add(of[i], 1.25 * (double)cosl(angle), 1.25 * (u + 0x1p-27));
                near.add(of[pairs + i], 1.25 * (double)sinl(angle), 1.25 * (u + 0x1p-27));
            }
    }
}

/* Heads 1 .. of each row; head 0 stays as it is. */
static void heads(int dim, int rows, int kind)
{
    enum { HEADS = 3 };
    const int pairs = kind == 1 ? 0 : dim / 2 - dim / 8;
    const numbers a = drawn((size_t)(rows * HEADS * dim)), w = drawn((size_t)dim),
                  b = drawn((size_t)dim), t = drawn((size_t)(2 * rows * (pairs + 1)));
    const there<float> x(a), weight(w), bias(b), turn(t);
    const step_norm n = {kind > 2 ? NORM_LAYER : NORM_RMS, 1e-5, kind ? weight.at : nullptr,
                         kind == 3 ? bias.at : nullptr};
    const step_heads h = {x.at + dim, rows,  HEADS * dim, HEADS - 1,
                          dim,        pairs, n,           kind == 1 ? nullptr : turn.at};
    step_row_cuda.heads(&line, &h);
    const numbers got = x.back();
    const double depth = (dim + 31) / 32 + 5 + 12;
    closeness near("heads");
    for (int row = 0; row < rows; row++)
        for (int head = 0; head < HEADS; head++) {
            const float *const from = a.data() + (row * HEADS + head) * dim;
            const row_of_norm stats(from, dim, n);
            std::vector<double> y((size_t)dim), size((size_t)dim);
            for (size_t i = 0; i < y.size(); i++) {
                const bool is_normed = head && kind;
                y[i] = is_normed ? stats.of(from[i], w[i], kind == 3 ? b[i] : 0) : from[i];
                size[i] = fabs(y[i]) + (is_normed ? stats.size(from[i], w[i]) : 0);
            }
            for (int i = 0; i < dim; i++) {
                double expected = y[(size_t)i], bound = kind ? size[(size_t)i] : 0;
                const float *const c = t.data() + row * 2 * pairs, *const s = c + pairs;
                const int j = i % (pairs ? pairs : 1);
                if (head && i < 2 * pairs) {
                    const double p = y[(size_t)j], q = y[(size_t)(j + pairs)];
                    expected = i < pairs ? p * c[j] - q * s[j] : q * c[j] + p * s[j];
                    bound = (size[(size_t)j] + size[(size_t)(j + pairs)]) *
                            (fabs((double)c[j]) + fabs((double)s[j]));
                }
                near.add(got[(size_t)((row * HEADS + head) * dim + i)], expected,
                         head ? depth * u * bound : 0);
            }
        }
}

/* ---- the head ---------------------------------------------------------------------------- */

static void choices(int width, int rows)
{
    enum { FIRST = 5 };
    const std::vector<int32_t> dummies = {0, FIRST, FIRST + width / 2, FIRST + width, 1 << 20};
    numbers a = drawn((size_t)(rows * width));
    for (float &one : a) one = floorf(4 * one) / 4; /* many are alike */
    if (rows > 2) {
        for (int i = 0; i < width; i++) a[(size_t)(2 * width + i)] = -INFINITY;
        a[(size_t)(width + width - 1)] = rows > 3 ? NAN : INFINITY;
    }
    const there<float> logits(a);
    const there<int32_t> ids(dummies);
    const there<uint64_t> best(std::vector<uint64_t>((size_t)rows, 1));
    step_row_cuda.silence(&line, logits.at, rows, width, FIRST, ids.at, (int)dummies.size());
    step_row_cuda.choose(&line, logits.at, rows, width, FIRST, best.at);
    const std::vector<uint64_t> got = best.back();
    const numbers silent = logits.back();
    for (int row = 0; row < rows; row++) {
        int largest = -1, is_bad = 0, wrong = 0;
        for (int i = 0; i < width; i++) {
            float x = a[(size_t)(row * width + i)];
            if (i == 0 || i == width / 2) x = -INFINITY;
            const float is = silent[(size_t)(row * width + i)];
            wrong += !(is == x || (isnan(is) && isnan(x)));
            is_bad |= isnan(x) || x == INFINITY;
            if (x > -INFINITY && (largest < 0 || x > a[(size_t)(row * width + largest)]))
                largest = i;
        }
        const uint64_t choice = got[(size_t)row];
        CHECK_MSG(wrong == 0, "row %d of %d: %d other logits", row, width, wrong);
        CHECK_MSG(is_bad == (choice >= CHOICE_BAD), "row %d of %d: not finite", row, width);
        CHECK_MSG(choice_is_good(choice) == (!is_bad && largest >= 0), "row %d of %d: good",
                  row, width);
        if (choice_is_good(choice))
            CHECK_MSG(choice_id(choice) == (uint32_t)(FIRST + largest),
                      "row %d of %d: id %u, not %d", row, width, choice_id(choice),
                      FIRST + largest);
    }
    step_row_cuda.choose(&line, logits.at, rows, 0, FIRST, best.at);
    CHECK(best.back()[(size_t)rows - 1] == CHOICE_NONE);
}

int main(void)
{
    cudaStream_t stream;
    CHECK(!cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    line.stream = stream;
    for (int width : widths)
        for (int rows : row_counts) {
            if (width == 4097 && rows == 65) continue; /* below, for one step of each kind */
            embed(width, rows);
            moves(width, rows);
            one_by_one(width, rows);
            activate(width, rows);
            norm(width, rows);
            choices(width, rows);
        }
    norm(4097, 65);
    moves(4097, 65);
    choices(4097, 65);
    for (int rows : row_counts) {
        turns(1, rows);
        turns(33, rows);
        turns(288, rows);
        for (int kind = 0; kind < 5;
             kind++) { /* none, norm alone, both, centred with a bias, without */
            heads(33, rows, kind);
            heads(128, rows, kind);
        }
    }
    CHECK_MSG(!line.failed, "%s", line.failed);
    cudaStreamDestroy(stream);
    return test_end();
}
