/* SPDX-License-Identifier: Apache-2.0 */
/* --help, printed from the tables: nothing here names a verb or a flag. */
#include "launch/columns.h"
#include "launch/command.h"

#include <string.h>

void help_program(FILE *out)
{
    fprintf(out, "usage: banyan VERB [--config FILE] [--set FIELD=VALUE].. [flags]\n"
                 "       mpirun -np RANKS banyan VERB ..\n\nverbs:\n");
    for (const verb_entry *e = verb_table; e->name; e++)
        fprintf(out, "  %-10s %s\n", e->name, e->doc);
    fprintf(
        out,
        "\n\"banyan VERB --help\" lists a verb's flags, \"banyan list --fields\" the fields "
        "of a config.\n"
        "Exit codes: 0 all is well; 1 measured is not what was expected; 2 bad input; "
        "3 the run failed.\n");
}

/* The names of a table's rows, for "{merges}" in a text. */
static const struct {
    const char *word;
    banyan_table table;
} tables[] = {{"{selectors}", BANYAN_SELECTORS},
              {"{kernels}", BANYAN_KERNELS},
              {"{placements}", BANYAN_PLACEMENTS},
              {"{merges}", BANYAN_MERGES},
              {"{transports}", BANYAN_TRANSPORTS}};
enum { TABLES = sizeof tables / sizeof *tables };

static void help_names(FILE *out, banyan_table table)
{
    const char *name;
    for (int i = 0; banyan_list(table, i, &name, NULL, NULL, NULL); i++)
        fprintf(out, "%s%s", i ? ", " : "", name);
}

static void help_text(FILE *out, const char *text)
{
    while (*text) {
        int t = 0;
        while (t < TABLES && strncmp(text, tables[t].word, strlen(tables[t].word)) != 0) t++;
        if (t == TABLES) {
            fputc(*text++, out);
            continue;
        }
        help_names(out, tables[t].table);
        text += strlen(tables[t].word);
    }
}

enum { DOC = 25 }; /* where what is said of a flag begins */

static void help_flags(FILE *terminal, const flag *f)
{
    wrapping w;
    FILE *out = wrapped_begin(&w, terminal);
    for (; f && f->name; f++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", f->name, f->arg ? " " : "",
                 f->arg ? f->arg : "");
        fprintf(out, "  %-22s ", left);
        help_text(out, f->doc);
        if (f->field) fprintf(out, " (%s)", f->field);
        fputc('\n', out);
    }
    wrapped_end(&w, false, DOC);
}

void help_verb(FILE *out, const verb_entry *entry)
{
    const verb *v = entry->verb;
    const flag *operand = v->operand ? v->flags : NULL;
    while (operand && strcmp(operand->name, v->operand)) operand++;
    fprintf(out, "usage: %sbanyan %s %s%s[flags]\n\n%s\n\nflags:\n",
            v->needs_comm ? "[mpirun -np RANKS] " : "", entry->name,
            operand ? operand->arg : "", operand ? " " : "", v->doc);
    help_flags(out, v->flags);
    fprintf(out, "flags of every verb:\n");
    help_flags(out, common_flags);
}
