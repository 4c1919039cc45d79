/* SPDX-License-Identifier: Apache-2.0 */
/* --set, a FIELD=VALUE a line, all on one config; the config that comes of it can be packed. */
#include "launch/command.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_text(data, size), *rest = text;
    Banyan__Config *c = banyan__config__unpack(NULL, 0, NULL);
    FUZZ_CHECK(c);
    for (char *line; (line = fuzz_line(&rest));) {
        char why[512] = "";
        char *value = strchr(line, '=');
        if (!value) continue;
        *value++ = 0;
        FUZZ_CHECK(config_set(c, line, value, why, sizeof why) || *why);
    }
    uint8_t *wire = malloc(banyan__config__get_packed_size(c) + 1);
    FUZZ_CHECK(wire);
    const size_t bytes = banyan__config__pack(c, wire);
    Banyan__Config *again = banyan__config__unpack(NULL, bytes, wire);
    FUZZ_CHECK(again);
    banyan__config__free_unpacked(again, NULL);
    banyan__config__free_unpacked(c, NULL);
    free(wire);
    free(text);
    return 0;
}
