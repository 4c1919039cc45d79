/* SPDX-License-Identifier: Apache-2.0 */
/* banyan-sim: weak scaling of decode on a simulated cluster. Started by `simulate`, see
 * README.md.
 *
 * Llama-3-8B's attention, two dense KV heads and six that read every sixteenth block. For each
 * number of ranks, each method: the plan is made once, by rank 0, for the machine as described;
 * then all ranks start a layer at the same simulated time, and the layer lasts until the last
 * one is through. All layers are alike, so one stands for all. */
#include "tests/sim/sim.h"

#include <smpi/smpi.h>
#include <stdlib.h>
#include <string.h>

enum { sim_layers = 32, most_methods = 16, most_counts = 16 };

typedef struct options {
    sim_machine machine;
    int64_t tokens; /* a rank */
    const char *methods, *json;
    int32_t count[most_counts];
    int counts;
} options;

/* ---- one method on one number of ranks --------------------------------------------------- */

void sim_compute(double seconds)
{
    smpi_execute_flops(seconds * 1e9); /* simulated processors do 1e9 a second */
}

/* All ranks leave it at the same simulated time. */
static double start_together(MPI_Comm mpi)
{
    const double pause = 1e-3, now = MPI_Wtime();
    double latest;
    MPI_Allreduce(&now, &latest, 1, MPI_DOUBLE, MPI_MAX, mpi);
    sim_compute(latest + pause - MPI_Wtime());
    return MPI_Wtime();
}

static banyan_status make_plan(const scene *s, banyan_comm **comm, banyan_plan **plan)
{
    static const banyan_rule rules[] = {{0, -1, 8, -1, "s2 stride=16 local=16"}};
    banyan_spec spec;
    char text[64];
    banyan_spec_init(&spec);
    spec.layers = sim_layers;
    spec.heads = 32;
    spec.kv_heads = 8;
    spec.key_dim = 128;
    spec.rules = rules;
    spec.rule_count = 1;
    spec.max_tokens = s->tokens;
    spec.kernel = "scalar";
    spec.threads = 1;
    spec.memory_limit = INT64_MAX;
    spec.placement = s->method->placement;
    spec.merge = s->method->merge;
    spec.out = s->method->out;
    spec.home = s->method->home;
    if (s->ranks % sim_per_node)
        snprintf(text, sizeof text, "node:%d rank:%d", 1, (int)s->ranks);
    else
        snprintf(text, sizeof text, "node:%d rank:%d", (int)s->ranks / sim_per_node,
                 sim_per_node);
    banyan_status status = banyan_comm_create("imaginary", text, comm);
    if (!status) status = banyan_comm_links(*comm, &s->machine->inside, &s->machine->between);
    return status ? status : banyan_plan_create(&spec, *comm, plan);
}

static double bytes_read(const scene *s)
{
    int64_t blocks = 0;
    for (int32_t g = 0; g < s->plan->spec.kv_heads; g++)
        blocks += banyan_plan_kept(s->plan, &s->plan->kind[0], g, s->rank, s->tokens);
    return (double)blocks * (double)s->plan->kind[0].shape.record_bytes;
}

/* 1 when all ranks can go on; else the first that cannot has said why. */
static int all_well(MPI_Comm mpi, banyan_status status)
{
    int bad = status != BANYAN_OK, any;
    if (bad) fprintf(stderr, "banyan-sim: %s\n", banyan_error_message());
    MPI_Allreduce(&bad, &any, 1, MPI_INT, MPI_MAX, mpi);
    return !any;
}

/* What all ranks saw, put together; 0 when a result is wrong. */
static int gather_outcome(const scene *s, double start, outcome *out)
{
    enum { seconds, compute, messages, bytes, wrong, count };
    const double mine[count] = {MPI_Wtime() - start, s->computed - start, (double)s->messages,
                                (double)s->sent, (double)s->wrong};
    double most[count], sum[count];
    banyan_traffic traffic;
    MPI_Allreduce(mine, most, count, MPI_DOUBLE, MPI_MAX, s->mpi);
    MPI_Allreduce(mine, sum, count, MPI_DOUBLE, MPI_SUM, s->mpi);
    if (sum[wrong] > 0 && s->rank == 0)
        fprintf(stderr, "banyan-sim: %s: %.0f results are wrong\n", s->method->name,
                sum[wrong]);
    const int merges = s->method->layer != ring_layer;
    if (merges && s->rank == 0) banyan_kind_traffic(s->plan, s->plan->kind, 1, -1, &traffic);
    *out = (outcome){.method = s->method,
                     .merge = merges ? s->plan->merge->name : "",
                     .seconds = most[seconds],
                     .compute = most[compute],
                     .mean_compute = sum[compute] / s->ranks,
                     .predicted = merges && s->rank == 0 ? traffic.seconds : 0,
                     .messages = sum[messages],
                     .bytes = sum[bytes],
                     .most_messages = most[messages],
                     .most_bytes = most[bytes]};
    return sum[wrong] == 0;
}

static int run_layer(scene *s, outcome *out)
{
    if (!all_well(s->mpi, s->method->prepare(s))) return 0;
    const double start = start_together(s->mpi);
    const banyan_status status = s->method->layer(s);
    if (!status) return gather_outcome(s, start, out);
    fprintf(stderr, "banyan-sim: %s\n", banyan_error_message());
    MPI_Abort(s->mpi, 1); /* the others wait for what this rank did not send */
    return 0;
}

static void free_scene(scene *s)
{
    banyan_exchange_destroy(s->exchange);
    free(s->item);
    free(s->room);
    for (int i = 0; i < 2; i++)
        if (s->block[i]) SMPI_SHARED_FREE(s->block[i]);
}

/* The plan is rank 0's; all others use it where it lies. */
static int run_method(scene *s, outcome *out)
{
    banyan_comm *machine = NULL;
    banyan_plan *plan = NULL;
    const banyan_status status = s->rank ? BANYAN_OK : make_plan(s, &machine, &plan);
    int is_well = all_well(s->mpi, status);
    uintptr_t address = (uintptr_t)plan;
    MPI_Bcast(&address, sizeof address, MPI_BYTE, 0, s->mpi);
    if (is_well) {
        s->plan = (const banyan_plan *)address;
        s->bytes = bytes_read(s);
        is_well = run_layer(s, out);
        free_scene(s);
    }
    MPI_Barrier(s->mpi);
    banyan_plan_destroy(plan);
    banyan_comm_destroy(machine);
    return is_well;
}

/* ---- the sweep --------------------------------------------------------------------------- */

static int is_listed(const char *list, const char *name)
{
    const size_t length = strlen(name);
    for (const char *at = list; at; at = strchr(at, ','), at += at != NULL)
        if (!strncmp(at, name, length) && (!at[length] || at[length] == ',')) return 1;
    return !list;
}

/* All methods on the first `ranks` ranks. */
static int run_count(const options *o, int32_t ranks, report *r)
{
    outcome all[most_methods] = {{0}};
    MPI_Comm mpi;
    banyan_comm *comm;
    int rank, is_well = 1;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_split(MPI_COMM_WORLD, rank < ranks ? 0 : MPI_UNDEFINED, rank, &mpi);
    if (mpi == MPI_COMM_NULL) return 1;
    if (!all_well(mpi, banyan_comm_create("mpi", &mpi, &comm))) return 0;
    banyan_comm_timeout(comm, 0);
    for (int i = 0; sim_methods[i].name && is_well; i++) {
        if (!is_listed(o->methods, sim_methods[i].name)) continue;
        scene s = {.method = &sim_methods[i],
                   .machine = &o->machine,
                   .mpi = mpi,
                   .comm = comm,
                   .rank = rank,
                   .ranks = ranks,
                   .tokens = o->tokens * ranks};
        is_well = run_method(&s, &all[i]);
    }
    if (is_well && rank == 0) report_write(r, ranks, all);
    banyan_comm_destroy(comm);
    MPI_Comm_free(&mpi);
    return is_well;
}

static int run_counts(const options *o)
{
    outcome first[most_methods] = {{0}};
    report r = {.layers = sim_layers, .tokens_per_rank = o->tokens, .first = first};
    int rank, size, is_well = 1;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (o->json && rank == 0 && !(r.json = fopen(o->json, "w"))) {
        fprintf(stderr, "banyan-sim: cannot write %s\n", o->json);
        return 0;
    }
    for (int i = 0; i < o->counts && is_well; i++) {
        const int mine = o->count[i] <= size && run_count(o, o->count[i], &r);
        MPI_Allreduce(&mine, &is_well, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    }
    if (r.json && fclose(r.json)) is_well = 0;
    return is_well;
}

/* ---- options ----------------------------------------------------------------------------- */

static int read_counts(const char *text, options *o)
{
    while (o->counts < most_counts) {
        char *end;
        const long n = strtol(text, &end, 10);
        if (end == text || n < 1 || (n > sim_per_node && n % sim_per_node)) return 0;
        o->count[o->counts++] = (int32_t)n;
        if (!*end) return 1;
        if (*end != ',') return 0;
        text = end + 1;
    }
    return 0;
}

/* "SECONDS,BYTES/SECOND" */
static int read_link(const char *text, banyan_link *out)
{
    double seconds, rate;
    if (sscanf(text, "%lf,%lf", &seconds, &rate) != 2 || seconds < 0 || rate <= 0) return 0;
    *out = (banyan_link){seconds, 1 / rate};
    return 1;
}

static int read_option(const char *name, const char *value, options *o)
{
    if (!strcmp(name, "--ranks")) return read_counts(value, o);
    if (!strcmp(name, "--inside")) return read_link(value, &o->machine.inside);
    if (!strcmp(name, "--between")) return read_link(value, &o->machine.between);
    if (!strcmp(name, "--memory")) return (o->machine.memory = atof(value)) > 0;
    if (!strcmp(name, "--tokens")) return (o->tokens = atoll(value)) > 0;
    if (!strcmp(name, "--methods")) return (o->methods = value) != NULL;
    if (!strcmp(name, "--json")) return (o->json = value) != NULL;
    return 0;
}

int main(int argc, char **argv)
{
    options o = {.tokens = 262144};
    int is_well = 1, rank;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    for (int i = 1; i < argc && is_well; i += 2)
        is_well = i + 1 < argc && read_option(argv[i], argv[i + 1], &o);
    if (!is_well && rank == 0)
        fprintf(stderr,
                "banyan-sim: expected --ranks N,.. (whole nodes of %d), --tokens N, "
                "--methods NAME,.., --json FILE\n",
                sim_per_node);
    if (is_well) is_well = run_counts(&o);
    MPI_Finalize();
    return is_well ? 0 : 1;
}
