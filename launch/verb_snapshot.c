/* SPDX-License-Identifier: Apache-2.0 */
/* banyan snapshot: what is in a snapshot, and whether it is whole. */
#include "launch/columns.h"
#include "launch/launch.h"
#include "launch/model/model.h"

#include <inttypes.h>
#include <stdlib.h>

/* What run, generate and needle write down. */
static void print_note(const char *folder)
{
    char why[1024];
    int64_t count = 0;
    uint64_t digest = 0;
    uint32_t *ids = snapshot_ids(folder, 0, &count, &digest, why, sizeof why);
    if (ids) printf("  of model %016" PRIx64 ", after %" PRId64 " token ids\n", digest, count);
    free(ids);
}

static int snapshot_run(job *j)
{
    const char *folder = job_text(j, "folder");
    if (!folder) {
        say_error(j, "snapshot: the folder is needed: banyan snapshot DIR");
        return EXIT_USAGE;
    }
    wrapping w;
    banyan_status status = banyan_snapshot_print(folder, wrapped_begin(&w, stdout));
    wrapped_end(&w, job_switch(j, "wide"), 6);
    if (status) return job_failed(j, status, NULL);
    print_note(folder);
    if (!job_switch(j, "verify")) return EXIT_OK;
    int64_t bytes = 0;
    const double start = now_seconds();
    status = banyan_snapshot_verify(folder, &bytes);
    if (status) return job_failed(j, status, NULL);
    const double seconds = now_seconds() - start;
    printf("  all checksums are right: %.1f MiB of blocks, %.2f GB/s\n",
           (double)bytes / (1 << 20), 1e-9 * (double)bytes / (seconds > 0 ? seconds : 1));
    return EXIT_OK;
}

static const flag flags[] = {{"folder", "DIR", NULL, "the snapshot's folder"},
                             {"verify", NULL, NULL, "read all of it and compare its checksums"},
                             {NULL, NULL, NULL, NULL}};

const verb verb_snapshot = {
    .name = "snapshot",
    .doc = "Prints what is in a snapshot: shape, rules, sequences, ranks. Needs no MPI.",
    .flags = flags,
    .operand = "folder",
    .run = snapshot_run};
