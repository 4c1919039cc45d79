/* SPDX-License-Identifier: Apache-2.0 */
/* The table of kernels, and the choice of one: by name, by the environment, or the last row (they
 * are sorted by speed) that this processor can run and that supports the shape. */
#include "attention/attention.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* BUILT(BANYAN_HAS_X86, yes, no) is `yes` when the macro is defined as 1: then the paste below makes
 * BUILT_COMMA_1, whose comma moves `yes` to the second place. */
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
        __attribute__((unused)) = {.name = #row, .doc = text, .usable = never};
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

enum { ROWS = sizeof(table) / sizeof(table[0]) };

static const banyan_kernel *refuse(char *why, size_t why_bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static const banyan_kernel *refuse(char *why, size_t why_bytes, const char *format, ...)
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

static const banyan_kernel *named(const char *name, const char *source,
                                  const banyan_block_shape *shape, char *why, size_t why_bytes)
{
    const banyan_kernel *kernel = NULL;
    for (int i = 0; i < ROWS; i++)
        if (strcmp(names[i], name) == 0) kernel = table[i];

    if (!kernel) {
        const char *near = banyan_nearest(name, names);
        return refuse(why, why_bytes, "%s: unknown kernel \"%s\"%s%s%s (see \"banyan list\")",
                      source, name, near ? ", did you mean \"" : "", near ? near : "",
                      near ? "\"?" : "");
    }
    if (!kernel->attend)
        return refuse(why, why_bytes, "%s: kernel \"%s\" is not in this build", source, name);
    if (!kernel->usable())
        return refuse(why, why_bytes, "%s: kernel \"%s\" (%s) cannot run on this processor",
                      source, name, kernel->doc);
    if (shape && !kernel->supports(shape))
        return refuse(why, why_bytes,
                      "%s: kernel \"%s\" does not support %s blocks of %d tokens with key_dim "
                      "%d and value_dim %d",
                      source, name, banyan_dtype_name(shape->dtype), shape->block_tokens,
                      shape->key_dim, shape->value_dim);
    return kernel;
}

const banyan_kernel *banyan_kernel_find(const char *name, const banyan_block_shape *shape,
                                        char *why, size_t why_bytes)
{
    const char *forced = name ? NULL : getenv("BANYAN_KERNEL");

    if (name) return named(name, "kernel", shape, why, why_bytes);
    if (forced && *forced) return named(forced, "BANYAN_KERNEL", shape, why, why_bytes);
    for (int i = ROWS - 1; i >= 0; i--)
        if (table[i]->usable() && (!shape || table[i]->supports(shape))) return table[i];
    return refuse(why, why_bytes, "no kernel of this build can run on this processor");
}
