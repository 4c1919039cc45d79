/* SPDX-License-Identifier: Apache-2.0 */
/* The lanes of a warp: fragments against plain matrix products (exact, since all sums are),
 * shuffles, votes, and what lanes tell one another by shared memory. */
#include "tests/emu/trial.h"

/* ---- mma: a and b are put into fragments by ldmatrix, in the order that the ISA's figures say
 * ---- */

/* a [16][16], b [8][16] (its columns are rows of memory), c [16][8]. */
template <typename T>
static __global__ void product_kernel(const uint16_t *a, const uint16_t *b, float *c)
{
    uint16_t *const tile = (uint16_t *)dynamic_shared();
    const int lane = (int)threadIdx.x;
    for (int i = lane; i < 256; i += 32) tile[i] = a[i];
    for (int i = lane; i < 128; i += 32) tile[256 + i] = b[i];
    __syncwarp();
    uint32_t fa[4], fb[4];
    /* matrices: rows 0-7, rows 8-15 of columns 0-7, then of columns 8-15 */
    ldmatrix4(fa, shared_address(tile + lane % 16 * 16 + lane / 16 * 8));
    ldmatrix4(fb, shared_address(tile + 256 + lane % 8 * 16 + lane / 8 % 2 * 8));
    float sum[4] = {1, 2, 3, 4};
    mma(sum, fa, fb[0], fb[1], T());
    const int row = lane / 4, column = lane % 4 * 2;
    c[row * 8 + column] = sum[0], c[row * 8 + column + 1] = sum[1];
    c[(row + 8) * 8 + column] = sum[2], c[(row + 8) * 8 + column + 1] = sum[3];
}

template <typename T> static void test_product(uint64_t seed)
{
    std::vector<float> fa(256), fb(128);
    std::vector<uint16_t> a(256), b(128);
    for (int i = 0; i < 256; i++) a[i] = bits_of(fa[i] = small_number(&seed), T());
    for (int i = 0; i < 128; i++) b[i] = bits_of(fb[i] = small_number(&seed), T());
    device_array<uint16_t> da(a), db(b);
    device_array<float> dc(128);
    run_block(32, 1024, product_kernel<T>, (const uint16_t *)da.at, (const uint16_t *)db.at,
              dc.at);
    const std::vector<float> c = dc.read();
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float sum = (float)(1 + j % 2 + i / 8 * 2);
            for (int k = 0; k < 16; k++) sum += fa[i * 16 + k] * fb[j * 16 + k];
            CHECK_MSG(c[i * 8 + j] == sum, "(%d, %d): %g, not %g", i, j, c[i * 8 + j], sum);
        }
}

/* ---- ldmatrix with .trans ---------------------------------------------------------------- */

static __global__ void transpose_kernel(uint32_t *out)
{
    uint16_t *const tile = (uint16_t *)dynamic_shared(); /* [32][8] */
    const int lane = (int)threadIdx.x;
    for (int i = 0; i < 8; i++) tile[lane * 8 + i] = (uint16_t)(lane * 8 + i);
    __syncwarp();
    uint32_t r[4];
    ldmatrix4_transposed(r, shared_address(tile + lane * 8));
    for (int i = 0; i < 4; i++) out[lane * 4 + i] = r[i];
}

static void test_transpose()
{
    device_array<uint32_t> out(128);
    run_block(32, 512, transpose_kernel, out.at);
    const std::vector<uint32_t> r = out.read();
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            const uint32_t row = (uint32_t)(8 * i + lane % 4 * 2), column = (uint32_t)lane / 4;
            CHECK(r[lane * 4 + i] == ((row * 8 + column) | ((row + 1) * 8 + column) << 16));
        }
}

/* ---- shuffles and votes ------------------------------------------------------------------ */

static __global__ void shuffle_kernel(float *out)
{
    const int lane = (int)threadIdx.x % 32;
    float sum = (float)lane;
    for (int i = 1; i < 32; i *= 2) sum += __shfl_xor_sync(0xffffffff, sum, i);
    float *const mine = out + threadIdx.x * 8;
    mine[0] = sum;
    mine[1] = (float)__shfl_sync(0xffffffff, lane, 5);
    mine[2] = (float)__shfl_up_sync(0xffffffff, lane, 3);
    mine[3] = (float)__shfl_down_sync(0xffffffff, lane, 3, 8);
    mine[4] = (float)__popc(__ballot_sync(0xffffffff, lane % 3 == 0));
    mine[5] = (float)__any_sync(0xffffffff, lane == 77);
    mine[6] = mine[7] = 0;
    if (lane < 16)
        mine[6] = (float)__shfl_xor_sync(0x0000ffff, lane, 1);
    else
        mine[7] = (float)__shfl_sync(0xffff0000, (double)lane, 31);
}

static void test_shuffles()
{
    device_array<float> out(96 * 8);
    run_block(96, 0, shuffle_kernel, out.at);
    const std::vector<float> r = out.read();
    for (int t = 0; t < 96; t++) {
        const int lane = t % 32;
        const float *const mine = &r[t * 8];
        CHECK(mine[0] == 496 && mine[1] == 5);
        CHECK(mine[2] == (lane < 3 ? lane : lane - 3));
        CHECK(mine[3] == (lane % 8 < 5 ? lane + 3 : lane));
        CHECK(mine[4] == 11 && mine[5] == 0);
        CHECK(mine[6] == (lane < 16 ? lane ^ 1 : 0) && mine[7] == (lane < 16 ? 0 : 31));
    }
}

/* ---- blocks, and threads of more than one dimension -------------------------------------- */

static __global__ void place_kernel(int *out, int *count)
{
    int *const shared = (int *)dynamic_shared();
    const int threads = (int)(blockDim.x * blockDim.y);
    const int thread = (int)(threadIdx.y * blockDim.x + threadIdx.x);
    const int block = (int)(blockIdx.y * gridDim.x + blockIdx.x);
    shared[threads - 1 - thread] = thread;
    __syncthreads();
    out[block * threads + thread] = shared[thread] * 100 + block;
    atomicAdd(count, 1);
}

static void test_places()
{
    device_array<int> out(6 * 64), count(std::vector<int>{5});
    const cuda_shape shape = {dim3(3, 2), dim3(8, 8), 256, nullptr, false};
    CHECK(cuda_launch(shape, place_kernel, out.at, count.at) == cudaSuccess);
    const std::vector<int> r = out.read();
    for (int i = 0; i < 6 * 64; i++) CHECK(r[i] == (63 - i % 64) * 100 + i / 64);
    CHECK(count.read()[0] == 5 + 6 * 64);
}

/* ---- cp.async: a ring of three tiles ----------------------------------------------------- */

static __global__ void ring_kernel(const float *in, float *out, int tiles)
{
    float *const ring = (float *)dynamic_shared(); /* [3][128] */
    const int thread = (int)threadIdx.x;
    for (int i = 0; i < tiles + 2; i++) {
        if (i < tiles)
            async_copy16(shared_address(ring + i % 3 * 128 + thread * 4),
                         in + i * 128 + thread * 4);
        async_commit();
        if (i < 2) continue;
        async_wait<2>();
        __syncwarp();
        for (int j = thread; j < 128; j += 32)
            out[(i - 2) * 128 + j] = ring[(i - 2) % 3 * 128 + (j ^ 5)];
        __syncwarp();
    }
    async_wait<0>();
}

static void test_ring()
{
    std::vector<float> in(128 * 7);
    for (size_t i = 0; i < in.size(); i++) in[i] = (float)i;
    device_array<float> from(in), to(in.size());
    run_block(32, 3 * 512, ring_kernel, (const float *)from.at, to.at, 7);
    const std::vector<float> r = to.read();
    for (size_t i = 0; i < in.size(); i++) CHECK(r[i] == in[i ^ 5]);
}

int main()
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        test_product<__nv_bfloat16>(seed);
        test_product<__half>(seed);
    }
    test_transpose();
    test_shuffles();
    test_places();
    test_ring();
    return test_end();
}
