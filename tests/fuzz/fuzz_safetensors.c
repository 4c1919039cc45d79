/* SPDX-License-Identifier: Apache-2.0 */
/* model.safetensors; or, where the bytes begin with "{", an index that says which tensors lie
 * in part.safetensors, which is a good file. */
#include "launch/model/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void put_part(void)
{
    static const char header[] =
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    unsigned char file[8 + sizeof header - 1 + 4] = {sizeof header - 1};
    memcpy(file + 8, header, sizeof header - 1);
    fuzz_put("part.safetensors", file, sizeof file);
}

static void drop(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", fuzz_folder(), name);
    unlink(path);
}

/* Everything that was accepted can be read. */
static void read_all(const safetensors *s)
{
    float some[64];
    for (int64_t i = 0; i < safetensors_count(s); i++) {
        const tensor *t = safetensors_row(s, i);
        FUZZ_CHECK(t && safetensors_find(s, t->name) == t);
        if (!t->readable) continue;
        const int64_t values = (int64_t)(t->bytes / banyan_dtype_bytes(t->dtype));
        for (int64_t at = 0; at < values; at += 64)
            tensor_read(t, at, values - at < 64 ? values - at : 64, some);
        FUZZ_CHECK(tensor_find_bad(t, 0, values) < values);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[1024] = "";
    const int is_index = size > 0 && data[0] == '{';
    put_part();
    drop(is_index ? "model.safetensors" : "model.safetensors.index.json");
    fuzz_put(is_index ? "model.safetensors.index.json" : "model.safetensors", data, size);
    safetensors *s = safetensors_open(fuzz_folder(), why, sizeof why);
    FUZZ_CHECK(s || *why);
    if (s) read_all(s);
    safetensors_close(s);
    return 0;
}
