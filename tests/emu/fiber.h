/* SPDX-License-Identifier: Apache-2.0 */
/* fiber.h - another stack to run on. */
#ifndef BANYAN_TESTS_EMU_FIBER_H
#define BANYAN_TESTS_EMU_FIBER_H

#include <stddef.h>

namespace emu
{

/* What emu_switch needs to begin entry() on a stack that ends at `top` (16-byte aligned). entry
 * never returns. */
void *fiber_prepare(void *top, void (*entry)());

} // namespace emu

/* *save becomes what resumes the caller; goes on where `to` was saved. */
extern "C" void emu_switch(void **save, void *to);

#endif
