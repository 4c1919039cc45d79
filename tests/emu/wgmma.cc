/* SPDX-License-Identifier: Apache-2.0 */
/* Products of a warpgroup: wgmma.mma_async of m64nNk16, 16-bit numbers, fp32 sums. Written from
 * PTX ISA 9.0, section 9.7.15: register fragments 9.7.15.5.1.1, shared memory layouts
 * 9.7.15.5.1.2 (matrix descriptor, strides, canonical layouts), order 9.7.15.2 and 9.7.15.6.
 *
 * From issue to the wait that covers its group, a product's d is full of NaNs: it may not be
 * read, and who writes to it is found out. In the lazy mode shared memory is read at the wait,
 * in the eager mode at issue. The a in registers is read at issue: ptxas sees to it that
 * registers of a product under way are not given to other values (or says so, and the build
 * stops). */
#include "block.h"
#include "attention/cuda/wgmma.h"
#include "settings.h"

#include <string.h>

namespace emu
{

enum { ROWS = 64, DEPTH = 16, ROW_BYTES = 128, PIECE_BYTES = 1024 };

/* ---- matrices in shared memory ----------------------------------------------------------- */

namespace
{
struct descriptor {
    uint32_t start, leading, stride; /* bytes */
};
} // namespace

/* Matrix descriptor: bits 0-13, 16-29 and 32-45 are the start address, leading and stride byte
 * offsets, without their last 4 bits; 49-51 the base offset; 62-63 the swizzle, 1 for 128
 * bytes. */
static descriptor decode(uint64_t bits, bool is_k_major, const char *which, site at)
{
    const descriptor d = {(uint32_t)(bits & 0x3fff) << 4, (uint32_t)(bits >> 16 & 0x3fff) << 4,
                          (uint32_t)(bits >> 32 & 0x3fff) << 4};
    const uint64_t used =
        0x3fff | (uint64_t)0x3fff << 16 | (uint64_t)0x3fff << 32 | (uint64_t)3 << 62;
    if (bits >> 62 != 1)
        fault(at, "wgmma: %s has swizzle %d, not 128 bytes (1)", which, (int)(bits >> 62));
    if (bits & ~used)
        fault(at, "wgmma: %s has unused bits or a base offset: 0x%llx", which,
              (unsigned long long)bits);
    /* With base offset 0 pieces begin at multiples of 1024. In the first row of one the start
     * may be moved along k, by the 32 bytes of 16 numbers. */
    if (d.start % PIECE_BYTES >= (is_k_major ? ROW_BYTES : 1) || d.start % 32)
        fault(at,
              "wgmma: %s begins at shared address 0x%x, which is not in the first row of a "
              "1024-byte piece",
              which, d.start);
    if (d.stride % PIECE_BYTES || (!is_k_major && d.leading % PIECE_BYTES))
        fault(at, "wgmma: strides of %s, %u and %u bytes, are not those of 1024-byte pieces",
              which, d.leading, d.stride);
    return d;
}

/* 16 bytes (eight numbers) that the layout without a swizzle has at `address`: bits 4-6 of the
 * address that is read are its own xor bits 7-9. */
static void read_chunk(float *to, int step, uint32_t address, int type, site at)
{
    const uint32_t swizzled = address ^ (address >> 7 & 7) << 4;
    uint16_t bits[8];
    memcpy(bits, shared_async_read(swizzled, 16, "wgmma", at), 16);
    for (int i = 0; i < 8; i++)
        to[i * step] = type == EMU_BF16 ? __uint_as_float((uint32_t)bits[i] << 16)
                                        : emu_float_from_half(bits[i]);
}

/* K-major, T = 8 numbers: ((8, m), (T, 2)) : ((8 T, SBO), (1, T)), in numbers. Row (i, j) = i +
 * 8 j of the m or n dimension is at 128 i + SBO j bytes, k (t, c) = t + 8 c at 2 t + 16 c more;
 * LBO is not used. */
static void read_k_major(float *to, int row_step, int k_step, int rows, const descriptor &d,
                         int type, site at)
{
    for (int row = 0; row < rows; row++)
        for (int c = 0; c < 2; c++)
            read_chunk(to + row * row_step + 8 * c * k_step, k_step,
                       d.start + (uint32_t)(row % 8) * ROW_BYTES +
                           (uint32_t)(row / 8) * d.stride + (uint32_t)c * 16,
                       type, at);
}

/* MN-major, T = 8 numbers: ((T, 8, m), (8, k)) : ((1, T, LBO), (8 T, SBO)). Column (t, c, j) =
 * t + 8 c + 64 j is at 2 t + 16 c + LBO j bytes, k (i, j) = i + 8 j at 128 i + SBO j more. to
 * [16][columns]. */
static void read_mn_major(float *to, int columns, const descriptor &d, int type, site at)
{
    for (int k = 0; k < DEPTH; k++)
        for (int column = 0; column < columns; column += 8)
            read_chunk(to + k * columns + column, 1,
                       d.start + (uint32_t)(k % 8) * ROW_BYTES + (uint32_t)(k / 8) * d.stride +
                           (uint32_t)(column % 64) * 2 + (uint32_t)(column / 64) * d.leading,
                       type, at);
}

/* ---- matrices in registers --------------------------------------------------------------- */

/* Register i of thread t holds rows 16 (t / 32) + t % 32 / 4 + 8 (i % 2), columns
 * t % 4 * 2 + 8 (i / 2) and the next. */
static void read_registers(float (&a)[ROWS][DEPTH], const product &p)
{
    for (int t = 0; t < WARPGROUP; t++)
        for (int i = 0; i < 4; i++)
            for (int half = 0; half < 2; half++) {
                const uint32_t bits = p.a_registers[t][i] >> 16 * half & 0xffff;
                a[t / 32 * 16 + t % 32 / 4 + i % 2 * 8][t % 4 * 2 + half + i / 2 * 8] =
                    p.type == EMU_BF16 ? __uint_as_float(bits << 16)
                                       : emu_float_from_half((unsigned short)bits);
            }
}

/* d[i] of thread t: row 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), column 8 (i / 4) + t % 4 * 2
 * + i % 2. */
static float *sum_at(product &p, int t, int i)
{
    const int row = t / 32 * 16 + t % 32 / 4 + i / 2 % 2 * 8;
    return &p.sums[(size_t)(row * p.columns + i / 4 * 8 + t % 4 * 2 + i % 2)];
}

/* ---- products ---------------------------------------------------------------------------- */

static void compute(product &p)
{
    float a[ROWS][DEPTH], b[DEPTH * 128];
    if (p.has_registers) {
        read_registers(a, p);
        read_mn_major(b, p.columns, decode(p.b, false, "b", p.at), p.type, p.at);
    } else {
        read_k_major(a[0], DEPTH, 1, ROWS, decode(p.a, true, "a", p.at), p.type, p.at);
        read_k_major(b, 1, p.columns, p.columns, decode(p.b, true, "b", p.at), p.type, p.at);
    }
    for (int row = 0; row < ROWS; row++) {
        float *const sum = &p.sums[(size_t)(row * p.columns)];
        float product_sum[128] = {};
        for (int k = 0; k < DEPTH; k++)
            for (int j = 0; j < p.columns; j++)
                product_sum[j] += a[row][k] * b[k * p.columns + j];
        for (int j = 0; j < p.columns; j++)
            sum[j] = p.accumulate ? sum[j] + product_sum[j] : product_sum[j];
    }
}

static uint32_t poison(int t, int i) /* a NaN */
{
    return 0x7fb00000 | (uint32_t)t << 8 | (uint32_t)i;
}

/* Is d as a product under way left it? */
static void check_untouched(const product &p)
{
    for (int t = 0; t < WARPGROUP; t++)
        for (int i = 0; i < p.columns / 2; i++)
            if (__float_as_uint(p.d[t][i]) != poison(t, i))
                fault(p.at,
                      "wgmma: d[%d] of thread %d of its warpgroup was written while the "
                      "product was "
                      "under way",
                      i, t);
}

/* The latest product under way of this warpgroup that adds to the same registers. */
static product *latest_of(block &b, const product &p)
{
    product *found = nullptr;
    for (product &other : b.products)
        if (other.warpgroup == p.warpgroup && other.d[0] == p.d[0]) found = &other;
    return found;
}

/* The next one after place i that adds to the same registers. */
static product *next_of(block &b, size_t i)
{
    for (size_t j = i + 1; j < b.products.size(); j++)
        if (b.products[j].warpgroup == b.products[i].warpgroup &&
            b.products[j].d[0] == b.products[i].d[0])
            return &b.products[j];
    return nullptr;
}

static void happen(block &b, product &p)
{
    for (product &other : b.products) /* those before it that add to the same registers */
        if (&other == &p)
            break;
        else if (!other.done && other.warpgroup == p.warpgroup)
            happen(b, other);
    for (product &other : b.products)
        if (&other == &p)
            break;
        else if (other.warpgroup == p.warpgroup && other.d[0] == p.d[0])
            p.sums = other.sums;
    compute(p);
    p.done = true;
}

static void issue_all(fiber *first)
{
    block &b = *self_block;
    const emu_product &mine = *(const emu_product *)self->argument;
    product p = {};
    p.has_registers = mine.a_registers;
    p.a = mine.a, p.b = mine.b;
    p.columns = mine.columns, p.accumulate = mine.accumulate, p.type = mine.type;
    p.warpgroup = first->index / WARPGROUP;
    p.group = self->products;
    p.at = self->at;
    for (int t = 0; t < WARPGROUP; t++) {
        const emu_product &its = *(const emu_product *)first[t].argument;
        if (its.a != p.a || its.b != p.b || its.columns != p.columns || its.type != p.type ||
            !its.accumulate != !p.accumulate || !its.a_registers != !p.has_registers ||
            first[t].products != p.group)
            fault(p.at,
                  "wgmma: thread %d of the warpgroup has other operands or groups than "
                  "thread %u",
                  t, self->index % WARPGROUP);
        if (!first[t].fenced)
            fault(p.at, "wgmma: no wgmma_fence since the kernel began, or since wgmma_wait");
        p.d[t] = its.d;
        if (p.has_registers) memcpy(p.a_registers[t], its.a_registers, 16);
    }
    const product *const before = latest_of(b, p);
    if (before) check_untouched(*before);
    p.sums.resize((size_t)(ROWS * p.columns));
    for (int t = 0; t < WARPGROUP; t++)
        for (int i = 0; i < p.columns / 2; i++) {
            *sum_at(p, t, i) = p.d[t][i];
            p.d[t][i] = __uint_as_float(poison(t, i));
        }
    b.products.push_back(p);
    if (happens_at_issue()) happen(b, b.products.back());
}

static void wait_all(fiber *first)
{
    block &b = *self_block;
    const uint32_t pending = *(const uint32_t *)self->argument, committed = self->products;
    for (int t = 0; t < WARPGROUP; t++)
        if (first[t].products != committed || *(const uint32_t *)first[t].argument != pending)
            fault(self->at,
                  "wgmma_wait: threads of the warpgroup committed %u and %u groups, and "
                  "wait for all but %u and %u",
                  committed, first[t].products, pending, *(const uint32_t *)first[t].argument);
    const uint32_t end = committed > pending ? committed - pending : 0;
    const uint32_t warpgroup = first->index / WARPGROUP;
    for (size_t n = b.products.size(), i = 0; i < n; i++) {
        product &p = b.products[i];
        if (p.warpgroup == warpgroup && p.group < end && !p.done) happen(b, p);
    }
    for (size_t i = 0; i < b.products.size();) {
        product &p = b.products[i];
        if (p.warpgroup != warpgroup || p.group >= end) {
            i++;
            continue;
        }
        product *const next = next_of(b, i);
        if (next) { /* which still adds to d */
            if (!next->done) next->sums = p.sums;
        } else {
            check_untouched(p);
            for (int t = 0; t < WARPGROUP; t++)
                for (int j = 0; j < p.columns / 2; j++) p.d[t][j] = *sum_at(p, t, j);
        }
        b.products.erase(b.products.begin() + (ptrdiff_t)i);
    }
}

void products_end(block &b)
{
    for (const product &p : b.products)
        fault(p.at, "wgmma: a product of warpgroup %u was never waited for", p.warpgroup);
}

} // namespace emu

using namespace emu;

void emu_wgmma(const emu_product &product, const char *file, int line)
{
    if (get_settings().capability != 90)
        fault({file, line}, "wgmma needs compute capability 9.0");
    emu_product mine = product;
    meet_warpgroup(MEET_WGMMA, &mine, issue_all, {file, line});
}

void emu_wgmma_fence()
{
    self->fenced = true;
}

void emu_wgmma_commit()
{
    self->products++;
}

void emu_wgmma_wait(int pending, const char *file, int line)
{
    uint32_t mine = (uint32_t)pending;
    meet_warpgroup(MEET_WGMMA_WAIT, &mine, wait_all, {file, line});
    self->fenced = false;
}
