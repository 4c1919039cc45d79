/* SPDX-License-Identifier: Apache-2.0 */
/* How much of this process is in memory. */
#include "launch/launch.h"

#include <unistd.h>

int64_t memory_resident(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long long size, resident = 0;
    if (!f) return 0;
    if (fscanf(f, "%lld %lld", &size, &resident) != 2) resident = 0;
    fclose(f);
    return resident * sysconf(_SC_PAGESIZE);
}
