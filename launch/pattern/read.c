/* SPDX-License-Identifier: Apache-2.0 */
/* A pattern file, whatever kind it is of, and what the readers of all kinds share. */
#include "launch/pattern/pattern.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const pattern_reader *const readers[] = {&pattern_duo, &pattern_razor, &pattern_moa,
                                                &pattern_minference, &pattern_retrieval};
enum { READERS = sizeof readers / sizeof *readers };

/* ---- scores ------------------------------------------------------------------------------ */

/* ---- a file ------------------------------------------------------------------------------ */

/* A folder stands for the file that DuoAttention's have. */
static void find_path(pattern *p, const char *path)
{
    struct stat about;
    const int is_folder = !stat(path, &about) && S_ISDIR(about.st_mode);
    snprintf(p->path, sizeof p->path, "%s%s", path,
             is_folder ? "/full_attention_heads.tsv" : "");
}

static bool open_pattern(pattern *p)
{
    json_error_t error;
    find_path(p, p->wish->path);
    p->text = input_read(p->path, &p->bytes, p->why, p->why_bytes);
    if (!p->text) return false;
    const size_t blank = strspn(p->text, " \t\r\n");
    if (blank == p->bytes) return pattern_fail(p, ": empty; expected a pattern file");
    if (p->text[blank] != '{' && p->text[blank] != '[') return true;
    p->root = json_loadb(p->text, p->bytes, JSON_REJECT_DUPLICATES, &error);
    if (!p->root) return pattern_fail(p, ":%d:%d: %s", error.line, error.column, error.text);
    return true;
}

static bool read_kind(pattern *p)
{
    for (int i = 0; i < READERS; i++)
        if (readers[i]->is_it(p)) return readers[i]->read(p);
    return pattern_fail(p, ": no pattern file that is known: expected \"prefix_matching\", "
                           "\"alphas\", keys \"LAYER-HEAD\", a list of layers, or lines of "
                           "numbers with tabs");
}

static void close_file(pattern *p)
{
    json_decref(p->root);
    free(p->use);
    free(p->text);
}

/* ---- text of a config -------------------------------------------------------------------- */

void pattern_field(const char *name, const char *text, FILE *out)
{
    if (!text) return;
    fprintf(out, " %s: \"", name);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') fputc('\\', out);
        if (*text == '\n')
            fputs("\\n", out);
        else
            fputc(*text, out);
    }
    fputc('"', out);
}

/* ---- rules ------------------------------------------------------------------------------- */

/* Heads first .. last of a file's layer that read alike. */
static int32_t alike_until(pattern *p, int32_t layer, int32_t head)
{
    const char *use = pattern_use(p, layer, head);
    int32_t last = head;
    while (last + 1 < p->heads && !strcmp(pattern_use(p, layer, last + 1), use)) last++;
    return last;
}

static bool is_same_layer(pattern *p, int32_t a, int32_t b)
{
    for (int32_t h = 0; h < p->heads; h++)
        if (strcmp(pattern_use(p, a, h), pattern_use(p, b, h))) return false;
    return true;
}

static void print_range(FILE *out, const char *field, int32_t first, int32_t last)
{
    char text[32];
    if (first == last)
        snprintf(text, sizeof text, "%d", (int)first);
    else
        snprintf(text, sizeof text, "%d-%d", (int)first, (int)last);
    pattern_field(field, text, out);
}

/* A rule for each run of heads that read alike, of as many layers in a row as are the same. */
static void print_head_rules(pattern *p, int32_t group, FILE *out)
{
    for (int32_t layer = 0, last; layer < p->layers; layer = last + 1) {
        last = layer;
        while (last + 1 < p->layers && is_same_layer(p, layer, last + 1)) last++;
        for (int32_t head = 0, end; head < p->heads; head = end + 1) {
            end = alike_until(p, layer, head);
            fputs("rule {", out);
            print_range(out, "layers", layer, last);
            print_range(out, "heads", head * group, end * group + group - 1);
            pattern_field("use", pattern_use(p, layer, head), out);
            fputs(" }\n", out);
        }
    }
}

/* Query heads for each head of the file; the wish's shape is complete then. */
static bool settle_shape(pattern *p, pattern_wish *wish, int32_t *group)
{
    *group = 1;
    if (p->per_kv_head && !wish->heads)
        return pattern_fail(p,
                            ": lists %d KV heads a layer, and rules are of query heads: "
                            "expected how many there are, --heads",
                            (int)p->heads);
    if (p->per_kv_head && wish->heads % p->heads)
        return pattern_fail(p,
                            ": lists %d KV heads a layer; expected a divisor of the %d "
                            "query heads",
                            (int)p->heads, (int)wish->heads);
    if (p->per_kv_head) *group = wish->heads / p->heads;
    wish->layers = p->layers;
    if (p->per_kv_head)
        wish->kv_heads = p->heads;
    else
        wish->heads = p->heads;
    return true;
}

char *pattern_read(pattern_wish *wish, char *note, size_t note_bytes, char *why,
                   size_t why_bytes)
{
    pattern p = {.wish = wish, .why = why, .why_bytes = why_bytes};
    char *text = NULL;
    size_t bytes;
    int32_t group;
    if (wish->rest && strlen(wish->rest) >= PATTERN_USE) {
        snprintf(why, why_bytes, "--rest \"%.40s..\": longer than %d bytes", wish->rest,
                 PATTERN_USE - 1);
        return NULL;
    }
    bool good = open_pattern(&p) && read_kind(&p) && settle_shape(&p, wish, &group);
    FILE *out = good ? open_memstream(&text, &bytes) : NULL;
    if (out) print_head_rules(&p, group, out);
    if (out && fclose(out)) {
        free(text);
        text = NULL;
    }
    if (good && !text) pattern_fail(&p, ": out of memory");
    snprintf(note, note_bytes, "%s", p.note);
    close_file(&p);
    return text;
}
