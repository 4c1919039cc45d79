/* SPDX-License-Identifier: Apache-2.0 */
/* A plan, for people. The same plan prints the same text on every rank; plans for many ranks,
 * heads or kinds are summarised. */
#include "dist/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MANY_KINDS = 8, MANY_HEADS = 16, MANY_RANKS = 16, MANY_RULES = 12 };

/* "0.25 GiB", in the unit that suits it. */
static const char *bytes_text(char text[32], int64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    int unit = 0;
    while (unit < 4 && value >= 1024) {
        value /= 1024;
        unit++;
    }
    snprintf(text, 32, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
    return text;
}

static const char *seconds_text(char text[32], double seconds)
{
    if (seconds < 1e-3)
        snprintf(text, 32, "%.1f us", seconds * 1e6);
    else
        snprintf(text, 32, "%.2f ms", seconds * 1e3);
    return text;
}

static void print_asked(const banyan_plan *plan, FILE *out)
{
    const banyan_spec *s = &plan->spec;
    fprintf(out,
            "shape      %d layers, %d query heads on %d KV heads, key_dim %d, value_dim %d, "
            "scale %.5g\n",
            (int)s->layers, (int)s->heads, (int)s->kv_heads, (int)s->key_dim, (int)s->value_dim,
            (double)s->scale);
    fprintf(out, "cache      %lld tokens at most, planned for %lld; blocks of %d tokens, %s\n",
            (long long)s->max_tokens, (long long)s->planned_tokens, (int)s->block_tokens,
            banyan_dtype_name(s->cache_dtype));
    if (s->sequences > 1)
        fprintf(out, "sequences  %d at most, %lld tokens together\n", (int)s->sequences,
                (long long)s->pool_tokens);
    fprintf(out, "calls      %d rows at most, back by %d tokens at most; %s\n",
            (int)s->max_rows, (int)s->rollback_tokens,
            s->evict ? "what nobody will read is evicted" : "nothing is evicted");
    if (s->sinks) fprintf(out, "sinks      a logit of each query head joins its softmax\n");
    if (s->reproducible)
        fprintf(out, "bits       the same for any ranks, placement, merge and threads\n");
    if (s->lost_rank >= 0) fprintf(out, "lost       rank %d, on purpose\n", (int)s->lost_rank);
}

static void print_cluster(const banyan_plan *plan, FILE *out)
{
    const banyan_topology *t = banyan_comm_topology(plan->comm);
    const double *b = plan->spec.bandwidth;
    double least = b[0], most = b[0];
    for (int32_t r = 1; r < plan->ranks; r++) {
        if (b[r] < least) least = b[r];
        if (b[r] > most) most = b[r];
    }
    fprintf(out, "ranks      %d on %d node%s", (int)plan->ranks, (int)t->nodes,
            t->nodes == 1 ? "" : "s");
    if (most > least) fprintf(out, ", bandwidths from %g to %g", least, most);
    fprintf(out, "\nplacement  %s: %s; balanced for %s\n", plan->placement->name,
            banyan_placement_doc(plan->placement),
            plan->spec.balance == BANYAN_BALANCE_DECODE ? "decode" : "prefill");
}

/* The merge that was taken, and what the others would cost. */
static void print_merge(const banyan_plan *plan, FILE *out)
{
    char text[32];
    double seconds;
    fprintf(out, "merge      %s", plan->merge->name);
    if (banyan_plan_merge_seconds(plan, plan->merge, &seconds) == BANYAN_OK)
        fprintf(out, ", %s a row over all layers", seconds_text(text, seconds));
    const char *before = plan->spec.merge ? "; asked for (" : "; the cheapest (";
    for (int i = 0; banyan_merge_row(i); i++) {
        const banyan_merge *other = banyan_merge_row(i);
        if (other == plan->merge || banyan_plan_merge_seconds(plan, other, &seconds)) continue;
        fprintf(out, "%s%s %s", before, other->name, seconds_text(text, seconds));
        before = ", ";
    }
    fprintf(out, "%s\n", before[0] == ',' ? ")" : "");
    fprintf(out, "output     %s\n",
            plan->spec.out == BANYAN_OUT_ALL ? "on every rank"
            : plan->spec.home == BANYAN_HOME_DEALT
                ? "on the head's home: query heads dealt over holders"
                : "on the head's home: the largest holder of its group");
    fprintf(out, "kernel     %s", plan->kernel->name);
    if (plan->kernel->device) fprintf(out, ", on device %s", plan->spec.device);
    fputc('\n', out);
}

/* What sets a kind's layers apart from what was said of all. */
static void print_shape(const banyan_plan *plan, const banyan_kind *kind, FILE *out)
{
    const banyan_spec *s = &plan->spec;
    const banyan_shape *shape = &kind->shape;
    if (shape->kv_heads != s->kv_heads || shape->key_dim != s->key_dim ||
        shape->value_dim != s->value_dim || shape->scale != s->scale ||
        shape->block.value_in_key)
        fprintf(out, "  shape      %d KV heads, key_dim %d, value_dim %d%s, scale %.5g\n",
                (int)shape->kv_heads, (int)shape->key_dim, (int)shape->value_dim,
                shape->block.value_in_key ? " in the key" : "", (double)shape->scale);
    if (kind->kept_layers < kind->layer_count)
        fprintf(out,
                "  reads      what %d of these layers keep, the others what layers before "
                "them keep\n",
                (int)kind->kept_layers);
}

static void print_plan_rules(const banyan_plan *plan, const banyan_kind *kind, FILE *out)
{
    int32_t lines = 0;
    for (int32_t first = 0, last; first < plan->spec.heads; first = last + 1) {
        last = first;
        while (last + 1 < plan->spec.heads && kind->use[last + 1] == kind->use[first]) last++;
        if (++lines > MANY_RULES) {
            fprintf(out, "  query heads %d-%d: ..\n", (int)first, (int)plan->spec.heads - 1);
            return;
        }
        if (last > first)
            fprintf(out, "  query heads %d-%d: %s\n", (int)first, (int)last, kind->use[first]);
        else
            fprintf(out, "  query head %d: %s\n", (int)first, kind->use[first]);
    }
}

/* "rank 3 41 %, rank 4 59 %", or the run of ranks when they are many. */
static void print_holders(const banyan_placed *placed, FILE *out)
{
    const int32_t n = placed->count;
    if (n == 1) {
        fprintf(out, "rank %d\n", (int)placed->holder[0].rank);
    } else if (n > 4) {
        fprintf(out, "%d ranks from %d to %d\n", (int)n, (int)placed->holder[0].rank,
                (int)placed->holder[n - 1].rank);
    } else {
        for (int32_t i = 0; i < n; i++) {
            const uint64_t width = placed->holder[i].cut - banyan_cut_low(placed, i);
            fprintf(out, "%srank %d %.1f %%", i ? ", " : "", (int)placed->holder[i].rank,
                    (double)width / 18446744073709551616.0 * 100);
        }
        fputc('\n', out);
    }
}

static void print_plan_heads(const banyan_plan *plan, const banyan_kind *kind, FILE *out)
{
    fprintf(out, "  KV head      blocks  kept by\n");
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const banyan_head_plan *head = &kind->head[g];
        if (kind->shape.kv_heads > MANY_HEADS && g == MANY_HEADS / 2) {
            g = kind->shape.kv_heads - MANY_HEADS / 2 - 1;
            fprintf(out, "  ..\n");
            continue;
        }
        const banyan_kept_set kept =
            banyan_plan_kept_at(plan, head, plan->spec.planned_tokens, 1);
        fprintf(out, "  %7d  %10lld  ", (int)g,
                (long long)banyan_kept_below(&kept, UINT64_MAX));
        print_holders(&head->placed, out);
    }
}

static void print_kind_balance(const banyan_plan *plan, const banyan_kind *kind,
                               banyan_load *kept, FILE *out)
{
    fprintf(out, "  balance    ");
    for (int i = 1; i <= 256; i *= i == 1 ? 4 : i == 4 ? 4 : 16) {
        const int64_t tokens = (plan->spec.planned_tokens + i - 1) / i;
        memset(kept, 0, (size_t)plan->ranks * sizeof *kept);
        banyan_kind_load(plan, kind, tokens, kept);
        fprintf(out, "%s%.3f at %lld", i == 1 ? "" : ", ", banyan_imbalance(plan, kept),
                (long long)tokens);
    }
    fprintf(out, " tokens (largest over mean)\n");
}

static void print_traffic(const banyan_plan *plan, const banyan_kind *kind, FILE *out)
{
    char a[32], b[32];
    const banyan_spec *s = &plan->spec;
    const banyan_shape *shape = &kind->shape;
    const int64_t extra = banyan_kind_extra_holders(kind);
    banyan_traffic traffic;
    banyan_kind_traffic(plan, kind, 1, -1, &traffic);
    fprintf(out, "  merging    extra holders %lld; a row: %s, messages %lld, rounds %d, %s\n",
            (long long)extra, bytes_text(a, traffic.bytes), (long long)traffic.messages,
            (int)traffic.rounds, seconds_text(b, traffic.seconds));
    if (traffic.between_messages)
        fprintf(out, "             of these between nodes: %s, messages %lld\n",
                bytes_text(a, traffic.between_bytes), (long long)traffic.between_messages);

    /* Per token and extra holder: the group's partials, or the keys and values. */
    const int64_t partials = shape->group * (int64_t)banyan_sum_bytes(plan, shape->value_dim);
    const int64_t keys = (shape->key_dim + (shape->block.value_in_key ? 0 : shape->value_dim)) *
                         (int64_t)banyan_dtype_bytes(s->cache_dtype);
    if (extra && partials > keys)
        fprintf(out,
                "  prefill    %lld rows send %s of partials a layer; moving keys and values "
                "would take %s\n",
                (long long)s->planned_tokens,
                bytes_text(a, extra * partials * s->planned_tokens),
                bytes_text(b, extra * keys * s->planned_tokens));
}

/* Decoded rows that read what another layer chose, and what a choice takes. */
static void print_followers(const banyan_plan *plan, const banyan_kind *kind, FILE *out)
{
    char a[32];
    int32_t choosing = 0;
    banyan_traffic traffic;
    banyan_follow_traffic(plan, kind, 1, -1, &traffic);
    for (int32_t i = 0; i < plan->spec.layers; i++)
        choosing += banyan_kind_remembers(plan, kind, i) > 0;
    fprintf(out,
            "  follows    decoded rows of %d query heads read at most %lld tokens that an "
            "earlier layer chose; layers that choose %d, a row: %s, messages %lld, rounds %d\n",
            (int)kind->followers, (long long)kind->follow_tokens, (int)choosing,
            bytes_text(a, traffic.bytes), (long long)traffic.messages, (int)traffic.rounds);
}

/* What choosing by data takes: what is remembered of a block, and how holders agree. */
static void print_choices(const banyan_plan *plan, const banyan_kind *kind, FILE *out)
{
    char a[32], b[32], c[32];
    if (kind->liners)
        fprintf(
            out,
            "  lines      %d query heads choose columns and diagonals%s, in calls of at least "
            "%d rows; no rounds\n",
            (int)kind->liners, kind->pools ? ", or blocks" : "", (int)kind->line_rows);
    if (kind->followers) print_followers(plan, kind, out);
    if (!kind->pickers) return;
    const int64_t record = (int64_t)plan->kernel->record_bytes(&kind->shape.block);
    banyan_traffic traffic;
    banyan_pick_traffic(plan, kind, 1, -1, &traffic);
    fprintf(
        out,
        "  choices    %d, of at most %lld blocks; summaries take %s a block beside %s; a row: "
        "%s, messages %lld, rounds %d\n",
        (int)kind->pickers, (long long)kind->picks,
        bytes_text(a, (int64_t)kind->shape.record_bytes - record), bytes_text(b, record),
        bytes_text(c, traffic.bytes), (long long)traffic.messages, (int)traffic.rounds);
    const int64_t tokens = plan->spec.planned_tokens, own = tokens / plan->spec.block_tokens;
    int64_t judged = 0, chosen = 0, bytes = 0;
    for (int32_t p = 0; p < kind->pickers; p++) {
        const banyan_choice *choice = &kind->picker[p].choice;
        const int64_t all = own - choice->local - choice->first + 1;
        if (all <= 0) continue;
        judged += all;
        chosen += choice->blocks < all ? choice->blocks : all;
        bytes += all * banyan_summary_bytes(choice->summary, kind->shape.key_dim);
    }
    fprintf(
        out,
        "             the row at %lld tokens reads %s of summaries and chooses%s %lld of %lld "
        "blocks\n",
        (long long)tokens, bytes_text(a, bytes), kind->tallies ? " at most" : "",
        (long long)chosen, (long long)judged);
}

/* Does every query head choose? Then nobody can say what of the far context is read. */
static int all_choose(const banyan_kind *kind)
{
    const int32_t heads = kind->shape.kv_heads * kind->shape.group;
    for (int32_t h = 0; h < heads; h++)
        if (!kind->pickers || kind->picker_of[h] < 0) return 0;
    return 1;
}

static void print_coverage(const banyan_kind *kind, FILE *out)
{
    int32_t stride;
    const int count = banyan_kind_cover(kind, &stride);
    if (all_choose(kind))
        fprintf(out, "  coverage   rows choose by data what they read of the far context\n");
    else if (count == stride)
        fprintf(out, "  coverage   heads together read all of the far context\n");
    else if (count)
        fprintf(out, "  coverage   heads together read %d of %d residues of the far context\n",
                count, (int)stride);
    else
        fprintf(out, "  coverage   windows only: the far context is not read\n");
}

static void print_plan_kind(const banyan_plan *plan, const banyan_kind *kind, banyan_load *kept,
                            FILE *out)
{
    char layers[96];
    banyan_kind_layers(plan, kind, layers, sizeof layers);
    fprintf(out, "\nlayer%s %s\n", kind->layer_count == 1 ? "" : "s", layers);
    print_shape(plan, kind, out);
    print_plan_rules(plan, kind, out);
    if (strcmp(plan->placement->name, "line") == 0 && kind->shape.kv_heads <= MANY_HEADS &&
        plan->ranks <= MANY_RANKS)
        banyan_kind_draw(kind, out);
    print_plan_heads(plan, kind, out);
    print_coverage(kind, out);
    if (kind->kept_layers) print_kind_balance(plan, kind, kept, out);
    print_traffic(plan, kind, out);
    print_choices(plan, kind, out);
}

static void print_rank(const banyan_plan *plan, int rank, FILE *out)
{
    char kept[32], capacity[32], workspace[32], sent[32];
    const banyan_share share =
        banyan_plan_load(plan, rank, plan->spec.sequences, plan->spec.planned_tokens);
    fprintf(out, "  %5d %5d  %10lld %12s %12s %12s %8lld %12s\n", rank,
            (int)banyan_comm_topology(plan->comm)->node[rank], (long long)share.kept_blocks,
            bytes_text(kept, share.kept_bytes), bytes_text(capacity, share.capacity_bytes),
            bytes_text(workspace, share.workspace_bytes), (long long)share.messages,
            bytes_text(sent, share.bytes_sent));
}

/* What the rank that takes most takes, of either memory. */
static void print_plan_device(const banyan_plan *plan, FILE *out)
{
    char device[32], host[32];
    int64_t most_device = 0, most_host = 0;
    if (!plan->kernel->device) return;
    for (int32_t r = 0; r < plan->ranks; r++) {
        const int64_t on_device = banyan_plan_device_bytes(plan, r);
        const int64_t all =
            banyan_plan_capacity_bytes(plan, r) + banyan_plan_workspace(plan, r);
        if (on_device > most_device) most_device = on_device;
        if (all - on_device > most_host) most_host = all - on_device;
    }
    fprintf(out, "  a rank takes at most %s of its device's memory, %s of the host's\n",
            bytes_text(device, most_device), bytes_text(host, most_host));
}

static void print_plan_ranks(const banyan_plan *plan, banyan_load *kept, FILE *out)
{
    fprintf(out, "\nall layers at %lld tokens", (long long)plan->spec.planned_tokens);
    if (plan->spec.sequences > 1) fprintf(out, " of each sequence");
    fprintf(out,
            "\n   rank  node      blocks         kept    set aside    workspace messages   "
            "sent a row\n");
    for (int32_t r = 0; r < plan->ranks; r++) {
        if (plan->ranks > MANY_RANKS && r == MANY_RANKS / 2) {
            r = plan->ranks - MANY_RANKS / 2 - 1;
            fprintf(out, "  ..\n");
            continue;
        }
        print_rank(plan, r, out);
    }
    char text[32], most_text[32];
    banyan_load sum = {0}, most = {0};
    int64_t least = INT64_MAX;
    memset(kept, 0, (size_t)plan->ranks * sizeof *kept);
    for (int32_t k = 0; k < plan->kinds; k++)
        banyan_kind_load(plan, &plan->kind[k], plan->spec.planned_tokens, kept);
    for (int32_t r = 0; r < plan->ranks; r++) {
        sum.blocks += kept[r].blocks;
        sum.bytes += kept[r].bytes;
        if (kept[r].blocks < least) least = kept[r].blocks;
        if (kept[r].blocks > most.blocks) most.blocks = kept[r].blocks;
        if (kept[r].bytes > most.bytes) most.bytes = kept[r].bytes;
    }
    fprintf(out, "  all ranks keep %lld blocks, %s; a rank %lld to %lld, at most %s\n",
            (long long)sum.blocks, bytes_text(text, sum.bytes), (long long)least,
            (long long)most.blocks, bytes_text(most_text, most.bytes));
}

static void print_warnings(const char *line, FILE *out)
{
    if (*line) fputc('\n', out);
    while (*line) {
        const size_t length = strcspn(line, "\n");
        fprintf(out, "warning: %.*s\n", (int)length, line);
        line += length + (line[length] != 0);
    }
}

void banyan_plan_print(const banyan_plan *plan, FILE *out)
{
    banyan_load *kept = plan && out ? calloc((size_t)plan->ranks, sizeof *kept) : NULL;
    if (!kept) return;
    fprintf(out, "plan       %016llx\n", (unsigned long long)plan->hash);
    print_asked(plan, out);
    print_cluster(plan, out);
    print_merge(plan, out);
    for (int32_t k = 0; k < plan->kinds; k++) {
        if (k == MANY_KINDS) {
            fprintf(out, "\n.. and %d more kinds of layers\n", (int)plan->kinds - k);
            break;
        }
        print_plan_kind(plan, &plan->kind[k], kept, out);
    }
    print_plan_ranks(plan, kept, out);
    print_plan_device(plan, out);
    print_warnings(plan->warnings, out);
    free(kept);
}

int64_t banyan_plan_text(const banyan_plan *plan, char *text, size_t bytes)
{
    char *all = NULL;
    size_t length = 0;
    FILE *file = plan ? open_memstream(&all, &length) : NULL;
    if (!file) return -1;
    banyan_plan_print(plan, file);
    if (fclose(file)) return -1;
    if (bytes > 0) {
        const size_t count = length < bytes ? length : bytes - 1;
        memcpy(text, all, count);
        text[count] = 0;
    }
    free(all);
    return (int64_t)length;
}
