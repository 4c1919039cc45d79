/* SPDX-License-Identifier: Apache-2.0 */
/* Which cases there are: for each context length, each number of ranks, each method.
 *
 *     strong, nodes   S = tokens                  the whole is fixed
 *     weak            S = tokens x P              tokens of a rank are fixed: its memory, and,
 *                                                 when decoding, its work
 *     weak-work       S = tokens x sqrt(P)        S^2 / P is fixed: its work in a dense prefill
 *
 * A case of n ranks takes the first n of the job; in a node sweep, the first ranks of each of
 * the first nodes. Rank 0 is in every case. */
#include "launch/scale/scale.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct sweep {
    int32_t count[64]; /* ranks, or nodes */
    int32_t counts;
    int32_t per_node; /* 0: counts are ranks */
} sweep;

static void add_powers(sweep *s, int32_t most)
{
    for (int32_t n = 1; n < most && s->counts < 62; n *= 2) s->count[s->counts++] = n;
    s->count[s->counts++] = most;
}

static int add_list(const job *j, sweep *s, const char *name, const int32_t *list, size_t count,
                    int32_t most, const char *of)
{
    for (size_t i = 0; i < count && i < 64; i++) {
        if (list[i] < 1 || list[i] > most) {
            say_error(j, "scale.%s %d: expected 1..%d, the %s of this job", name, list[i], most,
                      of);
            return EXIT_USAGE;
        }
        s->count[s->counts++] = list[i];
    }
    return EXIT_OK;
}

/* The least number of ranks that a node has. */
static int32_t least_per_node(const scale_task *t, int32_t nodes)
{
    int32_t least = INT32_MAX;
    for (int32_t n = 0; n < nodes; n++) {
        int32_t ranks = 0;
        for (int r = 0; r < t->j->ranks; r++) ranks += t->all[r].node == n;
        least = ranks < least ? ranks : least;
    }
    return least;
}

static int choose_ranks(const scale_task *t, sweep *s)
{
    const job *j = t->j;
    const Banyan__Scale *asked = j->config->scale;
    const int32_t nodes = banyan_comm_nodes(j->comm);
    if (t->mode != SCALE_NODES && !(asked && asked->n_nodes)) {
        if (asked && asked->n_ranks)
            return add_list(j, s, "ranks", asked->ranks, asked->n_ranks, j->ranks, "ranks");
        add_powers(s, j->ranks);
        return EXIT_OK;
    }
    if (asked && asked->n_ranks) {
        say_error(j,
                  "scale.ranks and a node sweep (scale.nodes, mode nodes): give one of them");
        return EXIT_USAGE;
    }
    const int32_t most = least_per_node(t, nodes);
    s->per_node = asked && asked->has_per_node ? asked->per_node : most;
    if (s->per_node < 1 || s->per_node > most) {
        say_error(j, "scale.per_node %d: expected 1..%d, the ranks of the smallest node",
                  s->per_node, most);
        return EXIT_USAGE;
    }
    if (asked && asked->n_nodes)
        return add_list(j, s, "nodes", asked->nodes, asked->n_nodes, nodes, "nodes");
    add_powers(s, nodes);
    return EXIT_OK;
}

static int64_t tokens_of(scale_mode mode, int64_t base, int32_t ranks)
{
    if (mode == SCALE_WEAK) return base * ranks;
    if (mode == SCALE_WEAK_WORK) return llround((double)base * sqrt(ranks));
    return base;
}

bool scale_takes_part(const scale_task *t, const scale_line *line, int rank)
{
    if (!line->per_node) return rank < line->ranks;
    if (t->all[rank].node >= line->nodes) return false;
    int32_t before = 0;
    for (int r = 0; r < rank; r++) before += t->all[r].node == t->all[rank].node;
    return before < line->per_node;
}

/* Threads on the fullest machine of a case: more than its cores is oversubscribed. */
static void find_fullest(const scale_task *t, scale_line *line)
{
    for (int r = 0; r < t->j->ranks; r++) {
        int32_t busy = 0;
        for (int i = 0; i < t->j->ranks; i++)
            if (t->all[i].machine == t->all[r].machine && scale_takes_part(t, line, i))
                busy += t->asked.spec.threads;
        if ((int64_t)busy * line->cores <= (int64_t)line->busy * t->all[r].cores) continue;
        line->busy = busy;
        line->cores = t->all[r].cores;
    }
}

static scale_line make_line(const scale_task *t, const sweep *s, int32_t count, int64_t base,
                            const scale_method *method)
{
    scale_line line = {.method = method, .per_node = s->per_node, .base = base, .cores = 1};
    line.ranks = s->per_node ? count * s->per_node : count;
    line.nodes = count;
    if (!s->per_node) {
        line.nodes = 0;
        for (int r = 0; r < count; r++)
            if (t->all[r].node >= line.nodes) line.nodes = t->all[r].node + 1;
    }
    line.tokens = tokens_of(t->mode, base, line.ranks);
    line.threads = t->asked.spec.threads;
    find_fullest(t, &line);
    return line;
}

/* Methods that rotate whole shards cannot leave out what a pattern does not read. */
static bool asks_dense(const scale_task *t)
{
    for (int32_t i = 0; i < t->asked.spec.rule_count; i++)
        if (strcmp(t->asked.spec.rules[i].use, "dense")) return false;
    return true;
}

static int choose_methods(const scale_task *t, const scale_method **out, int32_t *count)
{
    const Banyan__Scale *asked = t->j->config->scale;
    static char *const usual[] = {"line", "spread", "dcp", "tree-attention", "ring"};
    char *const *name = asked && asked->n_method ? asked->method : usual;
    size_t names = asked && asked->n_method ? asked->n_method : 5;
    for (size_t i = 0; i < names && *count < 16; i++) {
        const scale_method *m = scale_method_find(t->j, name[i]);
        if (!m) return EXIT_USAGE;
        bool is_usual = name == usual;
        if (m->dense_only && !asks_dense(t)) {
            if (is_usual) continue;
            say_error(t->j, "method \"%s\" rotates dense heads only; rule[%d] reads \"%s\"",
                      m->name, 0, t->asked.spec.rules[0].use);
            return EXIT_USAGE;
        }
        if (t->prefill && m->prefills_on_cpu && t->j->device->row->memory->is_apart) {
            if (is_usual) continue;
            say_error(t->j, "method \"%s\" prefills on the cpu only; device is %s", m->name,
                      t->j->device->row->name);
            return EXIT_USAGE;
        }
        if (t->prefill && !m->prefill) {
            say_error(t->j, "method \"%s\" decodes only; expected another one for a prefill",
                      m->name);
            return EXIT_USAGE;
        }
        out[(*count)++] = m;
    }
    return EXIT_OK;
}

int scale_cases(scale_task *t)
{
    const job *j = t->j;
    const Banyan__Scale *asked = j->config->scale;
    const int64_t usual = 65536, *tokens = asked && asked->n_tokens ? asked->tokens : &usual;
    const size_t lengths = asked && asked->n_tokens ? asked->n_tokens : 1;
    sweep s = {.counts = 0};
    const scale_method *method[16];
    int32_t methods = 0;
    int code = choose_ranks(t, &s);
    if (!code) code = choose_methods(t, method, &methods);
    for (size_t i = 0; !code && i < lengths; i++) {
        if (tokens[i] >= 1 && tokens[i] <= (int64_t)1 << 40) continue;
        say_error(j, "scale.tokens %lld: expected 1..%lld", (long long)tokens[i],
                  (long long)1 << 40);
        code = EXIT_USAGE;
    }
    if (code) return code;
    t->line = calloc(lengths * (size_t)s.counts * (size_t)methods, sizeof *t->line);
    if (!t->line) {
        say_error(j, "out of memory");
        return EXIT_USAGE;
    }
    for (size_t i = 0; i < lengths; i++)
        for (int32_t n = 0; n < s.counts; n++)
            for (int32_t m = 0; m < methods; m++)
                t->line[t->lines++] = make_line(t, &s, s.count[n], tokens[i], method[m]);
    return EXIT_OK;
}
