/* SPDX-License-Identifier: Apache-2.0 */
/* What a message begins with: anything but the expected bytes is a fault, in words. */
#include "comm/exchange.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const name[BANYAN_MARKS] = {"merge", "layer", NULL};
    message_header mine = {.magic = header_magic,
                           .version = header_version,
                           .plan = 0x123456789abcdef,
                           .item_bytes = 136,
                           .mark = {7, 3, 1000},
                           .round = 2,
                           .items = 5,
                           .dtype = BANYAN_F32};
    message_header theirs = mine;
    _Static_assert(sizeof mine == BANYAN_HEADER_BYTES, "a header");
    memcpy(&theirs, data, size < sizeof theirs ? size : sizeof theirs);
    const banyan_status status = banyan_header_compare(1, 2, &theirs, &mine, name);
    mine.checksum = theirs.checksum; /* which the items are compared with */
    FUZZ_CHECK(!status == !memcmp(&theirs, &mine, sizeof mine));
    FUZZ_CHECK(!status || strstr(banyan_error_message(), "rank 2 sends"));
    return 0;
}
