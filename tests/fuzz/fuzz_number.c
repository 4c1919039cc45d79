/* SPDX-License-Identifier: Apache-2.0 */
/* Integers with suffixes, beside a reader written apart: the same are taken, with the same
 * values. */
#include "launch/command.h"
#include "tests/fuzz/fuzz.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

__extension__ typedef __int128 wide;

/* [-]DIGITS[kmg]; *out: within 128 bits. */
static bool read_wide(const char *text, wide *out)
{
    const bool minus = *text == '-';
    wide n = 0;
    const char *digit = text + minus;
    if (*digit < '0' || *digit > '9') return false;
    for (; *digit >= '0' && *digit <= '9'; digit++)
        if (n < (wide)1 << 70) n = n * 10 + (*digit - '0');
    const char *suffixes = "kKmMgG", *suffix = *digit ? strchr(suffixes, *digit) : NULL;
    if (suffix) n <<= 10 * ((suffix - suffixes) / 2 + 1);
    if (digit[suffix != NULL]) return false;
    *out = minus ? -n : n;
    return true;
}

static void compare(Banyan__Config *c, const char *field, const char *text, wide low, wide high,
                    int64_t (*get)(const Banyan__Config *c))
{
    char why[512] = "";
    wide value = 0;
    const bool want = read_wide(text, &value) && value >= low && value <= high;
    const bool got = config_set(c, field, text, why, sizeof why);
    FUZZ_CHECK(want == got);
    FUZZ_CHECK(!got || get(c) == (int64_t)value);
}

static int64_t max_tokens(const Banyan__Config *c)
{
    return c->cache->max_tokens;
}

static int64_t lost_rank(const Banyan__Config *c)
{
    return c->execution->lost_rank;
}

static int64_t seed(const Banyan__Config *c)
{
    return (int64_t)c->run->seed;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_text(data, size), *rest = text;
    Banyan__Config *c = banyan__config__unpack(NULL, 0, NULL);
    FUZZ_CHECK(c);
    for (char *line; (line = fuzz_line(&rest));) {
        compare(c, "cache.max_tokens", line, INT64_MIN, INT64_MAX, max_tokens);
        compare(c, "execution.lost_rank", line, INT32_MIN, INT32_MAX, lost_rank);
        compare(c, "run.seed", line, 0, UINT64_MAX, seed);
    }
    banyan__config__free_unpacked(c, NULL);
    free(text);
    return 0;
}
