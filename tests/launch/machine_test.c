/* SPDX-License-Identifier: Apache-2.0 */
/* Figures of a machine: what is written is what is read again, for every format of a cache. */
#include "launch/command.h"
#include "launch/machine/machine.h"
#include "tests/test.h"

#include <unistd.h>

enum { POINTS = 3 };
static double bytes[POINTS] = {65536, 1 << 20, 3e9}, seconds[POINTS] = {1e-6, 2.5e-5, 0.125};
static double together[POINTS] = {2e-6, 1.0 / 3, 7};

static void same_list(const char *name, const double *a, const double *b, size_t count)
{
    CHECK_MSG(count == POINTS, "%s: %zu numbers", name, count);
    for (size_t i = 0; i < count && i < POINTS; i++) /* nine digits are written */
        CHECK_MSG(a[i] > b[i] * (1 - 1e-8) && a[i] < b[i] * (1 + 1e-8), "%s: %.12g, not %.12g",
                  name, a[i], b[i]);
}

static void again(const job *j, const char *path, Banyan__Dtype dtype)
{
    Banyan__Measured k = BANYAN__MEASURED__INIT;
    Banyan__Machine m = BANYAN__MACHINE__INIT;
    Banyan__Config written = BANYAN__CONFIG__INIT, *read = NULL;
    k.kernel = (char[]){"hopper"};
    k.dtype = dtype;
    k.group = 4, k.key_dim = 128, k.value_dim = 64;
    k.bytes = bytes, k.seconds = seconds, k.seconds_together = together;
    k.n_bytes = k.n_seconds = k.n_seconds_together = POINTS;
    m.measured = &k;
    m.threads = 3;
    written.machine = &m;
    job writer = *j, reader = *j;
    writer.config = &written;
    CHECK(machine_write(&writer, path) == EXIT_OK);
    CHECK(config_load(&reader, NULL, &read) == EXIT_OK);
    reader.config = read;
    CHECK(machine_read(&reader, path) == EXIT_OK);
    const Banyan__Machine *got = read->machine;
    CHECK(got && got->measured && got->threads == 3);
    if (got && got->measured) {
        const Banyan__Measured *g = got->measured;
        CHECK_MSG(g->dtype == dtype, "format %d was read as %d", (int)dtype, (int)g->dtype);
        CHECK(!strcmp(g->kernel, "hopper") && g->group == 4 && g->key_dim == 128 &&
              g->value_dim == 64);
        same_list("bytes", g->bytes, bytes, g->n_bytes);
        same_list("seconds", g->seconds, seconds, g->n_seconds);
        same_list("seconds_together", g->seconds_together, together, g->n_seconds_together);
    }
    banyan__config__free_unpacked(read, NULL);
}

int main(void)
{
    char path[] = "/tmp/banyan_machine_XXXXXX";
    const int fd = mkstemp(path);
    job j = {.ranks = 1, .device = &device_cpu};
    CHECK(fd >= 0 && close(fd) == 0);
    CHECK(banyan_comm_create("self", NULL, &j.comm) == BANYAN_OK);
    for (unsigned i = 0; i < banyan__dtype__descriptor.n_values; i++)
        again(&j, path, (Banyan__Dtype)banyan__dtype__descriptor.values[i].value);
    banyan_comm_destroy(j.comm);
    CHECK(remove(path) == 0);
    return test_end();
}
