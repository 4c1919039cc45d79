/* SPDX-License-Identifier: Apache-2.0 */
/* OpenBLAS, set for one rank of many: one thread (a rank's threads are the library's), and the
 * kernels that the processor deserves.
 *
 * It chooses its kernels when it is loaded, before main. 0.3.21 (Debian 12) takes AVX-512
 * processors that it does not know for Haswell, at half their speed, and nothing that it
 * exports can change the choice later. Then the program starts itself once more with
 * OPENBLAS_CORETYPE set; before MPI is initialised that is free of consequences. A user's own
 * setting stays. */
#include "launch/command.h"

#include <cblas.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool has_avx512(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
}

static bool uses_it(void)
{
    static const char *const wide[] = {"SkylakeX", "Cooperlake", "SapphireRapids"};
    for (size_t i = 0; i < sizeof wide / sizeof wide[0]; i++)
        if (!strcmp(openblas_get_corename(), wide[i])) return true;
    return false;
}

void blas_choose(char **argv)
{
    if (!getenv("OPENBLAS_NUM_THREADS")) openblas_set_num_threads(1);
    if (!has_avx512() || uses_it() || getenv("OPENBLAS_CORETYPE")) return;
    char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0 || setenv("OPENBLAS_CORETYPE", "SkylakeX", 0)) return;
    path[length] = 0;
    execv(path, argv); /* returns only on failure: then matrices are slower, and right */
}
