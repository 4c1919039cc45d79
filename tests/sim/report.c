/* SPDX-License-Identifier: Apache-2.0 */
/* What came out, for people and for programs. Every line says that it is simulated. */
#include "tests/sim/sim.h"

static double token_seconds(const report *r, const outcome *o)
{
    return o->seconds * r->layers;
}

/* The faster of the two ways to run Tree Attention; NULL when neither was run. */
static const outcome *tree_attention(const outcome *all)
{
    const outcome *best = NULL;
    for (int i = 0; sim_methods[i].name; i++)
        if (all[i].method && sim_methods[i].merge && sim_methods[i].merge[0] == 'a' &&
            (!best || all[i].seconds < best->seconds))
            best = &all[i];
    return best;
}

static void write_head(const report *r)
{
    printf("Decode of one row, %d layers, %lld tokens a rank; simulated.\n\n", (int)r->layers,
           (long long)r->tokens_per_rank);
    printf(
        "|           | ranks | nodes | method         | merge     |   layer us | compute us | "
        "imbalance |    comm us | share |   token ms | messages | KiB a rank | predicted | "
        "comm vs Tree | token vs Tree | efficiency |\n"
        "|-----------|------:|------:|----------------|-----------|-----------:|-----------:|"
        "----------:|-----------:|------:|-----------:|---------:|-----------:|----------:|"
        "-------------:|--------------:|-----------:|\n");
}

static void write_row(const report *r, int32_t ranks, const outcome *o, const outcome *tree,
                      double efficiency)
{
    const double comm = sim_comm_seconds(o);
    printf(
        "| simulated | %5d | %5d | %-14s | %-9s | %10.3f | %10.3f | %9.3f | %10.3f | %4.1f%% | "
        "%10.4f | %8.0f | %10.2f |",
        (int)ranks, (int)(ranks + sim_per_node - 1) / sim_per_node, o->method->name, o->merge,
        1e6 * o->seconds, 1e6 * o->compute, o->compute / o->mean_compute, 1e6 * comm,
        100 * comm / o->seconds, 1e3 * token_seconds(r, o), o->most_messages,
        o->most_bytes / 1024);
    if (o->predicted > 0)
        printf(" %9.3f |", 1e6 * o->predicted);
    else
        printf(" %9s |", "");
    if (tree && comm > 0)
        printf(" %11.3gx | %12.3gx |", sim_comm_seconds(tree) / comm,
               tree->seconds / o->seconds);
    else
        printf(" %12s | %13s |", "", "");
    printf(" %8.1f %% |\n", 100 * efficiency);
}

static void write_json(const report *r, int32_t ranks, const outcome *o, const outcome *tree,
                       double efficiency)
{
    const double comm = sim_comm_seconds(o);
    fprintf(r->json,
            "{\"simulated\":true,\"phase\":\"decode\",\"scaling\":\"weak\",\"ranks\":%d,"
            "\"nodes\":%d,\"tokens\":%lld,\"tokens_per_rank\":%lld,\"method\":\"%s\","
            "\"placement\":\"%s\",\"merge\":\"%s\",\"out\":\"%s\",\"layer_seconds\":%.12g,"
            "\"compute_seconds\":%.12g,\"compute_mean_seconds\":%.12g,\"comm_seconds\":%.12g,"
            "\"token_seconds\":%.12g,\"messages\":%.0f,\"bytes\":%.0f,\"messages_most\":%.0f,"
            "\"bytes_most\":%.0f,",
            (int)ranks, (int)(ranks + sim_per_node - 1) / sim_per_node,
            (long long)r->tokens_per_rank * ranks, (long long)r->tokens_per_rank,
            o->method->name, o->method->placement, o->merge,
            o->method->out == BANYAN_OUT_ALL ? "all" : "home", o->seconds, o->compute,
            o->mean_compute, comm, token_seconds(r, o), o->messages, o->bytes, o->most_messages,
            o->most_bytes);
    if (o->predicted > 0) fprintf(r->json, "\"predicted_comm_seconds\":%.12g,", o->predicted);
    if (tree && comm > 0)
        fprintf(r->json, "\"comm_speedup\":%.6g,\"token_speedup\":%.6g,",
                sim_comm_seconds(tree) / comm, tree->seconds / o->seconds);
    fprintf(r->json, "\"efficiency\":%.6g}\n", efficiency);
}

void report_write(report *r, int32_t ranks, const outcome *all)
{
    const outcome *tree = tree_attention(all);
    if (!r->count++) write_head(r);
    for (int i = 0; sim_methods[i].name; i++) {
        if (!all[i].method) continue;
        if (!r->first[i].method) r->first[i] = all[i];
        const double efficiency = r->first[i].seconds / all[i].seconds;
        write_row(r, ranks, &all[i], tree, efficiency);
        if (r->json) write_json(r, ranks, &all[i], tree, efficiency);
    }
    fflush(stdout);
}
