/* SPDX-License-Identifier: Apache-2.0 */
/* Switching stacks: the registers that a function must keep are pushed, the stack pointer is
 * exchanged, and those of the other are popped. swapcontext would do the same with two system
 * calls. */
#include "fiber.h"

#include <stdint.h>

#if defined(__x86_64__)

asm(".text\n"
    ".globl emu_switch\n"
    ".type emu_switch, @function\n"
    "emu_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size emu_switch, .-emu_switch\n");

void *emu::fiber_prepare(void *top, void (*entry)())
{
    uintptr_t *stack = (uintptr_t *)top;
    *--stack =
        0; /* where entry would return to; also makes it 16-byte aligned as after a call */
    *--stack = (uintptr_t)entry;
    for (int i = 0; i < 6; i++) *--stack = 0;
    return stack;
}

#elif defined(__aarch64__)

asm(".text\n"
    ".globl emu_switch\n"
    ".type emu_switch, %function\n"
    "emu_switch:\n"
    "  sub sp, sp, #160\n"
    "  stp x19, x20, [sp, #0]\n  stp x21, x22, [sp, #16]\n  stp x23, x24, [sp, #32]\n"
    "  stp x25, x26, [sp, #48]\n  stp x27, x28, [sp, #64]\n  stp x29, x30, [sp, #80]\n"
    "  stp d8, d9, [sp, #96]\n  stp d10, d11, [sp, #112]\n"
    "  stp d12, d13, [sp, #128]\n  stp d14, d15, [sp, #144]\n"
    "  mov x9, sp\n  str x9, [x0]\n  mov sp, x1\n"
    "  ldp x19, x20, [sp, #0]\n  ldp x21, x22, [sp, #16]\n  ldp x23, x24, [sp, #32]\n"
    "  ldp x25, x26, [sp, #48]\n  ldp x27, x28, [sp, #64]\n  ldp x29, x30, [sp, #80]\n"
    "  ldp d8, d9, [sp, #96]\n  ldp d10, d11, [sp, #112]\n"
    "  ldp d12, d13, [sp, #128]\n  ldp d14, d15, [sp, #144]\n"
    "  add sp, sp, #160\n"
    "  ret\n"
    ".size emu_switch, .-emu_switch\n");

void *emu::fiber_prepare(void *top, void (*entry)())
{
    uintptr_t *stack = (uintptr_t *)top - 20;
    for (int i = 0; i < 20; i++) stack[i] = 0;
    stack[11] = (uintptr_t)entry; /* x30: where emu_switch returns to */
    return stack;
}

#else

#include <ucontext.h>

namespace
{
struct saved {
    ucontext_t context;
};
} // namespace

void *emu::fiber_prepare(void *top, void (*entry)())
{
    const size_t bytes = 60 << 10; /* of the stack below; block.cc gives more */
    saved *const to = (saved *)((uintptr_t)top - (sizeof(saved) + 15) / 16 * 16);
    getcontext(&to->context);
    to->context.uc_stack.ss_sp = (char *)to - bytes;
    to->context.uc_stack.ss_size = bytes;
    to->context.uc_link = nullptr;
    makecontext(&to->context, entry, 0);
    return to;
}

extern "C" void emu_switch(void **save, void *to)
{
    saved here;
    *save = &here;
    swapcontext(&here.context, &((saved *)to)->context);
}

#endif
