/* SPDX-License-Identifier: Apache-2.0 */
/* A config in text format, to the spec that comes of it. */
#include "launch/command.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char why[1024] = "";
    unsigned char *wire = NULL;
    size_t bytes = 0;
    char *text = fuzz_text(data, size);
    if (!textformat_parse(text, size, &wire, &bytes, why, sizeof why)) {
        FUZZ_CHECK(*why);
        free(text);
        return 0;
    }
    Banyan__Config *c = banyan__config__unpack(NULL, bytes, wire);
    FUZZ_CHECK(c);
    config_spec asked;
    if (!spec_from_config(c, &asked, why, sizeof why))
        spec_free(&asked);
    else
        FUZZ_CHECK(*why);
    banyan__config__free_unpacked(c, NULL);
    free(wire);
    free(text);
    return 0;
}
