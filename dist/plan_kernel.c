/* SPDX-License-Identifier: Apache-2.0 */
/* Which kernel works on this plan's blocks, on the device that was asked for. All ranks take
 * the same one. For an imaginary cluster it need not run here. */
#include "dist/device_cache.h"
#include "dist/plan.h"

#include <stdio.h>
#include <string.h>

static int is_imaginary(const banyan_plan *plan)
{
    return plan->comm->transport->is_imaginary;
}

/* "32, 64": the values that at least one kernel of the device supports. */
typedef struct supported {
    char text[128];
    size_t used;
} supported;

static void add_supported(supported *s, const char *word)
{
    const int n = snprintf(s->text + s->used, sizeof s->text - s->used, "%s%s",
                           s->used ? ", " : "", word);
    if (n > 0 && (size_t)n < sizeof s->text - s->used) s->used += (size_t)n;
}

static int is_supported(const char *device, const banyan_block_shape *shape)
{
    char why[512];
    return banyan_kernel_find(device, 1, NULL, shape, why, sizeof why) != NULL;
}

/* Is a shape of these dims supported? Adds the blocks (their tokens are powers of two) and the
 * formats with which it is, as bits. */
static int find_formats(const char *device, banyan_block_shape shape, unsigned *blocks,
                        unsigned *dtypes)
{
    int found = 0;
    for (shape.block_tokens = 16; shape.block_tokens <= 256; shape.block_tokens *= 2)
        for (int dtype = BANYAN_F32; dtype <= BANYAN_E4M3; dtype++) {
            shape.dtype = (banyan_dtype)dtype;
            if (!is_supported(device, &shape)) continue;
            *blocks |= (unsigned)shape.block_tokens;
            *dtypes |= 1u << dtype;
            found = 1;
        }
    return found;
}

/* Dims go in steps that every kernel has in common. */
static void find_dims(const char *device, supported *dims, unsigned *blocks, unsigned *dtypes)
{
    enum { STEP = 16 };
    banyan_block_shape shape = {0};
    for (shape.value_in_key = 0; shape.value_in_key < 2; shape.value_in_key++)
        for (shape.key_dim = STEP; shape.key_dim <= BANYAN_MAX_DIM; shape.key_dim += STEP)
            for (shape.value_dim = STEP; shape.value_dim <= BANYAN_MAX_DIM;
                 shape.value_dim += STEP) {
                char pair[48];
                if (!find_formats(device, shape, blocks, dtypes)) continue;
                snprintf(pair, sizeof pair, "(%d, %d%s)", (int)shape.key_dim,
                         (int)shape.value_dim, shape.value_in_key ? " in the key" : "");
                add_supported(dims, pair);
            }
}

/* What was given, and what there is: of each thing, what goes with some value of the others. */
static banyan_status refuse_shape(const char *device, const banyan_block_shape *given)
{
    supported blocks = {0}, dtypes = {0}, dims = {0};
    unsigned block_bits = 0, dtype_bits = 0;
    find_dims(device, &dims, &block_bits, &dtype_bits);
    for (unsigned block = 16; block <= 256; block *= 2) {
        char number[16];
        snprintf(number, sizeof number, "%u", block);
        if (block_bits & block) add_supported(&blocks, number);
    }
    for (int dtype = BANYAN_F32; dtype <= BANYAN_E4M3; dtype++)
        if (dtype_bits >> dtype & 1)
            add_supported(&dtypes, banyan_dtype_name((banyan_dtype)dtype));
    return banyan_fail(
        BANYAN_ERR_CONFIG,
        "device \"%s\" has no kernel for block_tokens %d, key_dim %d, value_dim "
        "%d%s, cache_dtype %s: expected block_tokens %s, (key_dim, value_dim) %s, "
        "cache_dtype %s",
        device, (int)given->block_tokens, (int)given->key_dim, (int)given->value_dim,
        given->value_in_key ? " in the key" : "", banyan_dtype_name(given->dtype),
        blocks.used ? blocks.text : "of none", dims.used ? dims.text : "of none",
        dtypes.used ? dtypes.text : "of none");
}

/* A driver, and something that it drives. */
static banyan_status check_device(const char *device)
{
    for (int i = 0; banyan_kernel_row(i); i++) {
        const banyan_device *row = banyan_kernel_row(i)->device;
        if (!row || strcmp(row->name, device) != 0) continue;
        const char *why = row->missing();
        return why ? banyan_fail(BANYAN_ERR_DEVICE, "device is \"%s\": %s", device, why)
                   : BANYAN_OK;
    }
    return BANYAN_OK;
}

/* The kernel for all shapes: rows are listed slowest first, so the lowest of what each kind
 * would take; and every kind must have it. */
static const banyan_kernel *find_kernel(const banyan_plan *plan, int anywhere, const char *name,
                                        char *why, size_t why_bytes)
{
    const banyan_kernel *common = NULL;
    for (int i = 0; banyan_kernel_row(i) && !common; i++)
        for (int32_t k = 0; k < plan->kinds && !common; k++) {
            const banyan_kernel *best = banyan_kernel_find(
                plan->spec.device, anywhere, name, &plan->kind[k].shape.block, why, why_bytes);
            if (!best) return NULL;
            if (best == banyan_kernel_row(i)) common = best;
        }
    for (int32_t k = 0; k < plan->kinds && common; k++)
        if (!banyan_kernel_find(plan->spec.device, anywhere, common->name,
                                &plan->kind[k].shape.block, why, why_bytes))
            return NULL;
    return common;
}

/* A device's sums are of its slots, which may be more than blocks are. */
static banyan_status check_exact(const banyan_plan *plan)
{
    const banyan_spec *s = &plan->spec;
    const banyan_device *device = plan->kernel->device;
    const int64_t most =
        (int64_t)BANYAN_FIXED_BLOCKS * s->block_tokens / banyan_device_slots(plan);
    for (int32_t k = 0; k < plan->kinds; k++) {
        const banyan_block_shape *shape = &plan->kind[k].shape.block;
        if (device->is_exact && device->is_exact(shape)) continue;
        return banyan_fail(
            BANYAN_ERR_UNSUPPORTED,
            "reproducible is set and device is \"%s\": it has no fixed-point sums "
            "of block_tokens %d, key_dim %d and value_dim %d%s, expected device cpu%s",
            s->device, (int)shape->block_tokens, (int)shape->key_dim, (int)shape->value_dim,
            shape->value_in_key ? " in the key" : "",
            device->is_exact ? ", or blocks of 64 tokens or more and values that are "
                               "no part of their keys"
                             : "");
    }
    if (s->max_tokens > most)
        return banyan_fail(
            BANYAN_ERR_CONFIG,
            "max_tokens is %lld: expected at most %lld with reproducible on device "
            "\"%s\"",
            (long long)s->max_tokens, (long long)most, s->device);
    return BANYAN_OK;
}

banyan_status banyan_plan_kernel(banyan_plan *plan)
{
    const char *device = plan->spec.device;
    const int is_cpu = strcmp(device, "cpu") == 0;
    const int anywhere = !is_cpu && is_imaginary(plan);
    char why[512];
    if (!anywhere) {
        const banyan_status status = check_device(device);
        if (status) return status;
    }
    for (int32_t k = 0; !is_cpu && k < plan->kinds; k++)
        if (!is_supported(device, &plan->kind[k].shape.block))
            return refuse_shape(device, &plan->kind[k].shape.block);
    plan->kernel = find_kernel(plan, anywhere, plan->spec.kernel, why, sizeof why);
    if (!plan->kernel) return banyan_fail(BANYAN_ERR_CONFIG, "%s", why);
    return is_cpu || !plan->spec.reproducible ? BANYAN_OK : check_exact(plan);
}

/* Kernels are listed slowest first: all ranks take the slowest that any of them chose. */
banyan_status banyan_plan_agree_on_kernel(banyan_plan *plan)
{
    double slowness = 0;
    for (int i = 0; banyan_kernel_row(i) != plan->kernel; i++) slowness -= 1;
    banyan_status status = banyan_comm_allreduce(plan->comm, &slowness, 1, BANYAN_MAX);
    if (status) return status;
    char why[512];
    const banyan_kernel *common = banyan_kernel_row((int)-slowness);
    plan->kernel = find_kernel(plan, 0, common->name, why, sizeof why);
    return plan->kernel ? BANYAN_OK : banyan_fail(BANYAN_ERR_UNSUPPORTED, "%s", why);
}
