/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BANYAN_TESTS_FAKE_DEVICE_H
#define BANYAN_TESTS_FAKE_DEVICE_H

#include "attention/attention.h"
#include "tests/comm/stream.h"

#include <math.h>

extern int64_t fake_memory_free; /* what its memory_free says */
extern int64_t fake_waits;       /* how often a queue was waited for */

#endif
