/* SPDX-License-Identifier: Apache-2.0 */
/* memory.h - device memory, and page-locked memory of the host. */
#ifndef BANYAN_TESTS_EMU_MEMORY_H
#define BANYAN_TESTS_EMU_MEMORY_H

#include <stddef.h>

namespace emu
{

enum class memory { pageable, locked, device };

void *memory_take(memory kind, size_t bytes); /* filled with NaNs; NULL: there is no more */
bool memory_give(memory kind, void *p);       /* false: it is not the beginning of one */
bool memory_lock(void *p, size_t bytes);      /* the caller's own: cudaHostRegister */
size_t memory_taken();                        /* bytes of device memory */
memory memory_kind(const void *p);
bool memory_holds(memory kind, const void *p, size_t bytes); /* in one piece of it */
bool memory_reaches(const void *p, size_t bytes);            /* may a kernel read it? */

/* Between them, for as many threads as there are, device memory may be touched. */
void memory_open();
void memory_close();

} // namespace emu
#endif
