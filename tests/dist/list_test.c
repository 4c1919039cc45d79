/* SPDX-License-Identifier: Apache-2.0 */
/* The tables as people see them: every row of every .def, here or with the reason why not, and
 * found by the name that the .def gives it. */
#include "dist/dist.h"
#include "tests/test.h"

static int rows_of(banyan_table table, const char *wanted, int *found)
{
    const char *name, *doc, *why;
    int i = 0, available;
    *found = 0;
    for (; banyan_list(table, i, &name, &doc, &available, &why); i++) {
        CHECK_MSG(name[0] && doc[0], "row %d of table %d", i, (int)table);
        CHECK_MSG(available ? !why[0] : why[0] != 0, "%s: \"%s\"", name, why);
        if (strcmp(name, wanted) == 0) *found = available;
    }
    CHECK(!banyan_list(table, i + 1, &name, &doc, &available, &why));
    return i;
}

/* A struct's .name is written by hand: another one than its row's is found by nobody. */
static void check_name(banyan_table table, const char *own)
{
    const char *name;
    int i = 0;
    while (banyan_list(table, i, &name, NULL, NULL, NULL) && strcmp(name, own) != 0) i++;
    CHECK_MSG(banyan_list(table, i, NULL, NULL, NULL, NULL),
              "a struct has .name = \"%s\", and no row of its table is called so", own);
}

static void test_names(void)
{
    for (int i = 0; banyan_selector_row(i); i++)
        check_name(BANYAN_SELECTORS, banyan_selector_row(i)->name);
    for (int i = 0; banyan_kernel_row(i); i++)
        check_name(BANYAN_KERNELS, banyan_kernel_row(i)->name);
    for (int i = 0; banyan_placement_row(i); i++)
        check_name(BANYAN_PLACEMENTS, banyan_placement_row(i)->name);
    for (int i = 0; banyan_merge_row(i); i++)
        check_name(BANYAN_MERGES, banyan_merge_row(i)->name);
    for (int i = 0; banyan_transport_row(i); i++)
        check_name(BANYAN_TRANSPORTS, banyan_transport_row(i)->name);
}

int main(void)
{
    static const char *const wanted[] = {
        [BANYAN_SELECTORS] = "s2",  [BANYAN_KERNELS] = "scalar",  [BANYAN_PLACEMENTS] = "line",
        [BANYAN_MERGES] = "direct", [BANYAN_TRANSPORTS] = "self",
    };
    int found, kernels = 0, transports = 0;
    for (int table = 0; table < 5; table++) {
        CHECK(rows_of((banyan_table)table, wanted[table], &found) >= 2);
        CHECK_MSG(found, "%s", wanted[table]);
    }
    CHECK(!banyan_list((banyan_table)5, 0, NULL, NULL, NULL, NULL));
    CHECK(!banyan_list(BANYAN_MERGES, -1, NULL, NULL, NULL, NULL));
    CHECK(banyan_list(BANYAN_MERGES, 0, NULL, NULL, NULL, NULL));

    /* A build leaves out transports that it cannot make, and kernels of other processors; they
     * are listed all the same. */
    while (banyan_kernel_row(kernels)) kernels++;
    while (banyan_transport_row(transports)) transports++;
    CHECK(rows_of(BANYAN_KERNELS, "avx2", &found) >= kernels);
    CHECK(rows_of(BANYAN_TRANSPORTS, "mpi", &found) >= transports);
    test_names();
    return test_end();
}
