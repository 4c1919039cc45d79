/* SPDX-License-Identifier: Apache-2.0 */
/* Which ranks share a node. A machine is a line of text, so that plans can be made and tested
 * for machines that nobody here owns (the idea of hwloc's synthetic topologies):
 *
 *     text  = [ "node:" COUNT ] "rank:" COUNT { "," COUNT }
 *
 * One count of ranks holds for every node; otherwise there is one for each. Ranks are numbered
 * node by node. */
#include "comm/comm.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { most_ranks = 1 << 20 };

/* What a link costs until somebody measures it: orders of magnitude to compare merges with.
 * Inside a node MPI hands messages over in shared memory with two copies: half a microsecond to
 * start and about 16 GB/s with one core (osu_latency and osu_bw of the OSU micro-benchmarks, on
 * one host). Between nodes: a network of 100 Gbit/s = 12.5e9 bytes/s with host memory at both
 * ends, 2 us for a short message. */
static const banyan_link default_inside = {0.5e-6, 1 / 16e9};
static const banyan_link default_between = {2e-6, 1 / 12.5e9};

static banyan_status new_topology(int32_t ranks, banyan_topology *out)
{
    *out =
        (banyan_topology){.ranks = ranks, .inside = default_inside, .between = default_between};
    out->node = malloc((size_t)ranks * sizeof *out->node);
    if (!out->node)
        return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for a topology of %d ranks",
                           (int)ranks);
    return BANYAN_OK;
}

void banyan_topology_free(banyan_topology *topology)
{
    free(topology->node);
    *topology = (banyan_topology){0};
}

/* ---- from text --------------------------------------------------------------------------- */

typedef struct topology_reader {
    const char *text, *at;
} topology_reader;

static banyan_status fail_at(const topology_reader *in, const char *place, const char *expected)
{
    const int column = (int)(place - in->text) + 1;
    if (!*place)
        return banyan_fail(BANYAN_ERR_CONFIG, "topology \"%s\" ends at column %d; expected %s",
                           in->text, column, expected);
    int length = 0; /* quote the word, or the one character that is not of a word */
    while (isalnum((unsigned char)place[length])) length++;
    return banyan_fail(BANYAN_ERR_CONFIG, "topology \"%s\", column %d: \"%.*s\"; expected %s",
                       in->text, column, length ? length : 1, place, expected);
}

static void skip_blanks(topology_reader *in)
{
    while (isspace((unsigned char)*in->at)) in->at++;
}

/* Passes over "word:" when it comes next. */
static int take_word(topology_reader *in, const char *word)
{
    const size_t length = strlen(word);
    if (strncmp(in->at, word, length) || in->at[length] != ':') return 0;
    in->at += length + 1;
    return 1;
}

static banyan_status take_count(topology_reader *in, int32_t *count)
{
    char expected[64];
    snprintf(expected, sizeof expected, "a count of 1..%d", (int)most_ranks);
    const char *place = in->at;
    int64_t value = 0;
    while (isdigit((unsigned char)*in->at) && value <= most_ranks)
        value = value * 10 + (*in->at++ - '0');
    if (value < 1 || value > most_ranks || isalnum((unsigned char)*in->at))
        return fail_at(in, place, expected);
    *count = (int32_t)value;
    return BANYAN_OK;
}

/* One count for all nodes, or one for each, into count [nodes]. */
static banyan_status take_ranks(topology_reader *in, int32_t nodes, int32_t *count)
{
    int32_t given = 0;
    for (;;) {
        const char *place = in->at;
        char expected[64];
        snprintf(expected, sizeof expected, "one count of ranks, or %d", (int)nodes);
        if (given == nodes) return fail_at(in, place - 1, expected);
        const banyan_status status = take_count(in, &count[given]);
        if (status) return status;
        given++;
        if (*in->at == ',') {
            in->at++;
            continue;
        }
        if (given != 1 && given != nodes) return fail_at(in, in->at, expected);
        break;
    }
    for (int32_t n = given; n < nodes; n++) count[n] = count[0];
    return BANYAN_OK;
}

static banyan_status fill_nodes(const topology_reader *in, const int32_t *count, int32_t nodes,
                                banyan_topology *out)
{
    int64_t ranks = 0;
    for (int32_t n = 0; n < nodes; n++) ranks += count[n];
    if (ranks > most_ranks)
        return banyan_fail(BANYAN_ERR_CONFIG, "topology \"%s\" has %lld ranks; at most %d",
                           in->text, (long long)ranks, (int)most_ranks);
    const banyan_status status = new_topology((int32_t)ranks, out);
    if (status) return status;
    int32_t rank = 0;
    for (int32_t n = 0; n < nodes; n++)
        for (int32_t i = 0; i < count[n]; i++) out->node[rank++] = n;
    out->nodes = nodes;
    return BANYAN_OK;
}

banyan_status banyan_topology_parse(const char *text, banyan_topology *out)
{
    if (!text) return banyan_fail(BANYAN_ERR_ARGUMENT, "topology text is NULL");
    topology_reader in = {text, text};
    int32_t nodes = 1;
    skip_blanks(&in);
    const int has_nodes = take_word(&in, "node");
    banyan_status status = has_nodes ? take_count(&in, &nodes) : BANYAN_OK;
    if (status) return status;
    const char *after = in.at;
    skip_blanks(&in);
    if ((has_nodes && *in.at && in.at == after) || !take_word(&in, "rank"))
        return fail_at(&in, in.at, has_nodes ? "rank:COUNT" : "node:COUNT or rank:COUNT");
    int32_t *count = malloc((size_t)nodes * sizeof *count);
    if (!count) return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for %d nodes", (int)nodes);
    status = take_ranks(&in, nodes, count);
    if (!status) {
        skip_blanks(&in);
        if (*in.at) status = fail_at(&in, in.at, "the end");
    }
    banyan_topology made = {0};
    if (!status) status = fill_nodes(&in, count, nodes, &made);
    if (!status) *out = made;
    free(count);
    return status;
}

/* ---- from the job ------------------------------------------------------------------------ */

typedef struct placed {
    int32_t node, rank;
} placed;

static int compare_placed(const void *a, const void *b)
{
    const placed *x = a, *y = b;
    if (x->node != y->node) return x->node < y->node ? -1 : 1;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

banyan_status banyan_topology_make(const int32_t *node_of_rank, int32_t ranks,
                                   banyan_topology *out)
{
    if (ranks < 1 || !node_of_rank)
        return banyan_fail(BANYAN_ERR_ARGUMENT, "a topology of %d ranks; expected 1 or more",
                           (int)ranks);
    banyan_topology made;
    const banyan_status status = new_topology(ranks, &made);
    if (status) return status;
    placed *sorted = malloc((size_t)ranks * sizeof *sorted);
    if (!sorted) {
        banyan_topology_free(&made);
        return banyan_fail(BANYAN_ERR_MEMORY, "out of memory for a topology of %d ranks",
                           (int)ranks);
    }
    for (int32_t r = 0; r < ranks; r++) sorted[r] = (placed){node_of_rank[r], r};
    qsort(sorted, (size_t)ranks, sizeof *sorted, compare_placed);
    /* First every rank's lowest rank on its node, then that rank's number in order of meeting:
     * a lowest rank is met before the others of its node. */
    for (int32_t i = 0, first = 0; i < ranks; i++) {
        if (sorted[i].node != sorted[first].node) first = i;
        made.node[sorted[i].rank] = sorted[first].rank;
    }
    for (int32_t r = 0; r < ranks; r++)
        made.node[r] = made.node[r] == r ? made.nodes++ : made.node[made.node[r]];
    free(sorted);
    *out = made;
    return BANYAN_OK;
}

/* ---- to text ----------------------------------------------------------------------------- */

static int32_t count_node(const banyan_topology *topology, int32_t node)
{
    int32_t count = 0;
    for (int32_t r = 0; r < topology->ranks; r++) count += topology->node[r] == node;
    return count;
}

void banyan_topology_print(const banyan_topology *topology, char *text, size_t bytes)
{
    if (!bytes) return;
    size_t used = 0;
    int is_even = topology->ranks % topology->nodes == 0;
    const int32_t each = topology->ranks / topology->nodes;
    for (int32_t n = 0; n < topology->nodes && is_even; n++)
        is_even = count_node(topology, n) == each;
    if (topology->nodes > 1)
        used += (size_t)snprintf(text, bytes, "node:%d ", (int)topology->nodes);
    for (int32_t n = 0; n < (is_even ? 1 : topology->nodes) && used < bytes; n++)
        used += (size_t)snprintf(text + used, bytes - used, "%s%d",
                                 n ? "," : "rank:", (int)count_node(topology, n));
}
