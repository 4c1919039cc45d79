/* SPDX-License-Identifier: Apache-2.0 */
/* A results file to resume. Where it is taken, a cell is added, and a third run finds all of
 * it. */
#include "launch/needle/needle.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>

static results *open_here(const char *path, char *why, size_t why_bytes)
{
    results *r = results_open(path, why, why_bytes);
    json_t *header = json_pack("{s:i,s:s}", "ranks", 2, "model", "m");
    FUZZ_CHECK(r && header);
    const banyan_status status = results_begin(r, header, why, why_bytes);
    FUZZ_CHECK(!status || *why);
    json_decref(header);
    if (!status) return r;
    results_close(r);
    return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[256], why[NEEDLE_WHY] = "";
    fuzz_put("results.jsonl", data, size);
    snprintf(path, sizeof path, "%s/results.jsonl", fuzz_folder());
    results *r = open_here(path, why, sizeof why);
    if (!r) return 0;
    const size_t before = json_array_size(results_all(r));
    if (!results_has(r, "fuzzed"))
        FUZZ_CHECK(
            results_add(r, json_pack("{s:s,s:i}", "cell", "fuzzed", "n", 7), why, sizeof why));
    results_close(r);
    r = open_here(path, why, sizeof why);
    FUZZ_CHECK(r && results_has(r, "fuzzed") && results_cut(r) == 0);
    FUZZ_CHECK(json_array_size(results_all(r)) >= before);
    results_close(r);
    return 0;
}
