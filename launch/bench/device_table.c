/* SPDX-License-Identifier: Apache-2.0 */
/* The table of `banyan bench --device cuda`: the bound of a row stands before what was
 * measured. A row for which the device has too little memory says so, and the next one
 * follows. */
#include "launch/bench/device.h"
#include "launch/columns.h"

#include <jansson.h>
#include <string.h>

static const column shown[] = {{NULL, "row", -26, false},   {NULL, "kernel", -10, false},
                               {NULL, "", -5, false},       {"ceilings", "GB/s", 5, false},
                               {NULL, "TFLOP/s", 8, false}, {"at least", "MiB read", 9, true},
                               {NULL, "GFLOP", 9, true},    {NULL, "ms", 9, false},
                               {NULL, "by", -6, false},     {"measured", "median ms", 9, false},
                               {NULL, "+-%", 5, false},     {NULL, "GB/s", 7, true},
                               {NULL, "TFLOP/s", 8, true},  {NULL, "fraction", 8, false},
                               {NULL, "bar", 4, false},     {0}};

/* Rows that were measured, so that later ones can be compared with them. */
typedef struct measured {
    device_result row[32];
} measured;

static double memory_bound(const device_result *r)
{
    return r->bytes / r->copy;
}

static double math_bound(const device_result *r)
{
    return r->flops / r->matrix;
}

static double device_bound(const device_result *r)
{
    return memory_bound(r) > math_bound(r) ? memory_bound(r) : math_bound(r);
}

static const char *device_bound_by(const device_result *r)
{
    return memory_bound(r) > math_bound(r) ? "memory" : "math";
}

/* A decode: its time over the other's; a prefill: its rate over the other's. 0: not known. */
static double compare_like(const measured *m, const device_bench_row *row,
                           const device_result *r)
{
    for (int i = 0; row->like && device_bench_rows[i].name; i++) {
        const device_result *other = &m->row[i];
        if (strcmp(device_bench_rows[i].name, row->like) || other->seconds <= 0) continue;
        return is_decode(row) ? r->seconds / other->seconds
                              : r->flops / r->seconds * other->seconds / other->flops;
    }
    return 0;
}

static bool misses(const bench *b, const device_bench_row *row, double like)
{
    if (b->pace.quick || like <= 0) return false;
    return is_decode(row) ? like > row->like_bar : like < row->like_bar;
}

static void print_device_row(const bench *b, const device_bench_row *row,
                             const device_result *r, double like)
{
    const double fraction = device_bound(r) / r->seconds;
    columns line = {shown, b->is_wide, stdout, 0};
    columns_cell(&line, "%s", row->name);
    columns_cell(&line, "%s", r->kernel);
    columns_cell(&line, "%s", r->is_replayed ? "graph" : "");
    columns_number(&line, 0, r->copy * 1e-9);
    columns_number(&line, 1, r->matrix * 1e-12);
    columns_number(&line, 1, r->bytes / (1 << 20));
    columns_number(&line, 2, r->flops * 1e-9);
    columns_number(&line, 4, device_bound(r) * 1e3);
    columns_cell(&line, "%s", device_bound_by(r));
    columns_number(&line, 4, r->seconds * 1e3);
    columns_number(&line, 1, r->spread * 100);
    columns_number(&line, 1, r->bytes / r->seconds * 1e-9);
    columns_number(&line, 1, r->flops / r->seconds * 1e-12);
    columns_number(&line, 2, fraction);
    if (row->bar > 0) columns_number(&line, 2, row->bar);
    columns_end(&line, row->bar > 0 && !b->pace.quick && fraction < row->bar ? " below" : "");
    if (like > 0)
        wrapped(stdout, b->is_wide, BENCH_BELOW,
                "%-26s %.3f of the %s of \"%s\" (at %s %.2f)%s", "", like,
                is_decode(row) ? "time" : "rate", row->like, is_decode(row) ? "most" : "least",
                row->like_bar, misses(b, row, like) ? " missed" : "");
}

static void write(const bench *b, const device_bench_row *row, const device_result *r,
                  double like)
{
    json_t *line = json_pack(
        "{s:s,s:s,s:s,s:b,s:f,s:f,s:f,s:f,s:f,s:s,s:f,s:f,s:i,s:f,s:f,s:f,s:f}", "row",
        row->name, "device", b->j->device->row->name, "kernel", r->kernel, "graph",
        r->is_replayed, "copy_ceiling_gb_s", r->copy * 1e-9, "matrix_ceiling_tflop_s",
        r->matrix * 1e-12, "bytes", r->bytes, "flops", r->flops, "bound_seconds",
        device_bound(r), "bound_by", device_bound_by(r), "median_seconds", r->seconds, "spread",
        r->spread, "repetitions", r->repetitions, "gb_s", r->bytes / r->seconds * 1e-9,
        "tflop_s", r->flops / r->seconds * 1e-12, "fraction", device_bound(r) / r->seconds,
        "bar", row->bar);
    if (like > 0) json_object_set_new(line, "over_like", json_real(like));
    output_line(b->json, line);
}

static int run_device_row(const bench *b, int index, measured *m)
{
    const device_bench_row *row = &device_bench_rows[index];
    device_result *r = &m->row[index];
    banyan_status status = device_measure(b, row, r);
    if (status == BANYAN_ERR_MEMORY) {
        const char *why = b->j->device->why;
        r->seconds = 0;
        wrapped(stdout, b->is_wide, BENCH_BELOW, "%-26s skipped: %s", row->name,
                why[0] ? why : banyan_error_message());
        return EXIT_OK;
    }
    if (status) return job_failed(b->j, status, row->name);
    const double like = compare_like(m, row, r);
    print_device_row(b, row, r, like);
    if (b->json) write(b, row, r, like);
    return EXIT_OK;
}

int device_run(const bench *b, bool (*wanted)(void *arg, const char *name), void *arg)
{
    device *d = b->j->device;
    measured m = {0};
    char text[128];
    bool has_heading = false;
    int code = EXIT_OK;
    d->row->describe(d->own, text, sizeof text);
    wrapped(stdout, b->is_wide, 2,
            "%s: %s. Seconds are the device's; \"graph\": the step is replayed, without the "
            "host's part.",
            d->row->name, text);
    for (int i = 0; !code && device_bench_rows[i].name; i++) {
        if (!wanted(arg, device_bench_rows[i].name)) continue;
        if (!has_heading) columns_heading(&(columns){shown, b->is_wide, stdout, 0});
        has_heading = true;
        code = run_device_row(b, i, &m);
    }
    return code;
}
