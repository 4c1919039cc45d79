/* SPDX-License-Identifier: Apache-2.0 */
/* From rules to patterns. Each query head of each layer gets the selector of the last rule that
 * matches it, or dense. In a kind of layer, query heads of a group with equal patterns form a
 * class, for which one block list serves, and a KV head keeps what any head of its group will
 * read, in any layer that reads its cache layer. */
#include "dist/plan.h"

#include <stdio.h>
#include <string.h>

static banyan_status parse(const banyan_plan *plan, const banyan_kind *kind, int32_t head,
                           banyan_pattern *out)
{
    const banyan_spec *spec = &plan->spec;
    const char *use = kind->use[head];
    char why[512];
    if (!banyan_pattern_parse(use, head, spec->heads, kind->shape.kv_heads, spec->block_tokens,
                              spec->planned_tokens, out, why, sizeof why))
        return BANYAN_OK;
    return banyan_fail(BANYAN_ERR_CONFIG, "query head %d, \"%s\": %s", (int)head, use, why);
}

/* A KV head of more than 64 query heads is read once for 128 of them, if neighbours read
 * alike. */
static banyan_status set_unit(const banyan_plan *plan, banyan_kind *kind)
{
    banyan_shape *shape = &kind->shape;
    const int is_cpu = strcmp(plan->spec.device, "cpu") == 0;
    shape->unit = is_cpu && shape->group > BANYAN_TILE_HEADS && shape->group % 2 == 0 ? 2 : 1;
    for (int32_t q = 0; q < plan->spec.heads && shape->unit == 2; q += 2) {
        banyan_pattern a, b;
        banyan_status status = parse(plan, kind, q, &a);
        if (!status) status = parse(plan, kind, q + 1, &b);
        if (status) return status;
        if (!banyan_pattern_equal(&a, &b)) shape->unit = 1;
    }
    const int32_t tile = BANYAN_TILE_HEADS * shape->unit;
    shape->subgroups = (shape->group + tile - 1) / tile;
    return BANYAN_OK;
}

/* Is what rows of this own block read more than a selection holds? */
static int is_too_much(const banyan_pattern *pattern, int64_t own, int64_t tokens)
{
    banyan_selection first_row, all_rows;
    banyan_pattern_select(pattern, own * tokens, own * tokens, &first_row);
    banyan_pattern_select(pattern, own * tokens, own * tokens + tokens - 1, &all_rows);
    return first_row.too_many || all_rows.too_many;
}

/* Does what it selects fit in a selection, wherever the row is? Tried at each of the first own
 * blocks, then ever further apart; where it does not, the first such block is looked for from
 * the last one that was tried on. */
static banyan_status check_runs(const banyan_plan *plan, const char *use, int32_t head,
                                const banyan_pattern *pattern)
{
    enum { EACH = 2048 };
    const int64_t tokens = plan->spec.block_tokens;
    const int64_t last = banyan_blocks(plan->spec.max_tokens, (int32_t)tokens) - 1;
    for (int64_t own = 0, tried = -1, next; own <= last; tried = own, own = next) {
        if (is_too_much(pattern, own, tokens)) {
            while (!is_too_much(pattern, ++tried, tokens)) continue;
            return banyan_fail(
                BANYAN_ERR_CONFIG,
                "query head %d, \"%s\": what rows from token %lld on read is more "
                "than %d runs of blocks",
                (int)head, use, (long long)(tried * tokens), BANYAN_MAX_RUNS);
        }
        next = own < EACH ? own + 1 : own + own / 64;
        if (own < last && next > last) next = last;
    }
    return BANYAN_OK;
}

static banyan_status bind_head(banyan_plan *plan, const banyan_kind *kind, int32_t kv_head,
                               banyan_class *scratch)
{
    const int32_t group = kind->shape.group, subgroups = kind->shape.subgroups;
    const int32_t unit = kind->shape.unit, tile = BANYAN_TILE_HEADS * unit;
    banyan_head_plan *head = &kind->head[kv_head];
    head->subgroup_first =
        banyan_plan_alloc(plan, (size_t)subgroups + 1, sizeof *head->subgroup_first);
    if (!head->subgroup_first) return BANYAN_ERR_MEMORY;
    for (int32_t i = 0; i < group; i++) {
        const int32_t q = kv_head * group + i, s = i / tile;
        if (i % tile == 0) head->subgroup_first[s] = head->class_count;
        banyan_pattern pattern;
        const banyan_status status = parse(plan, kind, q, &pattern);
        if (status) return status;

        int32_t c = head->subgroup_first[s];
        while (c < head->class_count && !banyan_pattern_equal(&scratch[c].pattern, &pattern))
            c++;
        if (c == head->class_count) {
            const banyan_status runs = check_runs(plan, kind->use[q], q, &pattern);
            if (runs) return runs;
            scratch[c] = (banyan_class){.pattern = pattern};
            head->class_count++;
        }
        scratch[c].heads |= UINT64_C(1) << i % tile / unit;
    }
    head->subgroup_first[subgroups] = head->class_count;
    head->classes = banyan_plan_alloc(plan, (size_t)head->class_count, sizeof *head->classes);
    if (!head->classes) return BANYAN_ERR_MEMORY;
    memcpy(head->classes, scratch, (size_t)head->class_count * sizeof *scratch);
    return BANYAN_OK;
}

/* The union over the group, and over the kinds that read the same cache layers. */
static void set_retention(const banyan_plan *plan, const banyan_kind *kind, int32_t kv_head)
{
    banyan_retention *sum = &kind->head[kv_head].retention;
    for (int32_t i = 0; i < kind->reader_count; i++) {
        const banyan_head_plan *reader = &plan->kind[kind->reader[i]].head[kv_head];
        for (int32_t c = 0; c < reader->class_count; c++) {
            const banyan_pattern *pattern = &reader->classes[c].pattern;
            banyan_retention keep;
            pattern->selector->keeps(pattern, &keep);
            if (i == 0 && c == 0)
                *sum = keep;
            else
                banyan_retention_union(sum, &keep);
        }
    }
}

/* Sums of what a KV head leaves out are kept once, for all classes and readers. */
static banyan_status set_compensation(banyan_plan *plan, banyan_kind *kind, int32_t kv_head)
{
    const banyan_pattern *found = NULL;
    for (int32_t i = 0; i < kind->reader_count; i++) {
        const banyan_head_plan *reader = &plan->kind[kind->reader[i]].head[kv_head];
        for (int32_t c = 0; c < reader->class_count; c++) {
            const banyan_pattern *pattern = &reader->classes[c].pattern;
            if (!pattern->selector->compensates) continue;
            if (found && !banyan_pattern_equal(found, pattern))
                return banyan_fail(
                    BANYAN_ERR_UNSUPPORTED,
                    "KV head %d of layer %d has query heads of several \"%s\" rules: expected "
                    "one, whose compensation token they share",
                    (int)kv_head, (int)kind->first_layer, pattern->selector->name);
            found = pattern;
        }
    }
    if (found && strcmp(plan->spec.device, "cpu") != 0)
        return banyan_fail(BANYAN_ERR_UNSUPPORTED,
                           "selector \"%s\" and device \"%s\": compensation tokens are made on "
                           "the CPU only, expected device cpu",
                           found->selector->name, plan->spec.device);
    kind->head[kv_head].compensated = found;
    if (found) kind->compensates = 1;
    return BANYAN_OK;
}

/* The first row after `row` from which on some head reads by another law. */
static int64_t next_end(const banyan_kind *kind, int64_t row)
{
    int64_t next = INT64_MAX;
    for (int32_t g = 0; g < kind->shape.kv_heads; g++) {
        const banyan_head_plan *head = &kind->head[g];
        for (int32_t c = 0; c < head->class_count; c++) {
            const banyan_pattern *pattern = &head->classes[c].pattern;
            const banyan_selector *selector = pattern->selector;
            const int64_t end = selector->until ? selector->until(pattern, row) : INT64_MAX;
            if (end < next) next = end;
        }
    }
    return next;
}

static banyan_status set_ends(banyan_plan *plan, banyan_kind *kind)
{
    const int64_t last = plan->spec.max_tokens;
    int32_t count = 0;
    for (int64_t row = next_end(kind, 0); row < last; row = next_end(kind, row)) count++;
    kind->end = banyan_plan_alloc(plan, (size_t)count, sizeof *kind->end);
    if (!kind->end) return BANYAN_ERR_MEMORY;
    for (int64_t row = next_end(kind, 0); row < last; row = next_end(kind, row))
        kind->end[kind->ends++] = row;
    return BANYAN_OK;
}

banyan_status banyan_plan_bind(banyan_plan *plan)
{
    banyan_status status = BANYAN_OK;
    banyan_class *scratch = banyan_plan_alloc(plan, (size_t)plan->spec.heads, sizeof *scratch);
    if (!scratch) return BANYAN_ERR_MEMORY;
    for (int32_t k = 0; !status && k < plan->kinds; k++) {
        banyan_kind *kind = &plan->kind[k];
        const int32_t kv_heads = kind->shape.kv_heads;
        kind->head = banyan_plan_alloc(plan, (size_t)kv_heads, sizeof *kind->head);
        if (!kind->head) return BANYAN_ERR_MEMORY;
        status = set_unit(plan, kind);
        for (int32_t g = 0; !status && g < kv_heads; g++)
            status = bind_head(plan, kind, g, scratch);
        if (!status) status = set_ends(plan, kind);
    }
    for (int32_t k = 0; !status && k < plan->kinds; k++)
        for (int32_t g = 0; g < plan->kind[k].shape.kv_heads && !status; g++) {
            set_retention(plan, &plan->kind[k], g);
            status = set_compensation(plan, &plan->kind[k], g);
        }
    return status;
}

void banyan_kind_layers(const banyan_plan *plan, const banyan_kind *kind, char *text,
                        size_t bytes)
{
    const int32_t k = (int32_t)(kind - plan->kind);
    size_t used = 0;
    text[0] = 0;
    for (int32_t first = 0, last; first < plan->spec.layers; first = last + 1) {
        last = first;
        if (plan->kind_of_layer[first] != k) continue;
        while (last + 1 < plan->spec.layers && plan->kind_of_layer[last + 1] == k) last++;
        char run[32];
        if (last > first)
            snprintf(run, sizeof run, "%s%d-%d", used ? ", " : "", (int)first, (int)last);
        else
            snprintf(run, sizeof run, "%s%d", used ? ", " : "", (int)first);
        if (used + strlen(run) + 5 >= bytes) {
            snprintf(text + used, bytes - used, " ..");
            return;
        }
        used += (size_t)snprintf(text + used, bytes - used, "%s", run);
    }
}
