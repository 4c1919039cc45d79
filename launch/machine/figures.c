/* SPDX-License-Identifier: Apache-2.0 */
/* The machine's figures as they are kept: read from a file, written to one, told to people. The
 * file is a config with nothing but `machine` in it. */
#include "launch/machine/machine.h"

#include "launch/command.h"

#include <stdlib.h>
#include <string.h>

int machine_read(const job *j, const char *path)
{
    Banyan__Config *file = NULL;
    int code = config_load(j, path, &file);
    if (code) return code;
    if (!file->machine) {
        say_error(j,
                  "\"%s\" holds no machine { .. }; expected what \"banyan scale --measure "
                  "--machine FILE\" writes",
                  path);
        code = EXIT_USAGE;
    } else {
        Banyan__Machine *old = j->config->machine;
        j->config->machine = file->machine;
        file->machine = old;
    }
    banyan__config__free_unpacked(file, NULL);
    return code;
}

static void write_list(FILE *out, const char *name, const double *list, size_t count)
{
    for (size_t i = 0; i < count; i++) fprintf(out, "    %s: %.9g\n", name, list[i]);
}

static void write_measured(FILE *out, const Banyan__Measured *k)
{
    const ProtobufCEnumValue *dtype =
        protobuf_c_enum_descriptor_get_value(&banyan__dtype__descriptor, k->dtype);
    fprintf(out, "  measured {\n    kernel: \"%s\"\n    dtype: %s\n    group: %d\n", k->kernel,
            dtype->name, k->group);
    fprintf(out, "    key_dim: %d\n    value_dim: %d\n%s", k->key_dim, k->value_dim,
            k->value_in_key ? "    value_in_key: true\n" : "");
    write_list(out, "bytes", k->bytes, k->n_bytes);
    write_list(out, "seconds", k->seconds, k->n_seconds);
    write_list(out, "seconds_together", k->seconds_together, k->n_seconds_together);
    fprintf(out, "    pair: %.9g\n    pair_together: %.9g\n    append: %.9g\n  }\n", k->pair,
            k->pair_together, k->append);
}

int machine_write(const job *j, const char *path)
{
    const Banyan__Machine *m = j->config->machine;
    output_file *file = output_open(j, path);
    if (!file) return EXIT_FAILED;
    FILE *out = output_stream(file);
    fputs("# Figures of a machine, measured by \"banyan scale --measure\".\nmachine {\n", out);
    if (m->has_inside_alpha)
        fprintf(out, "  inside_alpha: %.9g\n  inside_beta: %.9g\n  inside_bulk: %.9g\n",
                m->inside_alpha, m->inside_beta, m->inside_bulk);
    if (m->has_between_alpha)
        fprintf(out, "  between_alpha: %.9g\n  between_beta: %.9g\n  between_bulk: %.9g\n",
                m->between_alpha, m->between_beta, m->between_bulk);
    fprintf(out, "  threads: %d\n  read: %.9g\n  read_together: %.9g\n  together: %d\n",
            m->threads, m->read, m->read_together, m->together);
    if (m->measured) write_measured(out, m->measured);
    fputs("}\n", out);
    return output_close(file, j, true);
}

banyan_status machine_links(const Banyan__Machine *m, banyan_comm *comm)
{
    if (!m) return BANYAN_OK;
    const banyan_link inside = {m->inside_alpha, m->inside_beta},
                      between = {m->between_alpha, m->between_beta};
    return banyan_comm_links(comm, m->has_inside_alpha ? &inside : NULL,
                             m->has_between_alpha ? &between : NULL);
}

static void print_link(FILE *out, const char *where, bool known, double alpha, double beta)
{
    if (known)
        fprintf(out, "%s %.3g us a message and %.3g GB/s; ", where, 1e6 * alpha,
                beta > 0 ? 1e-9 / beta : 0);
}

void machine_print(const Banyan__Machine *m, FILE *out)
{
    fprintf(out, "machine: ");
    print_link(out, "inside a node", m->has_inside_alpha, m->inside_alpha, m->inside_beta);
    print_link(out, "between nodes", m->has_between_alpha, m->between_alpha, m->between_beta);
    fprintf(out, "a rank (%d %s) reads %.3g GB/s alone", m->threads,
            m->threads == 1 ? "thread" : "threads", 1e-9 * m->read);
    if (m->together > 1)
        fprintf(out, ", %.3g GB/s beside %d others", 1e-9 * m->read_together, m->together - 1);
    fputc('\n', out);
}
