/* SPDX-License-Identifier: Apache-2.0 */
/* The flags of a verb: "--name VALUE", "--name=VALUE", or "--name" for a switch. The words are
 * read twice: once to check them all before anything is done, and once, when the config file
 * has been read, to lay --set and the flags that stand for a config field over it, in the order
 * given. */
#include "launch/command.h"

#include <stdlib.h>
#include <string.h>

/* One flag of a command line. */
typedef struct given {
    const flag *flag;
    int index; /* among the verb's flags, then the common ones */
    char *value;
} given;

static int count_flags(const flag *f)
{
    int n = 0;
    while (f && f[n].name) n++;
    return n;
}

static const flag *flag_at(const verb *v, int index)
{
    int own = count_flags(v->flags);
    return index < own ? &v->flags[index] : &common_flags[index - own];
}

static void say_unknown(const job *j, const char *name)
{
    int count = count_flags(j->verb->flags) + count_flags(common_flags);
    const char *names[count + 1];
    for (int i = 0; i < count; i++) names[i] = flag_at(j->verb, i)->name;
    names[count] = NULL;
    const char *near = banyan_nearest(name, names);
    if (near)
        say_error(j, "no flag \"--%s\" in %s; did you mean \"--%s\"?", name, j->verb->name,
                  near);
    else
        say_error(j, "no flag \"--%s\" in %s; \"banyan %s --help\" lists them", name,
                  j->verb->name, j->verb->name);
}

/* The flag that *words begins with; moves past it. false: reported, or the end (out->flag
 * NULL). */
static bool next_flag(const job *j, char ***words, given *out)
{
    *out = (given){0};
    char *word = **words;
    if (!word) return false;
    if (!strcmp(word, "-h")) word = "--help";
    const char *operand = j->verb->operand;
    for (int i = 0; operand && word[0] != '-' && i < count_flags(j->verb->flags); i++) {
        if (strcmp(j->verb->flags[i].name, operand)) continue;
        *out = (given){.flag = &j->verb->flags[i], .index = i, .value = word};
        ++*words;
        return true;
    }
    if (strncmp(word, "--", 2) || !word[2]) {
        say_error(j, "\"%s\" is not expected here; flags begin with \"--\"", word);
        return false;
    }
    char name[128];
    char *equal = strchr(word, '=');
    snprintf(name, sizeof name, "%.*s", equal ? (int)(equal - word - 2) : (int)strlen(word) - 2,
             word + 2);
    int count = count_flags(j->verb->flags) + count_flags(common_flags);
    for (int i = 0; i < count && !out->flag; i++)
        if (!strcmp(flag_at(j->verb, i)->name, name))
            *out = (given){.flag = flag_at(j->verb, i), .index = i};
    if (!out->flag) {
        say_unknown(j, name);
        return false;
    }
    ++*words;
    if (!out->flag->arg) {
        out->value = "true";
        if (!equal) return true;
        say_error(j, "--%s is a switch: it takes no value, got \"%s\"", name, equal + 1);
    } else {
        out->value = equal ? equal + 1 : **words;
        if (out->value) {
            if (!equal) ++*words;
            return true;
        }
        say_error(j, "--%s needs a value: --%s %s", name, name, out->flag->arg);
    }
    out->flag = NULL;
    return false;
}

bool command_parse(job *j, char **words)
{
    int count = count_flags(j->verb->flags) + count_flags(common_flags);
    j->value = calloc((size_t)count, sizeof *j->value);
    if (!j->value) return say_error(j, "out of memory"), false;
    while (*words) {
        given g;
        if (!next_flag(j, &words, &g)) return false;
        const char *before = j->value[g.index];
        /* of other flags the last counts; two configs might be meant to be laid over each
         * other */
        if (before && !strcmp(g.flag->name, "config")) {
            say_error(j, "--%s is given twice: \"%s\" and \"%s\"", g.flag->name, before,
                      g.value);
            return false;
        }
        j->value[g.index] = g.value;
    }
    return true;
}

bool job_given(const job *j, int index, const char **name, const char **value)
{
    given g = {0};
    char **words = j->words;
    for (int i = 0; i <= index; i++)
        if (!*words || !next_flag(j, &words, &g)) return false; /* checked: it is the end */
    *name = g.flag->name;
    *value = g.value;
    return true;
}

static bool apply(const job *j, const given *g)
{
    char why[512], path[256];
    if (g->flag->field) {
        if (config_set(j->config, g->flag->field, g->value, why, sizeof why)) return true;
        say_error(j, "--%s: %s", g->flag->name, why);
        return false;
    }
    if (strcmp(g->flag->name, "set")) return true;
    const char *equal = strchr(g->value, '=');
    if (!equal || equal - g->value >= (ptrdiff_t)sizeof path) {
        say_error(j, "--set \"%s\": expected FIELD=VALUE", g->value);
        return false;
    }
    snprintf(path, sizeof path, "%.*s", (int)(equal - g->value), g->value);
    if (config_set(j->config, path, equal + 1, why, sizeof why)) return true;
    say_error(j, "--set %s: %s", g->value, why);
    return false;
}

bool command_apply(const job *j, char **words)
{
    while (*words) {
        given g;
        if (!next_flag(j, &words, &g) || !apply(j, &g)) return false;
    }
    return true;
}
