/* SPDX-License-Identifier: Apache-2.0 */
/* The table of kernels, and the choice of one for a device: by name, by the environment, or the
 * last row (they are sorted by speed) that can run here and that supports the shape. */
#include "attention/attention.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* BUILT(BANYAN_HAS_X86, yes, no) is `yes` when the macro is defined as 1: then the paste below
 * makes BUILT_COMMA_1, whose comma moves `yes` to the second place. */
#define BANYAN_HAS_ALWAYS 1
#define BUILT_COMMA_1 0,
#define BUILT(has, yes, no) BUILT_PASTE(has, yes, no)
#define BUILT_PASTE(has, yes, no) BUILT_PICK(BUILT_COMMA_##has yes, no, 0)
#define BUILT_PICK(...) BUILT_SECOND(__VA_ARGS__)
#define BUILT_SECOND(first, second, ...) second

#define BANYAN_ROW(name, needs, doc) extern const banyan_kernel banyan_kernel_##name;
#include "attention/kernels.def"
#undef BANYAN_ROW

static int never(void)
{
    return 0;
}

/* Rows that this build leaves out still have a name and a reason. */
#define BANYAN_ROW(row, needs, text)                                                           \
    static const banyan_kernel missing_##row                                                   \
        __attribute__((unused)) = {.name = #row, .usable = never};
#include "attention/kernels.def"
#undef BANYAN_ROW

#define BANYAN_ROW(name, needs, doc)                                                           \
    BUILT(BANYAN_HAS_##needs, &banyan_kernel_##name, &missing_##name),
static const banyan_kernel *const table[] = {
#include "attention/kernels.def"
};
#undef BANYAN_ROW

#define BANYAN_ROW(name, needs, doc) #name,
static const char *const names[] = {
#include "attention/kernels.def"
    NULL};
#undef BANYAN_ROW

#define BANYAN_ROW(name, needs, doc) doc,
static const char *const docs[] = {
#include "attention/kernels.def"
};
#undef BANYAN_ROW

static const char *const cpu = "cpu";

enum { ROWS = sizeof(table) / sizeof(table[0]) };

static const banyan_kernel *refuse_kernel(char *why, size_t why_bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static const banyan_kernel *refuse_kernel(char *why, size_t why_bytes, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (why && why_bytes) vsnprintf(why, why_bytes, format, args);
    va_end(args);
    return NULL;
}

const banyan_kernel *banyan_kernel_row(int index)
{
    return index >= 0 && index < ROWS ? table[index] : NULL;
}

const char *banyan_kernel_device(const banyan_kernel *kernel)
{
    return kernel->device ? kernel->device->name : cpu;
}

void banyan_kernel_restore(const banyan_kernel *kernel, const banyan_block_shape *shape,
                           void *record, int32_t rows, const banyan_plain *in)
{
    if (kernel->restore)
        kernel->restore(shape, record, rows, in);
    else
        kernel->pack(shape, record, 1, 0, rows, in->k, shape->key_dim, in->v, shape->value_dim,
                     shape->dtype);
}

/* One of the wanted ones: of the device, and, where it is to run here, usable. */
typedef struct wanted {
    const char *device;
    int anywhere;
    const banyan_block_shape *shape;
} wanted;

static int has_kernel(const banyan_kernel *kernel)
{
    return kernel->attend || kernel->device;
}

static int fits_wanted(const banyan_kernel *kernel, const wanted *w)
{
    return has_kernel(kernel) && strcmp(banyan_kernel_device(kernel), w->device) == 0 &&
           (w->anywhere || kernel->usable()) && (!w->shape || kernel->supports(w->shape));
}

static const char *doc_of(const banyan_kernel *kernel)
{
    int i = 0;
    while (table[i] != kernel) i++;
    return docs[i];
}

static const char *in_key(const banyan_block_shape *shape)
{
    return shape->value_in_key ? " in the key" : "";
}

static const banyan_kernel *named(const char *name, const char *source, const wanted *w,
                                  char *why, size_t why_bytes)
{
    const banyan_block_shape *shape = w->shape;
    const banyan_kernel *kernel = NULL;
    for (int i = 0; i < ROWS; i++)
        if (strcmp(names[i], name) == 0) kernel = table[i];

    if (!kernel) {
        const char *near = banyan_nearest(name, names);
        return refuse_kernel(
            why, why_bytes, "%s: unknown kernel \"%s\"%s%s%s (see \"banyan list\")", source,
            name, near ? ", did you mean \"" : "", near ? near : "", near ? "\"?" : "");
    }
    if (!has_kernel(kernel))
        return refuse_kernel(why, why_bytes, "%s: kernel \"%s\" is not in this build", source,
                             name);
    if (strcmp(banyan_kernel_device(kernel), w->device) != 0)
        return refuse_kernel(why, why_bytes, "%s: kernel \"%s\" is for device %s, not %s",
                             source, name, banyan_kernel_device(kernel), w->device);
    if (!w->anywhere && !kernel->usable())
        return refuse_kernel(why, why_bytes, "%s: kernel \"%s\" (%s) cannot run on this %s",
                             source, name, doc_of(kernel),
                             kernel->device ? "device" : "processor");
    if (shape && !kernel->supports(shape))
        return refuse_kernel(
            why, why_bytes,
            "%s: kernel \"%s\" does not support %s blocks of %d tokens with key_dim "
            "%d and value_dim %d%s",
            source, name, banyan_dtype_name(shape->dtype), shape->block_tokens, shape->key_dim,
            shape->value_dim, in_key(shape));
    return kernel;
}

const banyan_kernel *banyan_kernel_find(const char *device, int anywhere, const char *name,
                                        const banyan_block_shape *shape, char *why,
                                        size_t why_bytes)
{
    const wanted w = {device ? device : cpu, anywhere, shape};
    const char *forced = name ? NULL : getenv("BANYAN_KERNEL");

    if (name) return named(name, "kernel", &w, why, why_bytes);
    if (forced && *forced) return named(forced, "BANYAN_KERNEL", &w, why, why_bytes);
    for (int i = ROWS - 1; i >= 0; i--)
        if (fits_wanted(table[i], &w)) return table[i];
    if (!shape)
        return refuse_kernel(why, why_bytes,
                             "no kernel of this build can run on this processor");
    return refuse_kernel(
        why, why_bytes,
        "no kernel of device %s supports %s blocks of %d tokens with key_dim %d and "
        "value_dim %d%s",
        w.device, banyan_dtype_name(shape->dtype), shape->block_tokens, shape->key_dim,
        shape->value_dim, in_key(shape));
}
