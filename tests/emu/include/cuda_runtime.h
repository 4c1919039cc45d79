/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_runtime.h - CUDA C's own words, for kernels compiled as plain C++ and run by tests/emu:
 * the host's functions, the qualifiers, small vectors, the indices, launches and the built-in
 * functions. */
#ifndef BANYAN_EMU_CUDA_RUNTIME_H
#define BANYAN_EMU_CUDA_RUNTIME_H

#include "cuda_runtime_api.h"

#ifdef __cplusplus
#include "emu_vectors.h"
#include "emu_launch.h"
#include "emu_device.h"
#endif
#endif
