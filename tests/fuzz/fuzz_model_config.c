/* SPDX-License-Identifier: Apache-2.0 */
/* config.json of a checkpoint. */
#include "launch/model/model.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[1024] = "";
    model_shape shape = {0};
    fuzz_put("config.json", data, size);
    const banyan_status status = model_shape_read(fuzz_folder(), &shape, why, sizeof why);
    FUZZ_CHECK(!status || *why);
    if (status) return 0;
    FUZZ_CHECK(shape.layers > 0 && shape.heads > 0 && shape.kv_heads > 0 && shape.vocab > 0);
    FUZZ_CHECK(shape.heads % shape.kv_heads == 0 && shape.max_positions >= 0);
    return 0;
}
