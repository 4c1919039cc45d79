/* SPDX-License-Identifier: Apache-2.0 */
/* local_cuda.h - ranks that are threads, each with a CUDA stream: several on one device. */
#ifndef BANYAN_TESTS_LOCAL_CUDA_H
#define BANYAN_TESTS_LOCAL_CUDA_H

#include "tests/comm/local.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const local_device local_cuda; /* for local_create; streams are cudaStream_t */

#ifdef __cplusplus
}
#endif
#endif
