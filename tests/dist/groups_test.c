/* SPDX-License-Identifier: Apache-2.0 */
/* What is left of control groups, in made-up trees of /proc and /sys: of both versions, with
 * limits at every level, and as containers see them. */
#include "dist/plan.h"
#include "tests/test.h"

#include <sys/stat.h>
#include <unistd.h>

static char root[] = "/tmp/banyan_groups_XXXXXX";

/* A file below the root, and the folders above it. */
static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *c = full + strlen(root) + 1; (c = strchr(c, '/')); *c++ = '/') {
        *c = 0;
        mkdir(full, 0777);
    }
    FILE *f = fopen(full, "w");
    if (!f) exit(99);
    fputs(text, f);
    fclose(f);
}

static void expect(int64_t want)
{
    const int64_t got = banyan_groups_free(root);
    CHECK_MSG(got == want, "%lld instead of %lld", (long long)got, (long long)want);
}

static void fresh(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", root);
    if (system(command) || mkdir(root, 0777)) exit(99);
}

static void check_second(void)
{
    expect(-1);
    put("proc/self/cgroup", "0::/slurm/job/step\n");
    put("sys/fs/cgroup/slurm/job/step/memory.max", "max\n");
    put("sys/fs/cgroup/slurm/job/step/memory.current", "10\n");
    expect(-1);
    put("sys/fs/cgroup/slurm/job/memory.max", "1000\n");
    put("sys/fs/cgroup/slurm/job/memory.current", "400\n");
    expect(600);
    put("sys/fs/cgroup/slurm/job/memory.stat", "anon 300\ninactive_file 100\nfile 90\n");
    expect(700);
    put("sys/fs/cgroup/slurm/memory.max", "5000\n");
    put("sys/fs/cgroup/slurm/memory.current", "4800\n");
    expect(200);
    put("sys/fs/cgroup/slurm/job/step/memory.max", "100\n");
    expect(90);
    put("sys/fs/cgroup/slurm/job/step/memory.current", "150\n");
    expect(0);
}

static void check_first(void)
{
    put("proc/self/cgroup", "3:cpu,cpuacct:/cpus\n2:memory:/a/b\n1:name=systemd:/a\n0::/\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n");
    put("sys/fs/cgroup/memory/cpus/memory.limit_in_bytes",
        "1\n"); /* another hierarchy's path */
    put("sys/fs/cgroup/memory/cpus/memory.usage_in_bytes", "1\n");
    expect(INT64_C(9223372036854771712));
    put("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3000\n");
    put("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "1000\n");
    put("sys/fs/cgroup/memory/a/memory.stat", "total_inactive_file 500\n");
    put("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "900\n");
    expect(2500);
    put("proc/self/cgroup", "2:pids,memory:/a/b\n"); /* mounted with another controller */
    expect(2500);
}

/* The mount is the container's own group, the path the host's; and a path of nothing but
 * garbage. */
static void check_container(void)
{
    put("proc/self/cgroup", "0::/docker/0123\n");
    put("sys/fs/cgroup/memory.max", "700\n");
    put("sys/fs/cgroup/memory.current", "200\n");
    expect(500);
    put("proc/self/cgroup", "nothing\n::\n0:\n:::::\n");
    expect(500);
    put("sys/fs/cgroup/memory.max", "-3 garbage\n");
    expect(-1);
    put("proc/self/cgroup", "0::/x\n");
    put("sys/fs/cgroup/unified/x/memory.max", "50\n");
    put("sys/fs/cgroup/unified/x/memory.current", "20\n");
    expect(30);
}

int main(void)
{
    if (!mkdtemp(root)) return 99;
    check_second();
    fresh();
    check_first();
    fresh();
    check_container();
    fresh();
    rmdir(root);
    return test_end();
}
