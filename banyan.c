/* SPDX-License-Identifier: Apache-2.0 */
/* What banyan.h declares and every folder may use, since none of them owns it: words. */
#include "banyan.h"

#include <ctype.h>
#include <string.h>

enum { longest_word = 127 };

const char *banyan_version(void)
{
    return BANYAN_VERSION;
}

const char *banyan_status_name(banyan_status status)
{
    switch (status) {
    case BANYAN_OK: return "ok";
    case BANYAN_ERR_ARGUMENT: return "argument";
    case BANYAN_ERR_CONFIG: return "config";
    case BANYAN_ERR_MEMORY: return "memory";
    case BANYAN_ERR_UNSUPPORTED: return "unsupported";
    case BANYAN_ERR_DEVICE: return "device";
    case BANYAN_ERR_COMM: return "comm";
    case BANYAN_ERR_PEER: return "peer";
    case BANYAN_ERR_FILE: return "file";
    }
    return "unknown";
}

static int min3(int a, int b, int c)
{
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Edits (insert, delete, replace, swap two neighbours) from a to b, whatever the case of
 * letters: the optimal string alignment distance, by rows i-2, i-1 and i of the usual table. */
static int edit_distance(const char *a, const char *b)
{
    int rows[3][longest_word + 1];
    const int m = (int)strlen(a), n = (int)strlen(b);
    for (int j = 0; j <= n; j++) rows[0][j] = j;
    for (int i = 1; i <= m; i++) {
        int *now = rows[i % 3], *before = rows[(i + 2) % 3], *older = rows[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= n; j++) {
            const int ca = tolower((unsigned char)a[i - 1]),
                      cb = tolower((unsigned char)b[j - 1]);
            now[j] = min3(before[j] + 1, now[j - 1] + 1, before[j - 1] + (ca != cb));
            if (i > 1 && j > 1 && ca == tolower((unsigned char)b[j - 2]) &&
                cb == tolower((unsigned char)a[i - 2]) && older[j - 2] + 1 < now[j])
                now[j] = older[j - 2] + 1;
        }
    }
    return rows[m % 3][n];
}

/* Near is: at most a third of the letters wrong (rounded up), or the first three letters or
 * more of a longer name. */
const char *banyan_nearest(const char *word, const char *const *names)
{
    if (!word || !names || !*word || strlen(word) > longest_word) return NULL;
    const char *best = NULL;
    int best_distance = longest_word + 1;
    for (; *names; names++) {
        const size_t length = strlen(word), name_length = strlen(*names);
        if (name_length > longest_word) continue;
        int distance = edit_distance(word, *names);
        const int most = (int)((length > name_length ? length : name_length) + 2) / 3;
        const int is_prefix =
            length >= 3 && length < name_length && !strncmp(word, *names, length);
        if (is_prefix && distance > most) distance = most;
        if (distance <= most && distance < best_distance) {
            best = *names;
            best_distance = distance;
        }
    }
    return best;
}

const char *banyan_dtype_name(banyan_dtype dtype)
{
    switch (dtype) {
    case BANYAN_F32: return "fp32";
    case BANYAN_BF16: return "bf16";
    case BANYAN_F16: return "fp16";
    case BANYAN_E4M3: return "fp8";
    }
    return "unknown";
}

size_t banyan_dtype_bytes(banyan_dtype dtype)
{
    switch (dtype) {
    case BANYAN_F32: return 4;
    case BANYAN_BF16:
    case BANYAN_F16: return 2;
    case BANYAN_E4M3: return 1;
    }
    return 0;
}
