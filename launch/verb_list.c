/* SPDX-License-Identifier: Apache-2.0 */
/* banyan list: the tables of this build, so that a name need never be guessed. */
#include "launch/columns.h"
#include "launch/command.h"
#include "launch/model/family.h"
#include "launch/needle/evaluate.h"

#include <jansson.h>
#include <stdlib.h>

static const struct {
    banyan_table table;
    const char *title;
} tables[] = {{BANYAN_SELECTORS, "selectors"},
              {BANYAN_KERNELS, "kernels"},
              {BANYAN_PLACEMENTS, "placements"},
              {BANYAN_MERGES, "merges"},
              {BANYAN_TRANSPORTS, "transports"}};

enum { DOC = 17 }; /* where what is said of a name begins */

static void print_params(const char *selector, bool is_wide)
{
    const char *name, *value, *doc;
    for (int i = 0; banyan_list_param(selector, i, &name, &value, &doc); i++)
        wrapped(stdout, is_wide, DOC + 2, "  %-14s %s=%s  %s", "", name, value, doc);
}

static void print_table(int t, bool is_wide, FILE *json)
{
    const char *name, *doc, *why;
    int available;
    printf("%s:\n", tables[t].title);
    for (int i = 0; banyan_list(tables[t].table, i, &name, &doc, &available, &why); i++) {
        wrapped(stdout, is_wide, DOC, "  %-14s %s%s%s%s", name, doc,
                available ? "" : " (not available: ",
                available ? ""
                : why     ? why
                          : "not in this build",
                available ? "" : ")");
        if (tables[t].table == BANYAN_SELECTORS) print_params(name, is_wide);
        if (!json) continue;
        json_t *line = json_pack("{s:s,s:s,s:s,s:b}", "table", tables[t].title, "name", name,
                                 "doc", doc, "available", available);
        output_line(json, line);
    }
    putchar('\n');
}

static void print_row(const job *j, const char *title, const char *name, const char *doc,
                      FILE *json)
{
    wrapped(stdout, job_switch(j, "wide"), DOC, "  %-14s %s", name, doc);
    if (json)
        output_line(json, json_pack("{s:s,s:s,s:s,s:b}", "table", title, "name", name, "doc",
                                    doc, "available", 1));
}

/* The tables of launch/. */
static void print_own(const job *j, FILE *json)
{
    printf("model families:\n");
    for (int i = 0; family_row(i); i++)
        print_row(j, "model families", family_name(i), family_doc(i), json);
    printf("\nrotary kinds:\n");
    for (int i = 0; rope_kind(i); i++)
        print_row(j, "rotary kinds", rope_kind(i)->name, rope_doc(i), json);
    printf("\nneedle tasks:\n");
    for (int t = 0; task_row(t); t++)
        print_row(j, "needle tasks", task_row(t)->name, task_row(t)->doc, json);
    printf("\nverbs:\n");
    for (const verb_entry *e = j->verbs; e->name; e++)
        print_row(j, "verbs", e->name, e->doc, json);
}

static int list_run(job *j)
{
    if (job_switch(j, "fields")) {
        config_print_fields(stdout);
        return EXIT_OK;
    }
    output_file *json = NULL;
    const char *path = job_text(j, "json");
    if (path && !(json = output_open(j, path))) return EXIT_FAILED;
    for (int t = 0; t < (int)(sizeof tables / sizeof tables[0]); t++)
        print_table(t, job_switch(j, "wide"), json ? output_stream(json) : NULL);
    print_own(j, json ? output_stream(json) : NULL);
    return output_close(json, j, true);
}

static const flag flags[] = {
    {"fields", NULL, NULL, "list the fields of a config and their types instead"},
    {NULL, NULL, NULL, NULL}};

const verb verb_list = {
    .name = "list",
    .doc =
        "Prints the tables of this build: selectors with their "
        "parameters, kernels, placements,\n"
        "merges, transports, model families and verbs, and whether this machine can run them.",
    .flags = flags,
    .run = list_run};
