/* SPDX-License-Identifier: Apache-2.0 */
/* A machine in words. What was understood is printed, and means the same when it is read
 * again. */
#include "comm/comm.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char printed[1 << 16];
    char *text = fuzz_text(data, size);
    banyan_topology a, b;
    if (banyan_topology_parse(text, &a)) {
        FUZZ_CHECK(*banyan_error_message());
    } else if (a.nodes < 4096 && a.ranks < 4096) { /* printing counts each node's ranks anew */
        banyan_topology_print(&a, printed, sizeof printed);
        if (strlen(printed) < sizeof printed - 1) {
            FUZZ_CHECK(!banyan_topology_parse(printed, &b));
            FUZZ_CHECK(a.ranks == b.ranks && a.nodes == b.nodes);
            FUZZ_CHECK(!memcmp(a.node, b.node, (size_t)a.ranks * sizeof *a.node));
            banyan_topology_free(&b);
        }
        banyan_topology_free(&a);
    } else {
        banyan_topology_free(&a);
    }
    free(text);
    return 0;
}
