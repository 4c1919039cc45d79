/* SPDX-License-Identifier: Apache-2.0 */
/* Threads inside a rank: the one place that starts them. Results never depend on which thread
 * did what, only on how work was cut, so the order is free. */
#include "dist/cache.h"

#ifdef _OPENMP
#include <omp.h>
#endif
#include <time.h>

void banyan_each(int32_t threads, int64_t count, banyan_body body, void *arg)
{
#ifdef _OPENMP
    if (threads > 1 && count > 1) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
        for (int64_t i = 0; i < count; i++) body(arg, i, omp_get_thread_num());
        return;
    }
#else
    (void)threads;
#endif
    for (int64_t i = 0; i < count; i++) body(arg, i, 0);
}

double banyan_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
