/* SPDX-License-Identifier: Apache-2.0 */
/* What control groups leave of the memory. A process is in a group, and that in others: each of
 * them may have a limit, and the kernel kills who passes any. /proc/self/cgroup names the group
 * by its path from a hierarchy's root (cgroups(7)):
 *
 *     0::/slurm/job_7/step_0                version 2, mounted at /sys/fs/cgroup (or unified/
 *                                           in it)
 *     9:memory:/slurm/job_7/step_0          version 1, mounted at /sys/fs/cgroup/memory
 *
 * In a container the path may lead to nothing, since the mount begins at a group of the host's
 * path: the groups that are not there are passed over, and the mount's root is looked at in any
 * case. */
#include "dist/plan.h"

#include <stdio.h>
#include <string.h>

enum { path_bytes = 4096 };

/* One version's files. Pages of files count as used, though they can be dropped. */
typedef struct version {
    const char *mount, *limit, *used, *droppable;
} version;

static const version unified = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                "inactive_file"};
static const version hybrid = {"/sys/fs/cgroup/unified", "memory.max", "memory.current",
                               "inactive_file"};
static const version first = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                              "memory.usage_in_bytes", "total_inactive_file"};

static FILE *open_in(const char *folder, const char *name)
{
    char path[path_bytes + 64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return fopen(path, "r");
}

/* A number in a one-line file, or -1. */
static int64_t read_group_number(const char *folder, const char *name)
{
    long long value = -1;
    FILE *file = open_in(folder, name);
    if (!file) return -1;
    if (fscanf(file, "%lld", &value) != 1) value = -1;
    fclose(file);
    return value;
}

/* What may still be taken within a group's own limit; -1 without one. */
static int64_t group_free(const version *v, const char *folder)
{
    const int64_t most = read_group_number(folder, v->limit),
                  now = read_group_number(folder, v->used);
    if (most < 0 || now < 0) return -1;
    int64_t files = 0;
    char name[64];
    long long value;
    FILE *file = open_in(folder, "memory.stat");
    while (file && fscanf(file, "%63s %lld", name, &value) == 2)
        if (strcmp(name, v->droppable) == 0) files = value;
    if (file) fclose(file);
    return most > now - files ? most - (now - files) : 0;
}

static int64_t lesser(int64_t a, int64_t b)
{
    return a < 0 || (b >= 0 && b < a) ? b : a;
}

/* The least of a group and of those that it is in. */
static int64_t least_of(const char *root, const version *v, const char *group)
{
    char folder[path_bytes];
    const int mount = snprintf(folder, sizeof folder, "%s%s", root, v->mount);
    snprintf(folder + mount, sizeof folder - (size_t)mount, "%s", group);
    int64_t least = -1;
    for (;;) {
        least = lesser(least, group_free(v, folder));
        char *slash = strrchr(folder + mount, '/');
        if (!slash) return least;
        *slash = 0;
    }
}

int64_t banyan_groups_free(const char *root)
{
    char line[path_bytes];
    int64_t least = lesser(least_of(root, &unified, ""), least_of(root, &first, ""));
    FILE *file = open_in(root, "proc/self/cgroup");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *group = names ? strchr(names + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        char listed[path_bytes + 2];
        snprintf(listed, sizeof listed, ",%s,", names + 1);
        if (strstr(listed, ",memory,")) least = lesser(least, least_of(root, &first, group));
        if (names[1]) continue; /* of version 1, and not memory's */
        least = lesser(least, least_of(root, &unified, group));
        least = lesser(least, least_of(root, &hybrid, group));
    }
    if (file) fclose(file);
    return least;
}
