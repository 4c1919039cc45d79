/* SPDX-License-Identifier: Apache-2.0 */
/* settings.h - what emulator.h and the environment set. */
#ifndef BANYAN_TESTS_EMU_SETTINGS_H
#define BANYAN_TESTS_EMU_SETTINGS_H

#include "emulator.h"

#include <atomic>

namespace emu
{

struct settings {
    std::atomic<int> mode, devices, capability, code, multiprocessors, guard, idle;
    std::atomic<size_t> memory;
    std::atomic<int64_t> kernels, copies, events; /* so many were asked for */
    std::atomic<int64_t> to_device, to_host;
    std::atomic<uint64_t> seed; /* the next kernel's, or the next choice's */
};
settings &get_settings();
uint64_t next_seed(); /* mixed: its bits may be used as they are */
int shared_limit();   /* bytes of shared memory that a block may have */

} // namespace emu
#endif
