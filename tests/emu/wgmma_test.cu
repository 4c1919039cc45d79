/* SPDX-License-Identifier: Apache-2.0 */
/* Products of a warpgroup against plain ones: exact, since all sums are. Tiles are laid out
 * here by hand: 64 numbers a row, 16-byte chunk c of row r at c ^ (r % 8). */
#include "tests/emu/trial.h"
#include "attention/cuda/wgmma.h"

enum { PANEL = 64 * 128 }; /* bytes: 64 rows of 64 numbers */

static __device__ uint32_t swizzled(uint32_t row, uint32_t column)
{
    return row * 128 + (column * 2 ^ (row & 7) << 4);
}

/* d [64][N] = a [64][DEPTH] b, DEPTH of one or two panels. K-major: b [N][DEPTH]; panels of 64
 * ks follow one another, each N rows. MN-major: b [DEPTH][N]; panels of 64 columns, each DEPTH
 * rows. */
template <int N, int DEPTH, bool RS, typename T>
static __global__ void product_kernel(const uint16_t *a, const uint16_t *b, float *out)
{
    const uint32_t base = shared_address(dynamic_shared());
    unsigned char *const as = dynamic_shared(), *const bs = as + DEPTH / 64 * PANEL;
    const int thread = (int)threadIdx.x;
    for (int i = thread; i < 64 * DEPTH; i += 128)
        *(uint16_t *)(as + i % DEPTH / 64 * PANEL +
                      swizzled((uint32_t)(i / DEPTH), (uint32_t)(i % 64))) = a[i];
    const int rows = RS ? DEPTH : N, columns = RS ? N : DEPTH;
    for (int i = thread; i < rows * columns; i += 128)
        *(uint16_t *)(bs + i % columns / 64 * rows * 128 +
                      swizzled((uint32_t)(i / columns), (uint32_t)(i % 64))) = b[i];
    shared_written();
    __syncthreads();
    float d[N / 2];
    for (int i = 0; i < N / 2; i++) d[i] = 100; /* forgotten: accumulate is 0 at first */
    const uint32_t second = base + DEPTH / 64 * PANEL;
    const int row = thread / 32 * 16 + thread % 32 / 4, pair = thread % 4 * 2;
    wgmma_fence();
    for (int k = 0; k < DEPTH; k += 16) {
        if (RS) {
            uint32_t r[4];
            for (int i = 0; i < 4; i++) {
                const int at = (row + i % 2 * 8) * DEPTH + k + pair + i / 2 * 8;
                r[i] = a[at] | (uint32_t)a[at + 1] << 16;
            }
            wgmma_rs<N, T>(
                d, r, wgmma_descriptor(second + (uint32_t)k * 128, DEPTH * 128, 1024), k > 0);
        } else {
            const uint32_t panel = (uint32_t)k / 64, in_row = (uint32_t)k % 64 * 2;
            wgmma_ss<N, T>(d, wgmma_descriptor(base + panel * PANEL + in_row, 0, 1024),
                           wgmma_descriptor(second + panel * N * 128 + in_row, 0, 1024), k > 0);
        }
    }
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < N / 2; i++)
        out[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + pair + i % 2] = d[i];
}

template <int N, int DEPTH, bool RS, typename T> static void test_product(uint64_t seed)
{
    std::vector<float> fa(64 * DEPTH), fb(N * DEPTH);
    std::vector<uint16_t> a(fa.size()), b(fb.size());
    for (size_t i = 0; i < a.size(); i++) a[i] = bits_of(fa[i] = small_number(&seed), T());
    for (size_t i = 0; i < b.size(); i++) b[i] = bits_of(fb[i] = small_number(&seed), T());
    device_array<uint16_t> da(a), db(b);
    device_array<float> out(64 * N);
    run_block(128, (64 + N) * DEPTH * 2, product_kernel<N, DEPTH, RS, T>,
              (const uint16_t *)da.at, (const uint16_t *)db.at, out.at);
    const std::vector<float> d = out.read();
    int wrong = 0;
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < N; j++) {
            float sum = 0;
            for (int k = 0; k < DEPTH; k++)
                sum += fa[i * DEPTH + k] * (RS ? fb[k * N + j] : fb[j * DEPTH + k]);
            wrong += d[i * N + j] != sum;
        }
    CHECK_MSG(!wrong, "n %d, depth %d, %s: %d of %d are wrong", N, DEPTH, RS ? "rs" : "ss",
              wrong, 64 * N);
}

/* ---- two groups under way, and two products that add to one d of different groups -------- */

static __global__ void groups_kernel(float *out)
{
    uint16_t *const tile = (uint16_t *)dynamic_shared();
    const uint32_t base = shared_address(tile);
    for (int i = (int)threadIdx.x; i < 64 * 64; i += 128) /* the unit matrix, swizzled */
        *(uint16_t *)((char *)tile + swizzled((uint32_t)i / 64, (uint32_t)i % 64)) =
            i / 64 == i % 64 ? bits_of(1, __half()) : (uint16_t)0;
    shared_written();
    __syncthreads();
    float x[32], y[32];
    for (int i = 0; i < 32; i++) x[i] = 1, y[i] = 2;
    const uint64_t unit = wgmma_descriptor(base, 0, 1024);
    wgmma_fence();
    wgmma_ss<64, __half>(x, unit, unit, 1); /* + 1 on the first 16 of the diagonal */
    wgmma_commit();
    wgmma_ss<64, __half>(y, unit, unit, 1);
    wgmma_ss<64, __half>(x, unit, unit, 1);
    wgmma_commit();
    wgmma_wait<1>();
    wgmma_wait<0>();
    const int row = (int)threadIdx.x / 32 * 16 + (int)threadIdx.x % 32 / 4;
    for (int i = 0; i < 32; i++) {
        const int at =
            (row + i / 2 % 2 * 8) * 64 + i / 4 * 8 + (int)threadIdx.x % 4 * 2 + i % 2;
        out[at] = x[i], out[4096 + at] = y[i];
    }
}

static void test_groups()
{
    device_array<float> out(2 * 4096);
    run_block(128, PANEL, groups_kernel, out.at);
    const std::vector<float> r = out.read();
    for (int i = 0; i < 4096; i++) {
        const bool one = i / 64 == i % 64 && i % 64 < 16;
        CHECK(r[i] == (one ? 3 : 1) && r[4096 + i] == (one ? 3 : 2));
    }
}

int main()
{
    for (uint64_t seed = 1; seed <= 2; seed++) {
        test_product<64, 64, false, __nv_bfloat16>(seed);
        test_product<64, 128, false, __half>(seed);
        test_product<128, 128, false, __nv_bfloat16>(seed);
        test_product<64, 64, true, __half>(seed);
        test_product<128, 64, true, __nv_bfloat16>(seed);
        test_product<128, 128, true, __half>(seed);
    }
    test_groups();
    return test_end();
}
